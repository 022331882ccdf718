"""A journal whose disk is full, and empty again."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_runtime import journal
from sattn_runtime.journal import Journal, JournalOptions
from sattn_runtime.resume import journal_files
from tests.helpers_engine import FakeClock
from tests.helpers_model import save_model
from tests.helpers_run import Done, finish, lines_of, start
from tests.sattn_runtime.helpers_journal import SECOND_NS, FullDisk, wait_for, windows, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "j.jsonl"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("room", [0, 500, 1234, 2345])
def test_a_full_disk_suspends_and_what_is_missing_is_said_in_its_place(path, monkeypatch, number, room):
    clock, told, full = FakeClock(monkeypatch), [], FullDisk(monkeypatch, number)
    monkeypatch.setattr(journal, "_HELD_BYTES", 1000)
    full.left = room
    journal_ = Journal(str(path), JournalOptions(fsync_s=0), told.append)
    journal_.start("s", {})
    write(journal_, 0, 50)
    assert journal_.suspended
    assert len(told) == 1
    assert f"can't be written ({os.strerror(number)}); decisions go on" in told[0]
    full.left = 10**9
    write(journal_, 50, 5)
    assert journal_.suspended  # it is tried again once a second
    clock.now_ns += SECOND_NS
    write(journal_, 55, 5)
    assert not journal_.suspended
    journal_.close()
    journal_.check()
    rows = lines_of(path)
    (place,) = (i for i, row in enumerate(rows) if row["type"] == "event")
    missing = rows[place]["missing_lines"]
    before = [row["window"] for row in rows[1:place]]
    after = [row["window"] for row in rows[place + 1 :]]
    assert before == list(range(len(before)))
    # The line that met the full disk when it could be written again is among the missing, those behind it are not.
    assert before + list(range(len(before), len(before) + missing)) + after == list(range(60))
    assert (after[-1], journal_.missing, journal_.suspensions) == (59, missing, 1)
    assert told[1:] == [f"note: journal '{path}': is written again; {missing} lines are missing in it"]


def test_a_short_while_without_room_loses_nothing(path, monkeypatch):
    clock, full = FakeClock(monkeypatch), FullDisk(monkeypatch)
    full.left = 777
    journal_ = Journal(str(path), JournalOptions(fsync_s=0))
    write(journal_, 0, 50)
    assert journal_.suspended
    full.left = 10**9
    clock.now_ns += SECOND_NS
    write(journal_, 50, 1)
    journal_.close()
    assert [row["type"] for row in lines_of(path)] == ["window"] * 51
    assert windows(path) == list(range(51))
    assert (journal_.missing, journal_.suspensions) == (0, 1)


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """Those of all files, but for a torn one."""
    texts = [line for name in journal_files(str(path)) for line in Path(name).read_bytes().splitlines(keepends=True)]
    return [json.loads(text) for text in texts if text.endswith(b"\n")]


def whole_windows(path: Path) -> list[int]:
    return [row["window"] for row in whole_rows(path) if row["type"] == "window"]


def test_a_line_of_the_journals_own_is_not_counted_as_missing(path, monkeypatch):
    full = FullDisk(monkeypatch)
    full.left = 10**9
    journal_ = Journal(str(path), JournalOptions(max_mb=0.001, keep=100, fsync_s=0))
    journal_.start("s", {"model": "m"})
    number = 0
    while journal_.rotated < 3:
        # The new file has no room: the `rotated` line and the window behind it wait.
        full.left = 0 if journal_._file.is_due(300) else 10**9
        write(journal_, number, 1)
        number += 1
        assert journal_.missing == journal_.unwritten == number - len(whole_windows(path))
        full.left = 10**9
        journal_._retry_ns = 0
        journal_.flush()
    journal_.close()
    assert (journal_.missing, journal_.unwritten, windows(path)) == (0, 0, list(range(number)))


def test_full_again_before_that_could_be_said(path, monkeypatch):
    """Lines, missing and written, add up however little room comes at a time."""
    monkeypatch.setattr(journal, "_HELD_BYTES", 600)
    clock, told, full = FakeClock(monkeypatch), [], FullDisk(monkeypatch)
    journal_ = Journal(str(path), JournalOptions(fsync_s=0), told.append)
    rng = np.random.default_rng(0)
    for first in range(0, 400, 4):
        full.left = int(rng.choice([0, 0, 1, 50, 300, 700, 1500]))
        write(journal_, first, 4)
        clock.now_ns += SECOND_NS
        said = sum(row.get("missing_lines", 0) for row in whole_rows(path))
        assert journal_.missing == first + 4 - len(whole_windows(path))
        assert journal_.unwritten == journal_.missing - said
    full.left = 10**9
    write(journal_, 400, 1)
    clock.now_ns += SECOND_NS
    write(journal_, 401, 1)
    journal_.close()
    expected = 0
    for row in lines_of(path):
        if row["type"] == "event":
            expected += row["missing_lines"]
        else:
            assert row["window"] == expected
            expected += 1
    assert expected == 402
    assert journal_.suspensions > 10
    assert journal_.missing == sum(row["missing_lines"] for row in lines_of(path, "event")) > 100
    assert len(told) < 2 * journal_.suspensions / 5  # once a minute


def test_a_torn_line_is_not_rotated_away(path, monkeypatch):
    clock, full = FakeClock(monkeypatch), FullDisk(monkeypatch)
    full.left = 700
    journal_ = Journal(str(path), JournalOptions(max_mb=0.0007, keep=100, fsync_s=0))
    write(journal_, 0, 10)
    assert journal_.suspended
    full.left = 10**9
    clock.now_ns += SECOND_NS
    write(journal_, 10, 10)
    journal_.close()
    assert windows(path) == list(range(20))


# ------------------------------------------------------------------ a real disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """256 KiB of file system; only root can have one."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("can't mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_the_real_command_on_a_disk_that_fills_and_empties(tmp_path, small_disk):
    model, journal_path = save_model(tmp_path, window=16, hop=1), small_disk / "j.jsonl"
    (small_disk / "filler").write_bytes(b"x" * 200_000)
    process = start("sattn-run", model, "-", "--journal", journal_path, "--json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"c0,c1\n" + b"1,2\n" * 6015)
    process.stdin.flush()
    assert process.stderr is not None
    assert b"can't be written (No space left on device); decisions go on" in process.stderr.readline()
    wait_for(lambda: journal_path.stat().st_size > 30_000)
    # 6,000 lines are more than is kept. Room for what is kept comes when everything was decided.
    time.sleep(3)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    time.sleep(1.1)
    process.stdin.write(b"1,2\n" * 10)
    process.stdin.flush()
    time.sleep(0.5)
    process.stdin.close()
    process.stdin = None
    done: Done = finish(process)
    assert done.code == 0, done.err
    assert "is written again; " in done.err
    report = done.json
    rows = lines_of(journal_path)
    (event,) = (row for row in rows if row["type"] == "event")
    assert report["windows"] == 6010
    assert report["journal_lines"]["missing"] == event["missing_lines"] > 0
    assert len(rows) - 2 + event["missing_lines"] == 6010
    numbers = [row["window"] for row in rows if row["type"] == "window"]
    assert numbers == sorted(set(numbers))


def test_a_run_whose_last_lines_are_not_written_exits_with_3(tmp_path):
    model = save_model(tmp_path)
    data = tmp_path / "r.npz"
    np.savez(data, signal=np.ones((100, 2), np.float32), channels=["c0", "c1"])
    done = finish(start("sattn-run", model, f"replay:{data}", "--journal", "/dev/full", "--json"))
    assert done.code == 3
    assert done.json["windows"] == 11  # decisions went on
    assert done.json["journal_lines"]["missing"] == 12
    assert "12 of 12 lines are not written (No space left on device)" in done.err
    assert json.loads(done.out)["journal"] == "/dev/full"
