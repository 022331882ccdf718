"""`sattn demo` as a user runs it, and the page it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sattn_edge.demo import timeline

ROOT = Path(__file__).resolve().parents[1]


def _line(window: int, label: str | None, truth: str | None, stream: str = "a") -> str:
    return json.dumps({"type": "window", "stream": stream, "window": window, "label": label, "truth": truth})


def test_timeline_marks_what_is_wrong(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    rows = [("PEN", "PEN"), ("PEN", "PULL"), ("PULL", "PULL"), ("PULL", None)]
    lines = [json.dumps({"type": "start"})] + [_line(i, g, t) for i, (g, t) in enumerate(rows)]
    journal.write_text("\n".join(lines) + "\n")
    assert timeline(journal, ["PEN", "PULL"], colour=False) == [
        "a",
        "  true   PUU.",
        "  given  PpUU",
        "  P PEN  U PULL  . between two exercises",
    ]
    assert "\x1b[1;31mP\x1b[0m" in timeline(journal, ["PEN", "PULL"], colour=True)[2]


def test_timeline_of_a_long_stream_fits_a_terminal(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    journal.write_text("\n".join(_line(i, "A", "A") for i in range(1000)) + "\n")
    assert max(len(line) for line in timeline(journal, ["A"], colour=False)) <= 90


@pytest.mark.torch
def test_demo_runs_and_says_where_its_files_are(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "sattn_edge", "demo", "--out", "here"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "drained on SIGTERM" in done.stdout
    for name in ("watch.onnx", "decisions.jsonl"):
        assert f"here/{name}" in done.stdout
        assert (tmp_path / "here" / name).stat().st_size > 0
    accuracy = next(line for line in done.stdout.splitlines() if line.startswith("accuracy"))
    assert float(accuracy.split()[1].rstrip("%,")) > 70


def test_demo_in_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "sattn_edge", "demo", "--out", "file/below"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--out: 'file/below' can't be written" in done.stderr
