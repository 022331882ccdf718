from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sattn_edge.errors import JournalError, SattnEdgeError, UsageError
from sattn_runtime import Decision
from sattn_runtime.journal import Journal
from sattn_runtime.latency import STAGES
from sattn_runtime.stream import Gap
from tests.helpers_model import save_model
from tests.helpers_run import finish, lines_of, start

JUDGED = Decision(3, 24, 39, 1, "l1", 0.75, [0.5, 1.5, -1.0], (1000, 2000, 0, 5_500_000, 0, 7), 0)
UNJUDGED = Decision(4, 32, 47, None, None, None, None, (0, 1, 0, 0, 0, 2), 0, "non-finite input")
START = '{"type":"start","stream":"old"}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "j.jsonl"


def written(path: Path) -> Journal:
    journal = Journal(str(path))
    journal.start("s", {"model": "m", "hop_samples": 8})
    journal.window("s", JUDGED, "l1", scored=True)
    journal.news("s", Gap(40, 1.5, 6))
    journal.window("s", UNJUDGED, None, scored=False)
    journal.close()
    return journal


def test_the_lines_and_the_order_of_their_keys(path):
    assert written(path).lines == 4
    begin, judged, gap, unjudged = lines_of(path)
    assert begin == {"type": "start", "stream": "s", "model": "m", "hop_samples": 8}
    assert list(judged) == [
        *("type", "stream", "window", "first_sample", "last_sample", "label", "score", "logits"),
        *("latency_us", "truth"),
    ]
    assert judged["type"] == "window"
    assert (judged["window"], judged["first_sample"], judged["last_sample"]) == (3, 24, 39)
    assert (judged["label"], judged["score"], judged["logits"]) == ("l1", 0.75, [0.5, 1.5, -1.0])
    assert judged["latency_us"] == dict(zip(STAGES[:-1], (1, 2, 0, 5500, 0, 0.007), strict=True))
    assert judged["truth"] == "l1"
    assert gap == {"type": "gap", "stream": "s", "sample": 40, "seconds": 1.5, "dropped": 6}
    assert "truth" not in unjudged
    assert (unjudged["label"], unjudged["score"], unjudged["logits"]) == (None, None, None)
    assert unjudged["reason"] == "non-finite input"


def test_no_label_throughout_is_told_from_not_scored(path):
    journal = Journal(str(path))
    journal.window("s", JUDGED, None, scored=True)
    journal.window("s", JUDGED, None, scored=False)
    journal.close()
    first, second = lines_of(path)
    assert first["truth"] is None
    assert "truth" not in second


def test_it_appends(path):
    written(path)
    before = path.read_bytes()
    written(path)
    assert path.read_bytes() == before * 2


@pytest.mark.parametrize("cut", [1, 2, 30, 150])
def test_a_torn_last_line_is_taken_off(path, cut):
    written(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = whole[: whole[:-cut].rfind(b"\n") + 1]
    written(path)
    assert path.read_bytes() == kept + whole
    lines_of(path)  # the control: without mending, this line would be two in one
    with pytest.raises(json.JSONDecodeError):
        [json.loads(line) for line in (whole[:-cut] + whole).splitlines()]


@pytest.mark.parametrize("text", ["timestamp_s,a,b\n0,1,2\n", "{}\n", "x", "\n" + START, " " + START])
def test_a_file_that_is_no_journal_is_refused_and_untouched(path, text):
    path.write_text(text)
    with pytest.raises(UsageError, match=r"--journal: '.*j\.jsonl' exists and is no journal; a new file, or a journal"):
        Journal(str(path))
    assert path.read_text() == text


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match=r"--journal: '.*' can't be written \(No such file or directory\)"):
        Journal(str(tmp_path / "no" / "j"))
    with pytest.raises(UsageError, match=r"can't be written \(Is a directory\)"):
        Journal(str(tmp_path))


def test_a_journal_on_stdout(capfd):
    journal = written(Path("-"))
    assert journal.lines == 4
    assert [json.loads(line)["type"] for line in capfd.readouterr().out.splitlines()] == [
        *("start", "window", "gap", "window")
    ]
    print("stdout is still open")
    assert capfd.readouterr().out == "stdout is still open\n"


