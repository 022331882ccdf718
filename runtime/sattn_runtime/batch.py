"""Windows of several streams, inferred together where that is faster.

Each stream keeps its own ring, clock, monitor and decider; only inference is shared. Windows wait in one batch, which
runs when it is full, before any of its streams crosses a gap, and when it is told to. So each stream's decisions come
in its own order and are those it would have made alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import Engine
from sattn_edge.errors import UsageError
from sattn_runtime.decision import Decision
from sattn_runtime.pieces import Break, Piece
from sattn_runtime.stream import Stream
from sattn_runtime.stream_options import StreamOptions

BATCHES = (1, 2, 4, 8, 16, 32, 64)
_ROUNDS = 5
# A larger batch makes its first window wait for the last: it has to be worth it.
_WORTH = 0.9


@dataclass(slots=True)
class _Pending:
    """A window on its way: its place in the batch, or why there is nothing to infer."""

    stream: BatchedStream
    first: int
    times: tuple[int, int, int]
    place: int
    bad: str | None


class Batch:
    """At most `size` windows of any streams of one thread, in the order they became whole."""

    def __init__(self, engine: Engine, size: int) -> None:
        if size < 1:
            raise UsageError("batch", f"got {size}", "a number of windows, 1 or more")
        contract = engine.contract
        self.engine, self.size = engine, size
        self._windows = np.zeros((size, 1, contract.window, contract.modal), np.float32)
        self._used = 0
        self._pending: list[_Pending] = []
        self._stamps = [0, 0, 0]

    def add(self, pending: _Pending, view: NDArray[np.float32]) -> None:
        """Takes a window [series, modal], which is copied."""
        if pending.bad is None:
            pending.place = self._used
            self._windows[self._used, 0] = view
            self._used += 1
        self._pending.append(pending)
        if self._used == self.size:
            self.run()

    def run(self) -> None:
        """Decides on all that waits."""
        pending, used = self._pending, self._used
        self._pending, self._used = [], 0
        rows: list[list[float]] = []
        if used:
            rows = self.engine.infer_stamped(self._windows[:used], self._stamps).tolist()
        for one in pending:
            one.stream.conclude(one, rows, self._stamps)


class BatchedStream(Stream):
    """A stream whose windows go into a batch, and whose decisions are delivered when that has run."""

    _SHARED: ClassVar[frozenset[str]] = Stream._SHARED | {"_batch", "_deliver"}

    def __init__(
        self,
        batch: Batch,
        hop: int | None,
        options: StreamOptions,
        statistics: Mapping[str, Any] | None,
        deliver: Callable[[Decision], object],
    ) -> None:
        super().__init__(batch.engine, hop, options=options, statistics=statistics)
        self._batch, self._deliver = batch, deliver

    def _feed(
        self, samples: NDArray[np.float32], arrival_ns: int | None, period_ns: int, finite: bool
    ) -> Iterator[Decision]:
        started = monotonic_ns()
        self._look(samples, finite)
        after = self.ring.samples + len(samples) - self.ring.window
        for first, view in self.ring.feed(samples):
            due = started if arrival_ns is None else min(started, arrival_ns - (after - first) * period_ns)
            times = (due, started, monotonic_ns())
            self._batch.add(_Pending(self, first, times, -1, self._guard.bad(first, view)), view)
            started = monotonic_ns()
        yield from ()

    def _cross(self, hole: Break, behind: Piece, number: int) -> Iterator[Decision]:
        self._batch.run()  # a gap makes the decider forget: what came before it has to be decided before
        yield from super()._cross(hole, behind, number)

    def conclude(self, pending: _Pending, rows: list[list[float]], stamps: list[int]) -> None:
        """Decides on one of its windows, from the batch's logits."""
        if pending.bad is not None:
            self._deliver(self._refuse(pending.first, pending.bad, pending.times))
        else:
            self._deliver(self._conclude(pending.first, rows[pending.place], pending.times, stamps))


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
