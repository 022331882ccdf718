"""Opening an engine leaves nothing in the user's home: ONNX Runtime's telemetry is off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_nothing_is_left_in_the_home_folder(tmp_path: Path) -> None:
    code = "import os, sattn_edge.engine_onnxruntime as e; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment = {**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_user_who_wants_it_keeps_it(tmp_path: Path) -> None:
    code = "import os, sattn_edge.engine_onnxruntime as e; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
