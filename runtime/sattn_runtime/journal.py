"""The journal: what was decided, one JSON object a line, appended.

`type` is `start` (a stream begins), `window` (a decision) or `gap`. Every line is written whole by one call, so a
kill loses at most the last one; a torn last line is taken off when the journal is opened again.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from sattn_edge.errors import UsageError
from sattn_runtime.decision import Decision
from sattn_runtime.latency import STAGES
from sattn_runtime.stream import Gap

# A line can't hold how long it took to write itself.
_StageTimes = msgspec.defstruct("_StageTimes", [(name, float) for name in STAGES[:-1]], gc=False)
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
        if os.pread(self._descriptor, len(_FIRST), 0) != _FIRST:
            os.close(self._descriptor)
            raise UsageError("--journal", f"'{self.path}' exists and is no journal", "a new file, or a journal")
        tail = os.pread(self._descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn:
            os.ftruncate(self._descriptor, size - torn)

    def start(self, stream: str, head: dict[str, Any]) -> None:
        """A stream begins; `head` says what runs on it."""
        self._put({"type": "start", "stream": stream, **head})

    def window(self, stream: str, decision: Decision, truth: str | None, *, scored: bool) -> None:
        """A decision. `truth` is the recording's label of the whole window, where the stream is `scored`."""
        self._put(
            _WindowLine(
                stream,
                decision.window,
                decision.first_sample,
                decision.last_sample,
                decision.label,
                decision.score,
                decision.logits,
                _StageTimes(*[ns / 1000 for ns in decision.latency_ns]),
                truth if scored else msgspec.UNSET,
                decision.reason or msgspec.UNSET,
            )
        )

    def gap(self, stream: str, gap: Gap) -> None:
        """A hole in the stream."""
        self._put({"type": "gap", "stream": stream, **msgspec.to_builtins(gap)})

    def _put(self, line: dict[str, Any] | _WindowLine) -> None:
        buffer = self._buffer
        self._encode_into(line, buffer)
        buffer += b"\n"
        written = os.write(self._descriptor, buffer)
        while written < len(buffer):  # a pipe may take a part of it
            written += os.write(self._descriptor, buffer[written:])
        self.lines += 1

    def close(self) -> None:
        """Syncs and closes a file; stdout stays open."""
        if self._owned:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
