"""The journal: what was decided, one JSON object a line, appended.

`type` is `start` (a stream begins), `window` (a decision), `gap` or `event` (see `events`). Lines are held until
`flush`, which a live loop calls after every decision and a replay at full speed after every chunk. They are written
whole, so a kill tears at most the last one; a torn last line is taken off when the journal is opened again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import msgspec

from sattn_edge.errors import JournalError, UsageError
from sattn_runtime.attention import Moments
from sattn_runtime.decision import Decision
from sattn_runtime.events import Event, Gap
from sattn_runtime.latency import STAGES

# A line can't hold how long it took to write itself.
_StageTimes = msgspec.defstruct("_StageTimes", [(name, float) for name in STAGES[:-1]], gc=False)
_ROOM = "make room, and run it again: what was written stays"
_FIRST = b'{"type":"'
_TAIL_BYTES = 1 << 16


class _WindowLine(msgspec.Struct, tag_field="type", tag="window", gc=False):
    """A line of type `window`, in the order its keys are written."""

    stream: str
    window: int
    first_sample: int
    last_sample: int
    label: str | None
    score: float | None
    logits: list[float] | None
    latency_us: msgspec.Struct
    truth: str | msgspec.UnsetType | None = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    attention: Moments | msgspec.UnsetType = msgspec.UNSET
    filled: int | msgspec.UnsetType = msgspec.UNSET


def _line(stream: str, decision: Decision, truth: str | msgspec.UnsetType | None) -> _WindowLine:
    return _WindowLine(
        stream,
        decision.window,
        decision.first_sample,
        decision.last_sample,
        decision.label,
        decision.score,
        decision.logits,
        _StageTimes(*[ns / 1000 for ns in decision.latency_ns]),
        truth,
        decision.reason or msgspec.UNSET,
        decision.attention or msgspec.UNSET,
        decision.filled or msgspec.UNSET,
    )


class Journal:
    """Appends lines to a file, or to stdout for `-`."""

    def __init__(self, path: str) -> None:
        """Opens the journal.

        Raises:
            UsageError: the file can't be written, or holds something that is no journal.
        """
        self.path = path
        self.lines = 0
        self._encode_into = msgspec.json.Encoder().encode_into
        self._held: list[dict[str, Any] | tuple[str, Decision, str | msgspec.UnsetType | None]] = []
        self._buffer = bytearray()
        if path == "-":
            sys.stdout.flush()
            self._descriptor, self._owned = sys.stdout.fileno(), False
            return
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError("--journal", f"'{path}' can't be written ({error.strerror})") from error
        self._owned = True
        self._mend()

    def _mend(self) -> None:
        """Checks that an existing file is a journal and takes a torn last line off."""
        size = os.fstat(self._descriptor).st_size
        if size == 0:
            return
        first = os.pread(self._descriptor, len(_FIRST), 0)
        if not _FIRST.startswith(first):
            os.close(self._descriptor)
            raise UsageError("--journal", f"'{self.path}' exists and is no journal", "a new file, or a journal")
        whole = self._whole_lines(size)
        if whole < size:
            os.ftruncate(self._descriptor, whole)

    def _whole_lines(self, size: int) -> int:
        """How many bytes of the file are whole lines, read from its end."""
        end = size
        while end:
            begin = max(0, end - _TAIL_BYTES)
            found = os.pread(self._descriptor, end - begin, begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
        return 0

    def start(self, stream: str, head: dict[str, Any]) -> None:
        """A stream begins; `head` says what runs on it."""
        self._held.append({"type": "start", "stream": stream, **head})
        self.lines += 1

    def window(self, stream: str, decision: Decision, truth: str | None, *, scored: bool) -> None:
        """A decision. `truth` is the recording's label of the whole window, where the stream is `scored`."""
        self._held.append((stream, decision, truth if scored else msgspec.UNSET))
        self.lines += 1

    def gap(self, stream: str, gap: Gap) -> None:
        """A hole in the stream. What is usual is left out."""
        row: dict[str, Any] = {"type": "gap", "stream": stream, "sample": gap.sample, "seconds": gap.seconds}
        row["dropped"] = gap.dropped
        if gap.missing is not None:
            row["missing"] = gap.missing
        if gap.cause != "gap":
            row["cause"] = gap.cause
        if gap.filled:
            row["filled"] = gap.filled
        self._held.append(row)
        self.lines += 1

    def event(self, stream: str, event: Event) -> None:
        """Something else that happened; only what it has to say."""
        said = {key: value for key, value in msgspec.to_builtins(event).items() if value is not None}
        self._held.append({"type": "event", "stream": stream, **said})
        self.lines += 1

    def flush(self) -> None:
        """Writes the lines that are held, by one call where the system takes them all.

        Raises:
            JournalError: the disk is full, or the file is gone.
        """
        buffer = self._buffer
        for held in self._held:
            self._encode_into(held if isinstance(held, dict) else _line(*held), buffer, len(buffer))
            buffer += b"\n"
        self._held.clear()
        written = 0
        try:
            while written < len(buffer):  # a pipe may take a part of it
                written += os.write(self._descriptor, buffer[written:] if written else buffer)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise JournalError(f"journal '{self.path}'", f"can't be written ({error.strerror})", todo=_ROOM) from error
        finally:
            del buffer[:written]

    def close(self) -> None:
        """Writes what is held, then syncs and closes a file; stdout stays open."""
        try:
            self.flush()
        finally:
            if self._owned:
                with contextlib.suppress(OSError):  # a pipe or a device can't be synced
                    os.fsync(self._descriptor)
                os.close(self._descriptor)
