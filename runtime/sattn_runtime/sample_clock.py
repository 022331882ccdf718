"""The sample clock: what stands before the ring and sees to it that a window holds consecutive samples.

Where a chunk has sequence numbers they say what is missing, doubled or late, and its time stamps only whether the
source's clock jumped. Without numbers the time stamps say it (`stamp_clock`). Without both nothing can be told, and
samples pass through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sattn_edge.errors import UsageError
from sattn_runtime.events import Event
from sattn_runtime.pieces import Break, Numbered, Piece, Step
from sattn_runtime.rate_watch import RateWatch
from sattn_runtime.sequencer import Sequencer
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stamp_clock import StampClock


@dataclass(frozen=True)
class ClockOptions:
    """How much disorder is put right.

    reorder: so many later samples may come before one; they are held back for it. None is 0, or what the source knows.
    patience_s: they are held back for so long, up to 16,384 of them, by a source that loses nothing on the way.
    jitter_s: stamps of the time of arrival may be late by this without meaning a hole.
    drift_ppm: a rate off by more is told.
    """

    reorder: int | None = None
    patience_s: float = 0.0
    jitter_s: float = 0.05
    drift_ppm: float = 5000.0

    def check(self) -> None:
        """Raises UsageError for what can't be."""
        if self.reorder is not None and self.reorder < 0:
            raise UsageError("reorder", f"got {self.reorder}", "a number of samples, 0 or more")


class SampleClock:
    """One stream's clock."""

    def __init__(self, rate_hz: float, modal: int, options: ClockOptions) -> None:
        options.check()
        self.order = Sequencer(modal, options.reorder or 0, 1 / rate_hz, options.patience_s)
        self.rate = RateWatch(rate_hz, options.drift_ppm)
        self._stamps = StampClock(rate_hz, options.jitter_s, self.order)
        self.rate_hz, self._period_s = rate_hz, 1 / rate_hz
        self._lost = 0
        self._before_lost_s: float | None = None
        self._numbered: bool | None = None

    @property
    def wrong_rate(self) -> bool:
        """Whether the samples come at a rate too far from the contract's to be decided on."""
        return self.rate.wrong or self._stamps.other_rate

    def take(self, chunk: Chunk) -> list[Step]:
        """A chunk as pieces, breaks and events, in their order.

        Raises:
            UsageError: not one number, or not one stamp, for each sample.
        """
        _check(chunk)
        if not len(chunk.samples):
            return []
        numbered = chunk.sequence is not None
        steps = self._change(numbered) if numbered is not self._numbered else []
        if chunk.timestamp_s is not None:
            whole = self._stamps.whole(chunk.timestamp_s)
            if whole is not chunk.timestamp_s:  # one that is no time must not stop the stream
                steps.append(Event("no_time", count=int((whole != chunk.timestamp_s).sum())))
                chunk = replace(chunk, timestamp_s=whole)
        if chunk.sequence is None and chunk.timestamp_s is None:
            steps += self._forget()
            piece = Piece(chunk.samples, chunk.arrival_ns, chunk.period_ns, chunk.finite, 0)
            return [*steps, *self._lost_here(), piece]
        stamped = self._number(chunk)
        if self._lost and numbered and self.order.next is None:
            self._lost = 0  # nothing came before it: there is no gap whose cause it would be
        if self._lost and not numbered:
            for gap in self._lost_here(chunk.timestamp_s):
                self.order.break_at(int(stamped.numbers[0]), gap, steps)
        steps += stamped.events
        steps += self.order.take(chunk, stamped)
        self._blame_overload(steps)
        if any(isinstance(step, Break) and step.cause == "restart" for step in steps):
            self._stamps.restart()
            self.rate.begin()
        elif chunk.timestamp_s is not None:
            steps += self._watch_rate(chunk, stamped)
        return steps

    def _forget(self) -> list[Step]:
        """Samples without number or stamp come in between: what is behind them can't be compared with what was."""
        if self.order.next is None:
            return []
        steps = self.order.flush()
        self.order.forget()
        self._stamps.restart()
        self.rate.begin()
        return steps

    def _number(self, chunk: Chunk) -> Numbered:
        if chunk.timestamp_s is None:
            assert chunk.sequence is not None  # noqa: S101 - `take` has looked
            return Numbered(chunk.sequence)
        if chunk.sequence is None:
            return self._stamps.number_chunk(chunk.timestamp_s, chunk.samples)
        return self._stamps.check(chunk.timestamp_s, chunk.sequence)

    def _change(self, numbered: bool) -> list[Step]:
        """A source that begins or ceases to number its samples: numbers of both kinds can't be compared."""
        steps: list[Step] = []
        if self._numbered is not None:
            steps += self.order.flush()
            self.order.forget()
            self._stamps.restart()
        self._numbered = numbered
        return steps

    def expect(self, number: int) -> None:
        """The stream goes on from an earlier one at this number of the source: what it leaves out is missing."""
        self.order.next, self._numbered = number, True

    def lost(self, samples: int) -> None:
        """So many samples were dropped on the way here, by a full queue: a gap before the next ones."""
        if not self._lost:
            self._before_lost_s = self._stamps.time_s
        self._lost += samples
        if not self._numbered:
            self._stamps.skip(samples)

    def _lost_here(self, stamps: NDArray[np.float64] | None = None) -> list[Break]:
        count, self._lost = self._lost, 0
        if not count:
            return []
        seconds = (count + 1) * self._period_s
        if stamps is not None and self._before_lost_s is not None and self._stamps.exact:
            # What the queue dropped may have had holes of its own.
            shown_s = float(stamps[0]) - self._before_lost_s
            missing = round(shown_s / self._period_s) - 1
            if missing > count:
                count, seconds = missing, shown_s
        return [Break(seconds, count, "overload")]

    def _blame_overload(self, steps: list[Step]) -> None:
        """The next gap in a source's own numbers is that of the queue."""
        if self._lost:
            for step in steps:
                if isinstance(step, Break) and step.missing:
                    step.cause, self._lost = "overload", 0
                    return

    def _watch_rate(self, chunk: Chunk, stamped: Numbered) -> list[Step]:
        stamps = chunk.timestamp_s
        if stamps is None:
            return []
        if stamped.breaks:
            self.rate.begin()
            return []
        changed = False
        for at in _telling(stamps, stamped.before_s):
            changed |= self.rate.add(int(stamped.numbers[at]), float(stamps[at]), self._stamps.jitter_s)
        if not changed:
            return []
        return [Event("drift" if self.rate.drifting else "drift_over", value=self.rate.ppm)]

    def flush(self) -> list[Step]:
        """The stream ends: nothing is waited for any more."""
        return self.order.flush()


def _telling(stamps: NDArray[np.float64], before_s: float | None) -> list[int]:
    """The first and the last sample whose stamp is its own, and not that of a packet which began before it."""
    last = len(stamps) - 1
    own = stamps[0] != before_s and (not last or stamps[last] != stamps[last - 1])
    if own:
        return [0, last] if last else [0]
    changes = np.flatnonzero(np.diff(stamps, prepend=stamps[0] - 1 if before_s is None else before_s)).tolist()
    return [changes[0], changes[-1]] if len(changes) > 1 else changes


def _check(chunk: Chunk) -> None:
    for name, values in (("sequence", chunk.sequence), ("timestamp_s", chunk.timestamp_s)):
        if values is not None and len(values) != len(chunk.samples):
            given = f"the chunk has {len(chunk.samples)} samples"
            raise UsageError(f"chunk.{name}", f"has {len(values)} entries", given)
