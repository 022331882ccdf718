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

_IN_LINE = STAGES[:-1]  # a line can't hold how long it took to write itself
_FIRST = b'{"type":"'
_TAIL_BYTES = 1 << 16


class Journal:
    """Appends lines to a file, or to stdout for `-`."""

    def __init__(self, path: str) -> None:
        """Opens the journal.

        Raises:
            UsageError: the file can't be written, or holds something that is no journal.

        """
        self.path = path
        self.lines = 0
        self._encode = msgspec.json.Encoder().encode
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
        self._write({"type": "start", "stream": stream, **head})

    def window(self, stream: str, decision: Decision, truth: str | None, *, scored: bool) -> None:
        """A decision. `truth` is the recording's label of the whole window, where the stream is `scored`."""
        line = {
            "type": "window",
            "stream": stream,
            "window": decision.window,
            "first_sample": decision.first_sample,
            "last_sample": decision.last_sample,
            "label": decision.label,
            "score": decision.score,
            "logits": decision.logits,
            "latency_us": {k: v / 1000 for k, v in zip(_IN_LINE, decision.latency_ns, strict=True)},
        }
        if scored:
            line["truth"] = truth
        if decision.reason is not None:
            line["reason"] = decision.reason
        self._write(line)

    def gap(self, stream: str, gap: Gap) -> None:
        """A hole in the stream."""
        self._write({"type": "gap", "stream": stream, **msgspec.to_builtins(gap)})

    def _write(self, line: dict[str, Any]) -> None:
        data = self._encode(line) + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]
        self.lines += 1

    def close(self) -> None:
        """Syncs and closes a file; stdout stays open."""
        if self._owned:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
