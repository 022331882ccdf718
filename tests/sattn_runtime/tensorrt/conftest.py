"""What suites of builds share: a model file, and the times of what is built from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sattn_runtime.tensorrt import shortcuts
from sattn_runtime.timing import CALLS
from tests.sattn_runtime.tensorrt.helpers_tensorrt import save


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model file, calibrated. Builds leave it as it is."""
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Sets the time in us of a window through each shortcut; others take 100."""

    def set_times(**times: float) -> None:
        def timed(engines, window, rounds):
            names = [e._executor.shortcut.text.replace(" memory", "").replace(", CUDA ", "_") for e in engines]
            return np.array([np.full((rounds, CALLS), times.get(name, 100.0)) for name in names])

        monkeypatch.setattr(shortcuts, "time_in_turns", timed)

    set_times()
    return set_times
