"""What holds for every test."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

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
