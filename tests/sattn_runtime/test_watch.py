"""`--watch`: its picture from plain numbers, and the real command on a real terminal."""

from __future__ import annotations

import dataclasses
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.errors import UsageError
from sattn_runtime.run import RunOptions, run
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from sattn_runtime.watch import Watch
from sattn_runtime.watch_view import BLOCKS, Shown, picture, sparkline
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import command_line, environment, lines_of
from tests.sattn_runtime.sources.helpers_serial import wait_until

SHOWN = Shown(
    stream="imu",
    channels=("ax", "gyro z"),
    units=("g", ""),
    samples=np.stack([np.arange(80, dtype=np.float32), np.full(80, np.nan, np.float32)], 1),
    seconds=10.0,
    label="walk",
    reason=None,
    score=0.75,
    window=12,
    lasting_s=2.5,
    attention=None,
    counts={"windows": 13, "gaps": 2},
    latency_us={"p50": 120.0, "p99": 4500.0},
    deadline_us=160_000.0,
)


def line(values: list[float], width: int) -> str:
    return sparkline(np.array(values, np.float32), width)


def test_a_sparkline_by_hand():
    assert line([0, 1, 2, 3, 4, 5, 6, 7], 8) == BLOCKS
    assert line([7, 0], 2) == "█▁"
    assert line([0, 0, 7, 7], 2) == "▁█"
    assert line([3, 3, 3], 3) == "▄▄▄"
    assert line([1, 2], 5) == "···▁█"
    assert line([0, float("nan"), 7], 3) == "▁·█"
    assert line([0, float("inf"), 7, 7], 2) == "▁█"
    assert line([float("nan")] * 4, 3) == line([], 3) == "···"
    assert line([1.0], 0) == ""


def test_a_picture():
    lines = picture(SHOWN, 80)
    assert lines[0] == "imu, the last 10 s"
    assert lines[1].startswith("ax (g)  ▁")
    assert lines[1].rstrip().endswith("0 to 79")
    assert lines[2].startswith("gyro z  ·")
    assert lines[2].endswith("no finite value")
    assert lines[4] == f"window 12: walk  {'█' * 18}{'░' * 6} 0.75, for 2.5 s"
    assert lines[6] == "latency  p50 120 us  p99 4.50 ms  deadline 160.00 ms"
    assert lines[7] == "counts   windows 13  gaps 2"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(map(len, picture(SHOWN, width))) <= width


def test_no_number_is_cut_where_it_is_narrow():
    lines = picture(SHOWN, 34)
    assert lines[1] == f"ax (g)  {line(list(range(80)), 26)}"
    text = "\n".join(lines)
    for whole in (
        "window 12: walk\n",
        " 0.75, for 2.5 s\n",
        "p50 120 us",
        "p99 4.50 ms",
        "deadline 160.00 ms",
        "gaps 2",
    ):
        assert whole in text
    assert picture(SHOWN, 80)[1].endswith("0 to 79")


def test_the_decision_is_seen_where_it_is_low():
    names = tuple(f"c{i}" for i in range(40))
    shown = dataclasses.replace(SHOWN, channels=names, units=("",) * 40, samples=np.zeros((9, 40), np.float32))
    for height in (8, 12, 24):
        lines = picture(shown, 80, height)
        assert len(lines) == height
        assert [text for text in lines if text.startswith("window 12: walk")]
        assert lines[-1] == "counts   windows 13  gaps 2"
        assert sum(text.startswith("c") and text[1].isdigit() for text in lines) == height - 7
        assert f"... and {40 - (height - 7)} more channels" in lines
    assert len(picture(shown, 80)) == len(picture(shown, 80, 46)) == 46


def test_attention_is_shown_where_there_is_some():
    shown = dataclasses.replace(SHOWN, attention=[0.1, 0.2, 3.0, 0.1])
    (row,) = (text for text in picture(shown, 80) if text.startswith("attention"))
    assert "▁▁█▁" in row
    assert not [text for text in picture(SHOWN, 80) if text.startswith("attention")]


def test_windows_without_a_decision():
    assert picture(dataclasses.replace(SHOWN, window=-1), 80)[4] == "waiting for the first window"
    unjudged = dataclasses.replace(SHOWN, label=None, score=None, reason="non-finite input", lasting_s=0.0)
    assert picture(unjudged, 80)[4] == "window 12: no decision (non-finite input), new"


def test_it_needs_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with pytest.raises(UsageError, match="--watch: stderr is no terminal; a terminal to draw on; leave it out in"):
        Watch()


