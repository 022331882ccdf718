"""What a person sees while engines are built."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.progress import Progress

from sattn_runtime.build_progress import Bar, Heartbeat, build_progress
from tests.helpers_run import environment

Row = tuple[str, float, float | None]


@pytest.fixture
def shown() -> Progress:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    return Progress(console=console, auto_refresh=False)


def row(shown: Progress) -> Row:
    """Words, steps done, and of how many, of the newest row."""
    task = shown.tasks[-1]
    return task.description, task.completed, task.total


def test_the_bar_counts_the_steps_of_the_outermost_phase(shown):
    bar = Bar(shown)
    bar.begins("gemm, fp16")
    assert row(shown) == ("gemm, fp16", 0, None)  # how much there is to do is not known yet
    bar.phase("Building engine", "", 3)
    assert row(shown) == ("gemm, fp16", 0, 3)
    bar.step("Building engine", 0)
    assert row(shown) == ("gemm, fp16", 1, 3)
    bar.phase("Tactic Selection", "Building engine", 200)
    assert row(shown) == ("gemm, fp16: tactic selection", 1, 3)
    bar.step("Tactic Selection", 150)  # of an inner phase: the length is not its own
    assert row(shown) == ("gemm, fp16: tactic selection", 1, 3)
    bar.phase("Timing", "Tactic Selection", 9)
    assert row(shown)[0] == "gemm, fp16: timing"
    bar.phase("Timing", "", 0)
    assert row(shown)[0] == "gemm, fp16: tactic selection"
    bar.phase("Tactic Selection", "", 0)
    assert row(shown)[0] == "gemm, fp16"
    bar.step("Building engine", 2)
    assert row(shown) == ("gemm, fp16", 3, 3)
    bar.ends("gemm, fp16")
    assert row(shown) == ("gemm, fp16", 1, 1)


def test_a_second_root_does_not_change_the_length(shown):
    bar = Bar(shown)
    bar.begins("gemm, fp32")
    bar.phase("Building engine", "", 3)
    bar.phase("Serialising", "", 50)
    bar.step("Serialising", 40)
    assert row(shown) == ("gemm, fp32: serialising", 0, 3)


def test_the_next_build_is_a_row_of_its_own_and_starts_from_nothing(shown):
    bar = Bar(shown)
    bar.begins("gemm, fp16")
    bar.phase("Building engine", "", 3)
    bar.phase("Tactic Selection", "Building engine", 5)
    bar.ends("gemm, fp16")
    bar.begins("taps, fp16")
    assert [task.description for task in shown.tasks] == ["gemm, fp16", "taps, fp16"]
    bar.phase("Building engine", "", 7)
    assert row(shown) == ("taps, fp16", 0, 7)
    assert shown.tasks[0].finished  # the row of the first is full, whatever became of it


def test_what_is_no_compilation_has_a_row_until_the_next_begins(shown):
    bar = Bar(shown)
    bar.begins("gemm, fp16")
    bar.ends("gemm, fp16")
    bar.doing("timing 2 engines")
    bar.doing("trying shortcuts")
    assert row(shown) == ("trying shortcuts", 0, None)
    assert [task.finished for task in shown.tasks] == [True, True, False]
    bar.begins("taps, fp16")
    assert [task.finished for task in shown.tasks] == [True, True, True, False]


def test_without_phases_there_is_a_row_all_the_same(shown):
    """TensorRT 8.6 tells of no phases."""
    bar = Bar(shown)
    bar.begins("gemm, fp16")
    bar.alive("gemm, fp16", 20.0)
    assert row(shown) == ("gemm, fp16", 0, None)
    bar.ends("gemm, fp16")
    assert shown.finished


def test_a_long_name_of_a_phase_is_cut(shown):
    bar = Bar(shown)
    bar.begins("gemm, fp16")
    bar.phase("Building engine", "", 1)
    bar.phase("X" * 300, "Building engine", 4)
    assert row(shown)[0] == f"gemm, fp16: {'x' * 40}"


def test_lines_in_a_log(capfd):
    beat = Heartbeat()
    beat.begins("gemm, fp16")
    beat.phase("Building engine", "", 3)
    beat.step("Building engine", 1)
    beat.alive("gemm, fp16", 20.4)
    beat.ends("gemm, fp16")
    beat.doing("timing 2 engines")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "building gemm, fp16\nbuilding gemm, fp16: 20 s, still at work\ntiming 2 engines\n"


def test_in_a_pipe_it_is_lines(capfd):
    with build_progress() as watcher:
        assert isinstance(watcher, Heartbeat)
        watcher.begins("gemm, fp16")
    assert capfd.readouterr().err == "building gemm, fp16\n"


_BUILD = """
import time
from sattn_runtime.build_progress import build_progress
with build_progress() as watcher:
    print(type(watcher).__name__, flush=True)
    watcher.begins("gemm, [bold]fp16")
    watcher.phase("Building engine", "", 4)
    watcher.step("Building engine", 1)
    time.sleep(0.4)
    watcher.ends("gemm, [bold]fp16")
"""


def on_terminal(code: str) -> tuple[str, str]:
    """stdout, a pipe, and stderr, a terminal, of a snippet."""
    master, slave = pty.openpty()
    variables = {**environment(), "TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=slave, env=variables)
    os.close(slave)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return out.decode(), _drained(lambda: os.read(master, 65536), master)


def _drained(read: Callable[[], bytes], handle: int) -> str:
    data = b""
    try:
        while more := read():
            data += more
    except OSError:  # how Linux says that the other end of a terminal is closed
        pass
    finally:
        os.close(handle)
    return data.decode()


def test_on_a_terminal_it_is_a_bar_that_goes_away():
    out, seen = on_terminal(_BUILD)
    assert out == "Bar\n"  # stdout stays the report's
    assert "gemm, [bold]fp16" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)  # a name is no markup
    assert "\u2501" in seen  # the bar
    assert "\x1b[2K" in seen[seen.rindex("\u2501") :]  # and it is wiped at the end
    assert "still at work" not in seen
