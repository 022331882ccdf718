"""Journals of windows that are numbered, and stand-ins for what a disk does to them."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sattn_runtime import Decision
from sattn_runtime.journal import Journal
from sattn_runtime.resume import journal_files
from tests.helpers_run import lines_of

SECOND_NS = 1_000_000_000


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


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


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
