"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Tests import onnxruntime on their own too; see sattn_edge.engine_onnxruntime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# No time limit on an example: the machine may be busy, and speed is for benchmarks. In CI the same examples every time,
# so that a change is judged by what it changed; elsewhere new ones.
settings.register_profile(
    "suite", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")
