"""`sattn demo` as a user runs it, and the page it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sattn_edge.demo import agreement, timeline

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


def test_two_journals_beside_each_other(tmp_path: Path) -> None:
    truth = ["PEN", "PEN", "PULL", None]
    given = {"fp32": ["PEN", "PEN", "PULL", "PEN"], "int8": ["PEN", "PULL", "PULL", "PULL"]}
    for name, labels in given.items():
        rows = [_line(i, g, t, stream) for stream in "ab" for i, (g, t) in enumerate(zip(labels, truth, strict=True))]
        (tmp_path / name).write_text("\n".join([json.dumps({"type": "start"}), *rows]) + "\n")
    assert [line.split() for line in agreement(tmp_path / "fp32", tmp_path / "int8", "b")] == [
        ["windows", "FP32", "INT8", "same", "label"],
        ["a,", "new", "to", "it", "4", "100.0%", "66.7%", "50.0%"],
        ["b,", "its", "ranges", "are", "from", "here", "4", "100.0%", "66.7%", "50.0%"],
    ]


@pytest.mark.torch
def test_demo_runs_and_says_where_its_files_are(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "sattn_edge", "demo", "--out", "here"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "drained on SIGTERM" in done.stdout
    for name in ("watch.onnx", "decisions.jsonl", "decisions_int8.jsonl"):
        assert f"here/{name}" in done.stdout
        assert (tmp_path / "here" / name).stat().st_size > 0
    accuracy = next(line for line in done.stdout.splitlines() if line.startswith("accuracy"))
    assert float(accuracy.split()[1].rstrip("%,")) > 70
    (unseen,) = (line for line in done.stdout.splitlines() if "session_sub08, new to it" in line)
    assert float(unseen.split()[-1].rstrip("%")) > 95


def test_demo_in_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "sattn_edge", "demo", "--out", "file/below"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--out: 'file/below' can't be written" in done.stderr
