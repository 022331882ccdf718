"""A journal that is synced beside the loop that writes it."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sattn_runtime import journal_file, journal_sync
from sattn_runtime.journal import Journal, JournalOptions
from sattn_runtime.resume import journal_files
from tests.sattn_runtime.helpers_journal import Disk, wait_for, windows, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "j.jsonl"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk_ = Disk(monkeypatch)
    yield disk_
    disk_.hold.set()


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


def test_the_stand_ins_are_those_that_are_used():
    """The control: patched names are those the modules call."""
    assert {"os.write", "os.replace", "os.fsync"} <= {
        f"os.{name}"
        for module in (journal_file, journal_sync)
        for name in ("write", "replace", "fsync")
        if f"os.{name}(" in Path(module.__file__).read_text()
    }
