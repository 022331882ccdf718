"""What holds for every test."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.helpers_run import Cli

# Tests import onnxruntime on their own too; see sattn_edge.engine_onnxruntime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# What somebody built on this machine is nothing to the tests. The folder is never made: looking up makes none.
os.environ["SATTN_EDGE_STORE"] = str(Path(tempfile.gettempdir()) / f"sattn-edge-tests-{os.getpid()}")

# No time limit on an example: the machine may be busy, and speed is for benchmarks. In CI the same examples every time,
# so that a change is judged by what it changed; elsewhere new ones.
settings.register_profile(
    "suite", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs commands in this process."""
    from tests.helpers_run import Cli  # which imports ours, and that has to wait for the environment above

    return Cli(capfd, monkeypatch)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine store of the test's own: where it will lie."""
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"
