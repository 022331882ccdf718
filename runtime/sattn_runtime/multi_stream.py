"""Several streams that share an engine, their windows decided together where that is faster.

Each stream keeps its own ring, clock, monitor and decider; only inference is shared. Windows wait in one batch, which
runs when it is full, before any of its streams crosses a gap, and at the end of every call. So no window waits for a
chunk that has not come, and each stream's decisions come in its own order and are those it would have made alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import Engine
from sattn_edge.errors import UsageError
from sattn_runtime.decision import Decision
from sattn_runtime.pieces import Break, Piece
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stream import Stream
from sattn_runtime.stream_options import StreamOptions

BATCHES = (1, 2, 4, 8, 16, 32, 64)
_ROUNDS = 5
# A larger batch makes its first window wait for the last: it has to be worth it.
_WORTH = 0.9


@dataclass(slots=True)
class _Pending:
    """A window on its way: its place in the batch, or why there is nothing to infer."""

    stream: _BatchedStream
    first: int
    times: tuple[int, int, int]
    place: int
    bad: str | None


class _Batch:
    """Windows of any streams, in the order they became whole."""

    def __init__(self, engine: Engine, size: int) -> None:
        contract = engine.contract
        self._engine, self._size = engine, size
        self._windows = np.zeros((size, 1, contract.window, contract.modal), np.float32)
        self._used = 0
        self._pending: list[_Pending] = []
        self._stamps = [0, 0, 0]
        self.decided: list[tuple[str, Decision]] = []

    def add(self, pending: _Pending, view: NDArray[np.float32]) -> None:
        if pending.bad is None:
            pending.place = self._used
            self._windows[self._used, 0] = view
            self._used += 1
        self._pending.append(pending)
        if self._used == self._size:
            self.run()

    def run(self) -> None:
        """Decides on all that waits."""
        pending, used = self._pending, self._used
        self._pending, self._used = [], 0
        rows: list[list[float]] = []
        if used:
            rows = self._engine.infer_stamped(self._windows[:used], self._stamps).tolist()
        for one in pending:
            self.decided.append((one.stream.name, one.stream.conclude(one, rows, self._stamps)))


class _BatchedStream(Stream):
    """A stream whose windows go into a batch."""

    def __init__(self, name: str, batch: _Batch, engine: Engine, hop: int | None, options: _Options) -> None:
        super().__init__(engine, hop, options=options.stream, statistics=options.statistics)
        self.name, self._batch = name, batch

    def _feed(
        self, samples: NDArray[np.float32], arrival_ns: int | None, period_ns: int, finite: bool
    ) -> Iterator[Decision]:
        started = monotonic_ns()
        self._look(samples, finite)
        after = self.ring.samples + len(samples) - self.ring.window
        for first, view in self.ring.feed(samples):
            due = started if arrival_ns is None else min(started, arrival_ns - (after - first) * period_ns)
            times = (due, started, monotonic_ns())
            self._batch.add(_Pending(self, first, times, -1, self._bad(first, view)), view)
            started = monotonic_ns()
        yield from ()

    def _cross(self, hole: Break, behind: Piece, number: int) -> Iterator[Decision]:
        self._batch.run()  # a gap makes the decider forget: what came before it has to be decided before
        yield from super()._cross(hole, behind, number)

    def conclude(self, pending: _Pending, rows: list[list[float]], stamps: list[int]) -> Decision:
        """The decision on one of its windows, from the batch's logits."""
        if pending.bad is not None:
            return self._refuse(pending.first, pending.bad, pending.times)
        return self._conclude(pending.first, rows[pending.place], pending.times, stamps)


@dataclass(frozen=True)
class _Options:
    stream: StreamOptions
    statistics: Mapping[str, Any] | None


class MultiStream:
    """Streams by name, on one engine, in one thread.

    Args:
        engine: shared by all of them.
        hop, options, statistics: as for each `Stream`.
        batch: at most so many windows in one inference; measured on this machine if None.
    """

    def __init__(
        self,
        engine: Engine,
        hop: int | None = None,
        options: StreamOptions | None = None,
        statistics: Mapping[str, Any] | None = None,
        batch: int | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise UsageError("batch", f"got {batch}", "a number of windows, 1 or more")
        self.batch = fastest_batch(engine) if batch is None else batch
        self.streams: dict[str, Stream] = {}
        self._engine, self._hop = engine, hop
        self._options = _Options(options or StreamOptions(), statistics)
        self._batch = _Batch(engine, self.batch)

    def process(self, chunks: Iterable[tuple[str, Chunk]]) -> list[tuple[str, Decision]]:
        """Takes chunks by the name of their stream, a new one with its first; returns what they complete.

        Raises:
            UsageError: a chunk of another shape. Those before it are taken, and decided with the next call.
        """
        for name, chunk in chunks:
            for _ in self._stream(name).process(chunk):
                raise RuntimeError("a batched stream decided on its own")
        return self._decide()

    def _stream(self, name: str) -> Stream:
        if name not in self.streams:
            self.streams[name] = _BatchedStream(name, self._batch, self._engine, self._hop, self._options)
        return self.streams[name]

    def _decide(self) -> list[tuple[str, Decision]]:
        self._batch.run()
        decided, self._batch.decided = self._batch.decided, []
        return decided

    def finish(self) -> list[tuple[str, Decision]]:
        """All streams end."""
        for stream in self.streams.values():
            for _ in stream.finish():
                raise RuntimeError("a batched stream decided on its own")
        return self._decide()


def fastest_batch(engine: Engine, sizes: Sequence[int] = BATCHES) -> int:
    """The batch size that costs least time a window here, by the least of some turns; 1 where none is clearly better.

    A size that the engine was not built for is passed over.
    """
    contract = engine.contract
    windows = np.zeros((max(sizes), 1, contract.window, contract.modal), np.float32)
    took: dict[int, float] = {}
    for _ in range(_ROUNDS):
        for size in sizes:
            began = monotonic_ns()
            try:
                engine.infer(windows[:size])
            except UsageError:
                continue
            spent = (monotonic_ns() - began) / size
            took[size] = min(spent, took.get(size, spent))
    best = min(took, key=lambda size: took[size], default=1)
    alone = took.get(1)
    return best if alone is None or took[best] < _WORTH * alone else 1
