"""Running commands in tests: in this process where nothing of the process itself is at stake, else in another."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sattn_edge import command
from tests.helpers_data import ROOT

FOLDERS = [str(ROOT), *(str(ROOT / stage) for stage in ("export", "calibration", "runtime"))]
ENTRY = {
    "sattn-run": "sattn_runtime.commands:run_main",
    "sattn-verify": "sattn_runtime.commands:verify_main",
    "sattn-inspect": "sattn_runtime.inspect_commands:inspect_main",
    "sattn-build": "sattn_runtime.build_commands:build_main",
    "sattn-bench": "sattn_runtime.bench_commands:bench_main",
    "sattn-doctor": "sattn_runtime.doctor_commands:doctor_main",
}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What stdout holds, which must be one JSON object and nothing else."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class Cli:
    """Commands in this process, their output caught at the file descriptors."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capfd, self._monkeypatch = capfd, monkeypatch

    def __call__(self, prog: str, *args: str | Path) -> Done:
        self._monkeypatch.setattr(command, "_printed_json", False)
        self._capfd.readouterr()
        code = 0
        try:
            module, function = ENTRY[prog].split(":")
            getattr(importlib.import_module(module), function)([str(a) for a in args])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        out, err = self._capfd.readouterr()
        return Done(code, out, err)


def environment() -> dict[str, str]:
    """The environment of a fresh interpreter that finds this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(FOLDERS), "PYTHONWARNINGS": "error"}


def command_line(prog: str, *args: str | Path) -> list[str]:
    """How to start a command in a fresh interpreter."""
    module, function = ENTRY[prog].split(":")
    code = f"from {module} import {function} as main; main()"
    return [sys.executable, "-c", code, *map(str, args)]


def start(prog: str, *args: str | Path, stdin: int | None = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Starts a command in another process, with pipes."""
    return subprocess.Popen(
        command_line(prog, *args),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def finish(process: subprocess.Popen[bytes], timeout_s: float = 60) -> Done:
    """Waits for its end; one that hangs is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the command hung; stdout {out[-500:]!r}, stderr {err[-500:]!r}")
    return Done(process.returncode, out.decode(), err.decode())


def run_code(code: str) -> str:
    """stdout of a snippet in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines_of(path: Path | str, kind: str | None = None) -> list[dict[str, Any]]:
    """A journal's lines, or those of one type."""
    text = Path(path).read_text()
    assert not text or text.endswith("\n")
    rows: Sequence[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if kind in (None, row["type"])]
