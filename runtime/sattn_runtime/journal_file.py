"""The journal as a file: opened, locked, mended, rotated. What a line is, only `journal` knows.

    decisions.jsonl        the one that is written
    decisions.jsonl.1      the one before it
    decisions.jsonl.2      ...

Rotating makes the next file ready beside it, then renames: each rename is whole, so a kill between any two of them
leaves every line in exactly one file. A free number that such a kill leaves is taken by the next rotation.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic_ns
from typing import Any

import msgspec

from sattn_edge.errors import UsageError
from sattn_runtime.journal_sync import Syncer

FIRST = b'{"type":"'
_TAIL_BYTES = 1 << 16
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_MB, _HOUR_NS = 1_000_000, 3_600_000_000_000


@dataclass(frozen=True)
class JournalOptions:
    """How a journal is kept.

    max_mb, max_age_h: a file larger or older than this is rotated; None is never. In millions of bytes, and hours.
    keep: how many rotated files stay; the oldest beyond that is deleted.
    fsync_s: at most so much is lost by a power cut; 0 syncs after every write.
    """

    max_mb: float | None = None
    max_age_h: float | None = None
    keep: int = 10
    fsync_s: float = 5.0

    def check(self) -> None:
        """Raises UsageError for what can't be."""
        for name, value in (("--journal-max-mb", self.max_mb), ("--journal-max-age-h", self.max_age_h)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(name, f"got {value}", "a number above 0")
        if self.keep < 1:
            raise UsageError("--journal-keep", f"got {self.keep}", "1 or more rotated files")
        if not 0 <= self.fsync_s <= 86400:
            raise UsageError("--fsync-s", f"got {self.fsync_s}", "0 to 86400 seconds")

    @property
    def rotates(self) -> bool:
        """Whether there is a bound at all."""
        return self.max_mb is not None or self.max_age_h is not None


class JournalFile:
    """What lines are appended to: a file, or stdout for `-`. Never closed but by `close`."""

    def __init__(self, path: str, options: JournalOptions) -> None:
        """Opens and mends it.

        Raises:
            UsageError: it can't be written, holds something that is no journal, is in use, or can't be rotated.
        """
        options.check()
        self.path, self.options = path, options
        self.rotated = self.deleted = 0
        self.size = 0
        self._syncer: Syncer | None = None
        self._max_bytes = None if options.max_mb is None else options.max_mb * _MB
        self._old_ns: int | None = None
        self._descriptor = sys.stdout.fileno() if path == "-" else _open_locked(path)
        if path == "-":
            sys.stdout.flush()
        try:
            self._begin()
        except BaseException:
            if path != "-":
                os.close(self._descriptor)
            raise

    def _begin(self) -> None:
        if self.path == "-" or not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            if self.options.rotates:
                raise UsageError("--journal", f"'{self.path}' is no file and can't be rotated", "a file")
            return
        with contextlib.suppress(OSError):  # left by a kill while it rotated
            os.unlink(self._next)  # noqa: PTH108 - names here are strings, like the user's
        self._mend()
        self._start_age(_age_ns(self._descriptor))
        self._syncer = Syncer(self._descriptor, Path(self.path).absolute().parent, self.options.fsync_s)

    @property
    def _next(self) -> str:
        folder, name = os.path.split(self.path)
        return os.path.join(folder, f".{name}.next")  # noqa: PTH118

    def _mend(self) -> None:
        """Checks that an existing file is a journal and takes a torn last line off."""
        size = os.fstat(self._descriptor).st_size
        if size and not FIRST.startswith(os.pread(self._descriptor, len(FIRST), 0)):
            raise UsageError("--journal", f"'{self.path}' exists and is no journal", "a new file, or a journal")
        self.size = _whole_lines(self._descriptor, size)
        if self.size < size:
            os.ftruncate(self._descriptor, self.size)

    def _start_age(self, age_ns: int) -> None:
        if self.options.max_age_h is not None:
            self._old_ns = monotonic_ns() - age_ns + round(self.options.max_age_h * _HOUR_NS)

    def write(self, buffer: bytearray) -> None:
        """Writes `buffer` and takes off it what was written, also when it raises OSError half-way."""
        written = 0
        try:
            while written < len(buffer):  # a pipe or a nearly full disk may take a part of it
                written += os.write(self._descriptor, buffer[written:] if written else buffer)
        finally:
            del buffer[:written]
            self.size += written
            if self._syncer is not None and written:
                self._syncer.wrote()

    def is_due(self, more: int) -> bool:
        """Whether the file is to be rotated before `more` bytes are written."""
        if not self.size:
            return False
        if self._max_bytes is not None and self.size + more > self._max_bytes:
            return True
        return self._old_ns is not None and monotonic_ns() >= self._old_ns

    def rotate(self) -> None:
        """Goes on in a new file. Raises OSError, and then the old one is still the one that is written."""
        self._back_in_place()
        fresh = os.open(self._next, _FLAGS | os.O_EXCL, 0o666)
        try:
            _lock(fresh, self.path)
            # So that whoever may read or write the old one may do so with the new one.
            os.fchmod(fresh, stat.S_IMODE(os.fstat(self._descriptor).st_mode))
            self._shift()
            os.replace(self.path, f"{self.path}.1")  # noqa: PTH105
            try:
                os.replace(self._next, self.path)  # noqa: PTH105
            except OSError:
                with contextlib.suppress(OSError):  # else before the next rotation
                    self._back_in_place()
                raise
        except BaseException:
            os.close(fresh)
            with contextlib.suppress(OSError):
                os.unlink(self._next)  # noqa: PTH108
            raise
        self._descriptor, self.size = fresh, 0
        self.rotated += 1
        self._start_age(0)
        if self._syncer is not None:
            self._syncer.replace(fresh)

    def _back_in_place(self) -> None:
        """Gives the file that is written its name again, should a rotation have failed between its two renames.

        Raises OSError where nothing has that name then: with nothing to put at number 1, those behind it must not be
        shifted on, try after try, until the oldest of them is gone.
        """
        if os.path.lexists(self.path):
            return
        first = f"{self.path}.1"
        if not (os.path.exists(first) and os.path.samestat(os.fstat(self._descriptor), os.stat(first))):  # noqa: PTH110, PTH116
            raise FileNotFoundError(errno.ENOENT, "it was moved or deleted")
        os.replace(first, self.path)  # noqa: PTH105

    def _shift(self) -> None:
        """Makes number 1 free: up by one to the first free number, over the oldest where there is none."""
        keep = self.options.keep
        free = next((k for k in range(1, keep + 1) if not os.path.lexists(f"{self.path}.{k}")), None)
        self.deleted += free is None
        for k in range((free or keep) - 1, 0, -1):
            os.replace(f"{self.path}.{k}", f"{self.path}.{k + 1}")  # noqa: PTH105

    @property
    def sync_error(self) -> OSError | None:
        """What the last sync failed with."""
        return None if self._syncer is None else self._syncer.error

    def close(self) -> bool:
        """Syncs and closes a file; False where the disk was too slow for the sync. stdout stays open."""
        if self._syncer is not None:
            return self._syncer.close()
        if self.path != "-":
            os.close(self._descriptor)
        return True


def _whole_lines(descriptor: int, size: int) -> int:
    """How many bytes of the file are whole lines, read from its end."""
    end = size
    while end:
        begin = max(0, end - _TAIL_BYTES)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _open_locked(path: str) -> int:
    """Opens a file to append to and makes sure that nobody else of ours does."""
    while True:
        try:
            descriptor = os.open(path, _FLAGS, 0o666)
        except OSError as error:
            raise UsageError("--journal", f"'{path}' can't be written ({error.strerror})") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return descriptor
            _lock(descriptor, path)
            if os.path.exists(path) and os.path.samestat(found, os.stat(path)):  # noqa: PTH110, PTH116
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was rotated away between the two: take the new one


def _lock(descriptor: int, path: str) -> None:
    """Two runs in one journal would take each other's last line off. Gone with the process, however it ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError("--journal", f"'{path}' is written by another run", "one journal for each run") from error
    except OSError:  # a file system without locks
        return


def _age_ns(descriptor: int) -> int:
    """How long ago a journal was begun, by its first line; 0 where that tells nothing, or a time to come."""
    line = os.pread(descriptor, _TAIL_BYTES, 0).partition(b"\n")[0]
    try:
        found: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        begun = datetime.fromisoformat(str(found.get("at") or found.get("started")))
        return max(0, round((datetime.now(timezone.utc) - begun).total_seconds() * 1e9))
    except (ValueError, TypeError):  # no JSON, no time, or one without a zone
        return 0
