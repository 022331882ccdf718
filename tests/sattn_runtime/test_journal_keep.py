"""A month of journal: rotated, synced, its disk full and empty again."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import UsageError
from sattn_runtime import Decision, journal, journal_file, journal_sync
from sattn_runtime.journal import Journal, JournalOptions
from sattn_runtime.resume import journal_files
from tests.helpers_engine import FakeClock
from tests.helpers_model import save_model
from tests.helpers_run import Done, finish, lines_of, start

HOUR_NS = 3_600_000_000_000
SECOND_NS = 1_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "j.jsonl"


def decision(number: int) -> Decision:
    return Decision(number, number, number + 15, 1, "l1", 0.75, [0.5, 1.5, -1.0], (1000, 2000, 0, 5_500_000, 0, 7), 0)


def write(journal_: Journal, first: int, count: int, *, each: int = 1) -> None:
    """Windows, `each` of them a flush."""
    for number in range(first, first + count):
        journal_.window("s", decision(number), None, scored=False)
        if (number - first + 1) % each == 0:
            journal_.flush()


def windows(path: Path) -> list[int]:
    return [row["window"] for name in journal_files(str(path)) for row in lines_of(name, "window")]


# ------------------------------------------------------------------ rotation


def test_a_journal_is_rotated_by_size_and_loses_nothing(path):
    journal_ = Journal(str(path), JournalOptions(max_mb=0.002, keep=100))
    journal_.start("s", {"model": "m"})
    write(journal_, 0, 100)
    journal_.close()
    names = journal_files(str(path))
    assert len(names) == journal_.rotated + 1 > 5
    assert windows(path) == list(range(100))
    assert max(Path(name).stat().st_size for name in names) <= 2000
    assert min(Path(name).stat().st_size for name in names[:-1]) > 1500
    for name in names[1:]:
        first = lines_of(name)[0]
        assert (first["type"], first["kind"], first["stream"], first["model"]) == ("event", "rotated", "s", "m")
        assert first["at"].endswith("+00:00")
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(Path(name).name for name in names)


def test_the_oldest_go_and_are_counted(path):
    journal_ = Journal(str(path), JournalOptions(max_mb=0.002, keep=3))
    write(journal_, 0, 100)
    journal_.close()
    assert [Path(name).name for name in journal_files(str(path))] == ["j.jsonl.3", "j.jsonl.2", "j.jsonl.1", "j.jsonl"]
    assert journal_.deleted == journal_.rotated - 3 > 0
    kept = windows(path)
    assert kept == list(range(kept[0], 100))


def test_a_flush_larger_than_a_file_stays_whole(path):
    journal_ = Journal(str(path), JournalOptions(max_mb=0.002, keep=100))
    write(journal_, 0, 60, each=20)
    journal_.close()
    assert len(journal_files(str(path))) == 3
    assert windows(path) == list(range(60))


def test_a_journal_is_rotated_by_age(path, monkeypatch):
    clock = FakeClock(monkeypatch)
    journal_ = Journal(str(path), JournalOptions(max_age_h=2, fsync_s=0))
    write(journal_, 0, 1)
    clock.now_ns += 2 * HOUR_NS - 1
    write(journal_, 1, 1)
    assert journal_.rotated == 0
    clock.now_ns += 1
    write(journal_, 2, 2)
    assert journal_.rotated == 1
    clock.now_ns += 5 * HOUR_NS
    write(journal_, 4, 1)
    journal_.close()
    assert [[row["window"] for row in lines_of(name, "window")] for name in journal_files(str(path))] == [
        *([0, 1], [2, 3], [4])
    ]


@pytest.mark.parametrize(("begun", "rotations"), [("2020-01-01T00:00:00+00:00", 1), ("2999-01-01T00:00:00+00:00", 0)])
def test_the_age_of_a_journal_outlives_a_restart(path, begun, rotations):
    path.write_text(f'{{"type":"start","stream":"s","started":"{begun}"}}\n')
    journal_ = Journal(str(path), JournalOptions(max_age_h=24))
    write(journal_, 0, 1)
    journal_.close()
    assert journal_.rotated == rotations


@pytest.mark.parametrize("first", ['{"type":"window","stream":"s"}', '{"type":"start","started":"2020-01-01"}', '{"ty'])
def test_an_age_that_nobody_knows_begins_now(path, first):
    path.write_text(first + "\n" if first.endswith("}") else first)
    journal_ = Journal(str(path), JournalOptions(max_age_h=24))
    write(journal_, 0, 1)
    journal_.close()
    assert journal_.rotated == 0


def test_a_number_that_is_free_is_filled(path):
    for number, name in enumerate(["j.jsonl.3", "j.jsonl.1", "j.jsonl"]):
        journal_ = Journal(str(path.parent / name))
        write(journal_, number, 1)
        journal_.close()
    journal_ = Journal(str(path), JournalOptions(max_mb=1e-5, keep=3))
    write(journal_, 3, 1)
    journal_.close()
    assert (journal_.rotated, journal_.deleted) == (1, 0)
    assert windows(path) == [0, 1, 2, 3]


def test_permissions_are_those_of_the_file_before(path):
    journal_ = Journal(str(path), JournalOptions(max_mb=1e-5))
    path.chmod(0o640)
    write(journal_, 0, 3)
    journal_.close()
    assert {Path(name).stat().st_mode & 0o777 for name in journal_files(str(path))} == {0o640}


def test_a_rotation_that_fails_is_told_and_tried_again(path, monkeypatch):
    clock, told, replace = FakeClock(monkeypatch), [], os.replace

    def refused(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    journal_ = Journal(str(path), JournalOptions(max_mb=0.001, fsync_s=0), told.append)
    monkeypatch.setattr(os, "replace", refused)
    write(journal_, 0, 20)
    assert (journal_.rotated, len(told)) == (0, 1)
    assert "can't be rotated (Permission denied); it goes on in the same file" in told[0]
    monkeypatch.setattr(os, "replace", replace)
    write(journal_, 20, 5)
    assert journal_.rotated == 0
    clock.now_ns += 60 * SECOND_NS
    write(journal_, 25, 1)
    journal_.close()
    assert journal_.rotated == 1
    assert windows(path) == list(range(26))
    assert sorted(p.name for p in path.parent.iterdir()) == ["j.jsonl", "j.jsonl.1"]


class Renames:
    """Fails those of the files named, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: dict[tuple[str, str], int]) -> None:
        self.fails, self._replace = fails, os.replace
        monkeypatch.setattr(os, "replace", self._rename)

    def _rename(self, source: str, target: str) -> None:
        names = Path(source).name, Path(target).name
        if self.fails.get(names, 0):
            self.fails[names] -= 1
            raise OSError(errno.EIO, "Input/output error")
        self._replace(source, target)