class Silent(Watch):
    """Draws nothing, and keeps what it would have shown."""

    def _draw_all(self) -> None:
        self._ending.wait()


def test_it_shows_what_the_run_is_at(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    add_backend(monkeypatch, FakeEngine)
    signal_ = np.concatenate([np.zeros((400, 2)), np.ones((350, 2))]).astype(np.float32)
    signal_ += np.arange(750, dtype=np.float32)[:, None] * 1e-5
    np.savez(tmp_path / "r.npz", signal=signal_, channels=["c0", "c1"])
    watch = Silent()
    options = RunOptions(str(save_model(tmp_path)), f"replay:{tmp_path / 'r.npz'}", backend=BACKEND)
    result = run(options, tell=pytest.fail, stop=Stop(), observers=[watch])
    shown = watch.shown()
    assert shown is not None
    np.testing.assert_array_equal(shown.samples, signal_[250:])  # ten seconds at 50 Hz
    assert (shown.label, shown.window, shown.counts["windows"]) == ("l1", result.windows - 1, result.windows)
    assert 6.5 < shown.lasting_s < 7.0  # 350 samples are 7 s, of which the first windows are mixed
    assert shown.latency_us["p50"] == result.latency.total.summary_us()["p50"] > 0


def test_samples_are_kept_whatever_the_chunks(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    watch = Silent()
    watch._room = np.full((50, 1), np.nan, np.float32)
    values, begin, rng = np.arange(1000, dtype=np.float32)[:, None], 0, np.random.default_rng(0)
    while begin < 1000:
        end = min(1000, begin + int(rng.integers(0, 90)))
        watch.chunk("s", Chunk(values[begin:end], None))
        begin = end
        at = watch._taken % 50
        latest = np.concatenate([watch._room[at:], watch._room[:at]])
        wanted = values[max(0, end - 50) : end]
        np.testing.assert_array_equal(latest[50 - len(wanted) :], wanted)


def on_a_terminal(argv: list[str], seconds: float) -> tuple[int, str, bytes]:
    """(exit code, what the terminal got, stdout), interrupted after so long."""
    ours, theirs = pty.openpty()
    variables = {**environment(), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env=variables)
    os.close(theirs)
    drawn, until, sent = b"", time.monotonic() + 60, False
    ends = None
    while time.monotonic() < until:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                drawn += os.read(ours, 65536)
            except OSError:
                break
        if ends is None and "█".encode() in drawn:
            ends = time.monotonic() + seconds
        if ends is not None and not sent and time.monotonic() > ends:
            process.send_signal(signal.SIGINT)
            sent = True
    out, _ = process.communicate(timeout=30)
    os.close(ours)
    return process.returncode, drawn.decode(errors="replace"), out


def test_the_real_command_on_a_terminal(tmp_path: Path):
    time_s = np.arange(5000) / 50
    signal_ = np.stack([np.sin(time_s), np.cos(time_s)], 1).astype(np.float32)
    np.savez(tmp_path / "r.npz", signal=signal_, channels=["c0", "c1"])
    argv = command_line(
        "sattn-run", save_model(tmp_path), f"replay:{tmp_path / 'r.npz'}", "--speed", "10", "--watch", "--json"
    )
    code, drawn, out = on_a_terminal(argv, 1.0)
    assert code == 0
    assert out.startswith(b"{")
    for text in ("c0", "c1", "window ", "latency  p50", "deadline 160.00 ms", "counts   windows", "the last 10 s"):
        assert text in drawn, drawn[-2000:]
    assert drawn.count("the last 10 s") > 3  # it was drawn again and again


def test_a_terminal_that_takes_nothing_more_does_not_hold_up_the_end(tmp_path: Path):
    """Ctrl-S, or a connection that died: the picture stands still, and the report comes."""
    np.savez(tmp_path / "r.npz", signal=np.ones((30_000, 2), np.float32), channels=["c0", "c1"])
    replay, journal = f"replay:{tmp_path / 'r.npz'}", tmp_path / "j.jsonl"
    argv = command_line(
        "sattn-run", save_model(tmp_path), replay, "--speed", "10", "--watch", "--json", "--journal", journal
    )
    ours, theirs = pty.openpty()
    variables = {**environment(), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env=variables)
    try:
        wait_until("it is full", lambda: select.select([], [theirs], [], 0)[1] == [], 60)
        windows = len(lines_of(journal, "window"))
        wait_until("decisions go on", lambda: len(lines_of(journal, "window")) > windows, 30)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
        os.close(theirs)
        os.close(ours)
    assert process.returncode == 0
    assert out.startswith(b"{")
