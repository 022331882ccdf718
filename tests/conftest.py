"""What holds for every test."""

from __future__ import annotations

import os

# Tests import onnxruntime on their own too; see sattn_edge.engine_onnxruntime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