@pytest.mark.parametrize("back", [0, 1, 3])
def test_a_rotation_that_fails_between_its_renames_loses_nothing(path, monkeypatch, back):
    """`back`: how often the first rename can't be undone either."""
    clock, told = FakeClock(monkeypatch), []
    renames = Renames(monkeypatch, {(".j.jsonl.next", "j.jsonl"): 1, ("j.jsonl.1", "j.jsonl"): back})
    journal_ = Journal(str(path), JournalOptions(max_mb=0.001, keep=100, fsync_s=0), told.append)
    for number in range(40):
        write(journal_, number, 1)
        assert windows(path) == list(range(number + 1))  # whenever anybody looks
        clock.now_ns += 60 * SECOND_NS
    assert not any(renames.fails.values())
    journal_.close()
    assert (journal_.missing, len(told)) == (0, max(1, back))
    assert "can't be rotated (Input/output error); it goes on in the same file" in told[0]
    assert journal_.rotated == len(journal_files(str(path))) - 1 > 0
    assert journal_files(str(path))[-1] == str(path)


def test_a_journal_that_was_taken_away_does_not_shift_the_others(path, monkeypatch):
    """Try after try they would go up by one, until the oldest was gone."""
    clock, told = FakeClock(monkeypatch), []
    journal_ = Journal(str(path), JournalOptions(max_mb=0.001, keep=3, fsync_s=0), told.append)
    write(journal_, 0, 20)
    others = journal_files(str(path))[:-1]
    before = [Path(name).read_bytes() for name in others]
    path.rename(path.with_name("elsewhere"))
    for number in range(20, 30):
        write(journal_, number, 1)
        clock.now_ns += 60 * SECOND_NS
    journal_.close()
    assert [row["window"] for row in lines_of(path.with_name("elsewhere"), "window")][-10:] == list(range(20, 30))
    assert "can't be rotated (it was moved or deleted)" in told[0]
    assert [Path(name).read_bytes() for name in others] == before
    assert journal_.missing == 0


def test_one_journal_for_each_run(path):
    first = Journal(str(path), JournalOptions(max_mb=0.001))
    write(first, 0, 10)
    with pytest.raises(UsageError, match=r"--journal: '.*j\.jsonl' is written by another run; one journal for each"):
        Journal(str(path))
    first.close()
    Journal(str(path)).close()


