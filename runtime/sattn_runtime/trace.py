"""`--trace FILE`: every window's stages as spans, for chrome://tracing or ui.perfetto.dev.

A window is a span from when it was taken up to when it was handed over, with its stages within; how long it waited
before is a span of its own beside it, since windows may wait while others are computed. The latest 16 MB are kept. The
file is replaced whole when a run begins, half a second later, then ever less often down to every ten seconds, and at
the end. So it is valid JSON whenever one looks, also after an early kill, and never that of a run before.

A window costs the loop some ten microseconds, after its decision was handed over.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING

import msgspec

from sattn_edge.errors import UsageError
from sattn_edge.files import write_atomic
from sattn_runtime.decision import Decision
from sattn_runtime.latency import STAGES
from sattn_runtime.observer import Observer

if TYPE_CHECKING:
    from sattn_runtime.run_result import RunResult

_MOST_BYTES = 16_000_000
_BLOCK_BYTES = 1 << 16
_FIRST_NS, _EVERY_NS = 500_000_000, 10_000_000_000
_CLOSE_S = 0.5
_SERVICE = STAGES[1:-1]  # between wait and emit


class Trace(Observer):
    """Collects spans on the loop's thread; another one writes the file."""

    def __init__(self, path: str, tell: Callable[[str], None]) -> None:
        """Raises UsageError where the file can't be."""
        self._path, self._tell = Path(path), tell
        if self._path.is_dir() or not os.access(self._path.parent, os.W_OK):
            raise UsageError("--trace", f"'{path}' can't be written", "a file in a folder that is there")
        self._blocks: deque[bytes] = deque()
        self._bytes = 0
        self._current = bytearray()
        self._encode = msgspec.json.Encoder().encode_into
        self._told = False
        self._published_ns = self._seen = self._windows = 0
        self._every_ns = min(_FIRST_NS, _EVERY_NS)
        self._next: list[bytes] | None = None
        self._error: OSError | None = None
        self._wake = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None

    def begin(self, result: RunResult) -> None:
        """Begins to write."""
        name = f"{result.options.model}, {result.engine.info.backend}"
        head = {"name": "process_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": name}}
        self._head = b'{"traceEvents":[\n' + msgspec.json.encode(head)
        self._published_ns = monotonic_ns()
        self._publish()
        self._thread = threading.Thread(target=self._write_all, name="sattn-trace", daemon=True)
        self._thread.start()

    def window(self, stream: str, decision: Decision, emit_ns: int, done_ns: int) -> None:
        """Writes its spans down."""
        wait_ns, *service_ns = decision.latency_ns
        taken_ns = done_ns - emit_ns - sum(service_ns)
        self._windows += 1
        if wait_ns:
            at = {"cat": "wait", "name": "wait", "id": self._windows, "pid": 1, "tid": 1}
            self._add({**at, "ph": "b", "ts": (taken_ns - wait_ns) / 1000})
            self._add({**at, "ph": "e", "ts": taken_ns / 1000})
        about = {"stream": stream, "window": decision.window, "label": decision.label, "reason": decision.reason}
        self._span("window", taken_ns, done_ns - taken_ns, about)
        begin_ns = taken_ns
        for name, spent_ns in zip((*_SERVICE, STAGES[-1]), (*service_ns, emit_ns), strict=True):
            if spent_ns:
                self._span(name, begin_ns, spent_ns)
            begin_ns += spent_ns
        if len(self._current) >= _BLOCK_BYTES:
            self._blocks.append(bytes(self._current))
            self._bytes += len(self._current)
            self._current.clear()
            while self._bytes > _MOST_BYTES:
                self._bytes -= len(self._blocks.popleft())

    def _span(self, name: str, begin_ns: int, spent_ns: int, about: dict[str, object] | None = None) -> None:
        span = {"name": name, "ph": "X", "pid": 1, "tid": 1, "ts": begin_ns / 1000, "dur": spent_ns / 1000}
        self._add(span if about is None else {**span, "args": about})

    def _add(self, event: dict[str, object]) -> None:
        self._current += b",\n"
        self._encode(event, self._current, len(self._current))

    def tick(self, now_ns: int) -> None:
        """Hands what there is to the writer where it is time."""
        if now_ns - self._published_ns >= self._every_ns and self._windows > self._seen:
            self._published_ns, self._every_ns = now_ns, min(2 * self._every_ns, _EVERY_NS)
            self._publish()
        if self._error is not None and not self._told:
            self._told = True
            self._tell(f"note: trace '{self._path}': can't be written ({self._error.strerror}); it is tried again")

    def _publish(self) -> None:
        self._seen = self._windows
        self._next = [self._head, *self._blocks, bytes(self._current), b"\n]}\n"]
        self._wake.set()

    def end(self) -> None:
        """The last of it."""
        if self._thread is not None:
            self._publish()
            self._ending = True  # after what it still has to write, before what wakes it last
            self._wake.set()
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                self._tell(f"note: trace '{self._path}': the disk is slow, the last windows may not be in it")
            self.tick(monotonic_ns())

    def _write_all(self) -> None:
        while not self._ending or self._next is not None:
            self._wake.wait()
            self._wake.clear()
            parts, self._next = self._next, None
            if parts is None:
                continue
            try:
                write_atomic(self._path, b"".join(parts))
            except OSError as error:
                self._error = error
