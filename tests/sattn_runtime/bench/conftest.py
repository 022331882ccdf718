"""A model file and a run of it, for the suites that need one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sattn_runtime.bench.measure import bench
from sattn_runtime.bench.options import BenchOptions
from sattn_runtime.bench.results import Bench
from sattn_runtime.stop import Stop
from tests.helpers_model import save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def kept(model: Path) -> Bench:
    """A short real run."""
    options = BenchOptions(str(model), batches=(1, 2), windows=20, speed=500.0)
    return bench(options, stop=Stop(), tell=lambda _: None)