def test_lines_are_held_until_a_flush_writes_them_by_one_call(path, monkeypatch):
    calls, write = [], os.write
    monkeypatch.setattr(os, "write", lambda d, data: calls.append(bytes(data)) or write(d, data))
    journal = Journal(str(path))
    journal.start("a", {})
    journal.start("b", {})
    assert calls == []
    journal.flush()
    journal.start("c", {})
    journal.close()
    assert [c.count(b"\n") for c in calls] == [2, 1]
    assert b"".join(calls) == path.read_bytes()


def test_a_disk_that_was_full_for_a_moment_repeats_nothing(path, monkeypatch):
    write, calls = os.write, []

    def sometimes(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, bytes(data)[:7] if len(calls) == 1 else data)

    monkeypatch.setattr(os, "write", sometimes)
    journal = Journal(str(path))
    with contextlib.suppress(OSError, SattnEdgeError):
        journal.start("s", {})
        journal.flush()
    journal.close()
    assert len(calls) >= 2
    assert [row["type"] for row in lines_of(path)] == ["start"]


def test_a_write_that_takes_a_part_is_continued(path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda d, data: write(d, bytes(data)[:7]))
    written(path)
    assert len(lines_of(path)) == 4


@pytest.mark.parametrize("text", ["{", '{"ty', '{"type":'])
def test_a_torn_first_line_is_taken_off_too(path, text):
    path.write_text(text)
    assert written(path).lines == len(lines_of(path)) == 4


def test_a_torn_long_line_is_taken_off_whole(path):
    path.write_text(START + '{"type":"start","labels":"' + "x" * 100_000)
    written(path)
    assert len(lines_of(path)) == 5


def test_a_device_may_be_the_journal():
    assert written(Path("/dev/null")).lines == 4


def test_a_full_disk_is_told_and_ends_nothing():
    told = []
    journal = Journal("/dev/full", tell=told.append)
    journal.start("s", {})
    journal.flush()
    journal.window("s", JUDGED, "l1", scored=True)
    journal.close()
    assert (journal.suspended, journal.suspensions, journal.missing) == (True, 1, 2)
    (line,) = told
    assert line.startswith("note: journal '/dev/full': can't be written (No space left on device); decisions go on")
    with pytest.raises(JournalError, match=r"2 of 2 lines are not written \(No space left on device\); make room"):
        journal.check()
    written(Path("/dev/null")).check()  # the control


def test_numbers_survive(path):
    values = [1e-30, -3.4028234663852886e38, 0.1, math.pi]
    journal = Journal(str(path))
    journal.window("s", Decision(0, 0, 1, 0, "l0", 0.1, values, (0,) * 6, 0), None, scored=False)
    journal.close()
    assert lines_of(path)[0]["logits"] == values


def test_a_kill_leaves_whole_lines(tmp_path):
    """SIGKILL at random moments of a real run, each run appending to what the killed ones left."""
    model, path = save_model(tmp_path, window=16, hop=1), tmp_path / "j.jsonl"
    rng = random.Random(0)
    for _ in range(4):
        process = start("sattn-run", model, "-", "--journal", path, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(b"c0,c1\n" + b"1,2\n" * 60_000)
        process.stdin.flush()
        size, deadline = path.stat().st_size if path.exists() else 0, time.monotonic() + 30
        while (path.stat().st_size if path.exists() else 0) < size + 20_000 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert finish(process).code == -signal.SIGKILL
        *whole, last = path.read_bytes().split(b"\n")
        rows = [json.loads(line) for line in whole]
        assert not last or not last.endswith(b"}")
    ends = [i for i, row in enumerate(rows) if row["type"] == "start"]
    assert len(ends) == 4
    for begin, end in zip(ends, [*ends[1:], len(rows)], strict=True):
        assert [row["window"] for row in rows[begin + 1 : end]] == list(range(end - begin - 1))