@pytest.mark.parametrize("name", ["-", "/dev/null"])
def test_what_is_no_file_is_not_rotated(name, capfd):
    with pytest.raises(UsageError, match=f"--journal: '{name}' is no file and can't be rotated"):
        Journal(name, JournalOptions(max_mb=1))
    Journal(name).close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_mb": 0}, "--journal-max-mb: got 0"),
        ({"max_mb": float("nan")}, "--journal-max-mb: got nan"),
        ({"max_age_h": -1}, "--journal-max-age-h: got -1"),
        ({"keep": 0}, "--journal-keep: got 0"),
        ({"fsync_s": -1}, "--fsync-s: got -1"),
        ({"fsync_s": float("inf")}, "--fsync-s: got inf"),
    ],
)
def test_options_that_cannot_be(path, options, text):
    with pytest.raises(UsageError, match=text):
        Journal(str(path), JournalOptions(**options))
    assert not path.exists()


# ------------------------------------------------------------------ syncing


class Disk:
    """Counts what is synced, and can be slow or broken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[int] = []
        self.threads: set[str] = set()
        self.hold = threading.Event()
        self.hold.set()
        self.error: OSError | None = None
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, descriptor: int) -> None:
        self.hold.wait(30)
        if self.error is not None:
            raise self.error
        self.synced.append(os.fstat(descriptor).st_ino)
        self.threads.add(threading.current_thread().name)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk_ = Disk(monkeypatch)
    yield disk_
    disk_.hold.set()


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_syncs_come_beside_the_loop_and_only_for_what_was_written(path, disk):
    journal_ = Journal(str(path), JournalOptions(fsync_s=0.02))
    write(journal_, 0, 5)
    inode = path.stat().st_ino
    wait_for(lambda: disk.synced)
    time.sleep(0.1)
    assert disk.synced.count(inode) == 1  # nothing came, nothing is synced
    write(journal_, 5, 1)
    wait_for(lambda: disk.synced.count(inode) == 2)
    journal_.close()
    assert disk.synced.count(inode) == 3
    assert disk.threads == {"sattn-sync"}
    assert "sattn-sync" not in {t.name for t in threading.enumerate()}


def test_every_rotated_file_is_synced_and_closed(path, disk):
    before = len(list(Path("/proc/self/fd").iterdir()))
    journal_ = Journal(str(path), JournalOptions(max_mb=0.001, keep=100, fsync_s=0.01))
    write(journal_, 0, 30)
    journal_.close()
    inodes = {Path(name).stat().st_ino for name in journal_files(str(path))}
    assert len(inodes) > 5
    assert inodes | {path.parent.stat().st_ino} == set(disk.synced)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_interval_of_zero_syncs_before_flush_returns(path, disk):
    journal_ = Journal(str(path), JournalOptions(fsync_s=0))
    for number in range(3):
        write(journal_, number, 1)
        assert disk.synced == [path.stat().st_ino] * (number + 1)
    journal_.close()
    assert disk.threads == {threading.current_thread().name}


def test_a_slow_disk_holds_up_neither_lines_nor_the_end(path, disk, monkeypatch):
    monkeypatch.setattr(journal_sync, "_CLOSE_S", 0.05)
    told: list[str] = []
    journal_ = Journal(str(path), JournalOptions(fsync_s=0.01), told.append)
    disk.hold.clear()
    write(journal_, 0, 1)
    time.sleep(0.05)
    write(journal_, 1, 20)
    began = time.monotonic()
    journal_.close()
    assert time.monotonic() - began < 10
    assert windows(path) == list(range(21))
    assert told == [f"note: journal '{path}': the disk is slow, its last lines may not be synced"]
    disk.hold.set()
    wait_for(lambda: "sattn-sync" not in {t.name for t in threading.enumerate()})


def test_a_sync_that_fails_is_told_once(path, disk):
    told: list[str] = []
    disk.error = OSError(errno.EIO, "Input/output error")
    journal_ = Journal(str(path), JournalOptions(fsync_s=0), told.append)
    write(journal_, 0, 5)
    journal_.close()
    assert len(told) == 1
    assert "can't be synced (Input/output error)" in told[0]


# ------------------------------------------------------------------ a disk that is full


class FullDisk:
    """A disk that takes a number of bytes, until it is given more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
        self.left = 0
        self._write, self._errno = os.write, number
        monkeypatch.setattr(os, "write", self._take)

    def _take(self, descriptor: int, data: bytes) -> int:
        if self.left <= 0:
            raise OSError(self._errno, os.strerror(self._errno))
        part = bytes(data)[: self.left]
        self.left -= len(part)
        return self._write(descriptor, part)


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


def test_the_stand_ins_are_those_that_are_used():
    """The control: patched names are those the modules call."""
    assert {"os.write", "os.replace", "os.fsync"} <= {
        f"os.{name}"
        for module in (journal_file, journal_sync)
        for name in ("write", "replace", "fsync")
        if f"os.{name}(" in Path(module.__file__).read_text()
    }
