"""Time stamps to sample numbers.

There are two kinds of stamps, and a stream shows which it has.

*Exact*: one for each sample, a period apart, as a device's own clock gives them. Any step beyond 1.5 periods is a hole
of its length, back or forth (as in `sattn_edge.windows.gaps`, by which calibration cuts recordings).

*Arrival*: packets of samples that share a stamp, or stamps by whoever received them, late by this much or that. A step
tells nothing there. What does is how late a stamp is, against the earliest of the last ones, for the number of its
sample: jitter goes away again, a hole stays. A hole is where that lateness exceeds all that was seen before by half a
packet, and at least `jitter_s`. A shorter one can't be told from jitter; an event says so when the stream turns out to
be of this kind.

Stamps count as arrival from the first step below half a period on, and as exact again after 256 even steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sattn_edge.windows import GAP_PERIODS
from sattn_runtime.arrivals import Arrivals
from sattn_runtime.events import Event
from sattn_runtime.pieces import Break, Numbered
from sattn_runtime.sequencer import Sequencer, rising

_SHORT_PERIODS = 0.5  # a shorter step is no step from sample to sample
_ESTABLISHED = 8  # even steps after which an equal stamp on equal values is a doubled sample
_EXACT_AGAIN = 256
_LATE_SAMPLES = 16  # a step back by at most this, into a gap that was declared, is a late sample and no clock set back
_OTHER_RATE = 32  # so many holes in a row, all alike: that is another rate
_ON_GRID = 0.25  # periods
_LATEST_S = 1e12  # no clock shows more; a number of samples counted from it still fits
_BEFORE_ALL = -(1 << 62)  # a number below any that comes


class StampClock:
    """The numbers of one stream's samples by their stamps. `order` knows which numbers have come."""

    def __init__(self, rate_hz: float, jitter_s: float, order: Sequencer) -> None:
        self.exact = True
        self.time_s: float | None = None  # of the newest sample
        self.number = _BEFORE_ALL  # of the newest sample
        self._period_s, self._rate_hz, self._order = 1 / rate_hz, rate_hz, order
        self._checking = False  # whether numbers come with the samples
        self._even = 0  # steps of one period in a row
        self._alike, self._step = 0, 0.0  # holes in a row
        self._arrivals = Arrivals(rate_hz, jitter_s)

    @property
    def jitter_s(self) -> float:
        """How late stamps have been."""
        return 0.0 if self.exact and not self._checking else self._arrivals.spread_s

    @property
    def other_rate(self) -> bool:
        """Whether lately there was a hole before every sample or packet, all alike."""
        return self._alike >= _OTHER_RATE if self.exact else self._arrivals.other_rate

    def number_chunk(self, stamps: NDArray[np.float64], rows: NDArray[np.float32]) -> Numbered:
        """Stamps float64 [n] of samples [n, modal] to their numbers; n is 1 or more."""
        period, count = self._period_s, len(stamps)
        before = float(stamps[0]) - period if self.time_s is None else self.time_s
        even = self._is_even(stamps, before)
        if even and (self.exact or self._even + count >= _EXACT_AGAIN):
            numbers = np.arange(self.number + 1, self.number + 1 + count)
            found = Numbered(numbers, derived=True, before_s=self.time_s, ordered=True)
            self.exact, self._alike = True, 0
            self._even += count
            self.number += count
            self.time_s = float(stamps[-1])
            return found
        found = Numbered(np.empty(0, np.int64), derived=True, before_s=self.time_s)
        steps = np.diff(stamps, prepend=before)
        if self.exact and self._is_arrival(steps, rows):
            self._become_arrival(before)
            self._number_arrivals(stamps, before, found)
            found.events.append(Event("jitter", seconds=self._arrivals.least_s))
        elif self.exact:
            self._number_exact(stamps, rows, before, found)
        else:
            self._even = self._even + len(steps) if even else 0
            self._number_arrivals(stamps, before, found)
        return found

    def _is_even(self, stamps: NDArray[np.float64], before: float) -> bool:
        """Whether every step is about one period."""
        least, most = _SHORT_PERIODS * self._period_s, GAP_PERIODS * self._period_s
        if not least < float(stamps[0]) - before <= most:
            return False
        if len(stamps) == 1:
            return True
        steps = stamps[1:] - stamps[:-1]
        return bool(np.minimum.reduce(steps) > least and np.maximum.reduce(steps) <= most)

    def _is_arrival(self, steps: NDArray[np.float64], rows: NDArray[np.float32]) -> bool:
        """Whether some step is too short for two samples, and neither doubles one nor brings an older one."""
        period = self._period_s
        for at in np.flatnonzero((steps <= _SHORT_PERIODS * period) & (steps >= -GAP_PERIODS * period)).tolist():
            back = float(steps[at]) / period
            if back == 0 and self._doubles(at, steps, rows):
                continue
            if back <= -_SHORT_PERIODS and abs(back - round(back)) < _ON_GRID:
                continue  # on the grid of samples: one that came behind a later one, or a clock set back by a sample
            return True
        return False

    def _doubles(self, at: int, steps: NDArray[np.float64], rows: NDArray[np.float32]) -> bool:
        """Whether a sample with the stamp of the one before repeats it. Behind a long step it is catching up."""
        if self._even + at < _ESTABLISHED or (at and steps[at - 1] > GAP_PERIODS * self._period_s):
            return False
        if at:
            return bool(rows[at].tobytes() == rows[at - 1].tobytes())
        return bool(self._order.history.same(self.number, rows[0]))

    def _become_arrival(self, before_s: float) -> None:
        self.exact, self._even = False, 0
        self._arrivals.begin(before_s, self.number)

    def _number_arrivals(self, stamps: NDArray[np.float64], before_s: float, found: Numbered) -> None:
        self.number, self.time_s = self._arrivals.number(stamps, self.number, before_s, found)

    def _number_exact(
        self, stamps: NDArray[np.float64], rows: NDArray[np.float32], before: float, found: Numbered
    ) -> None:
        found.numbers = numbers = np.empty(len(stamps), np.int64)
        time_s, number, period = before, self.number, self._period_s
        for at, stamp in enumerate(stamps.tolist()):
            step = stamp - time_s
            if _SHORT_PERIODS * period < step <= GAP_PERIODS * period:
                self._even += 1
                self._alike = 0
                new = number + 1
            elif step > GAP_PERIODS * period:
                self._even = 0
                new = number + max(2, round(step / period))
                self._note_hole(step, found)
            elif step > 0:
                new = number + 1
            else:
                old = self._back(step, number, numbers[:at], rows[: at + 1])
                if old is not None:
                    numbers[at] = old
                    continue
                new, self._even = number + 1, 0
                found.breaks[at] = Break(step, None, "clock")
            numbers[at] = number = new
            time_s = stamp
        self.time_s, self.number = time_s, number

    def _back(self, step: float, newest: int, numbers: NDArray[np.int64], rows: NDArray[np.float32]) -> int | None:
        """The number of the last of `rows`, whose stamp is not behind the newest; None if the clock was set back.

        numbers: of the rows before it, all of this chunk.
        """
        back = round(step / self._period_s)
        if abs(step / self._period_s - back) >= _ON_GRID:
            return None
        old = newest + back
        here = np.flatnonzero(numbers == old)
        if len(here):
            same: bool | None = rows[here[-1]].tobytes() == rows[-1].tobytes()
        else:
            same = self._order.history.same(old, rows[-1])
        order = self._order
        missing = not len(here) and (old > self.number or order.is_missing(old) or order.awaits(old))
        if same or -back <= self._order.reorder or (missing and -back <= _LATE_SAMPLES):
            return old
        return None

    def _note_hole(self, step: float, found: Numbered) -> None:
        """Hole after hole of one length is not loss: the sensor runs at another rate."""
        self._alike = self._alike + 1 if abs(step - self._step) <= _ON_GRID * self._period_s else 1
        self._step = step
        if self._alike == _OTHER_RATE:
            found.events.append(Event("drift", value=(step * self._rate_hz - 1) * 1e6))

    def skip(self, samples: int) -> None:
        """So many samples were lost on the way, which their stamps will show too; until then nothing is known."""
        self.number += samples
        self.time_s = None
        self._arrivals.begin(None, self.number)

    def whole(self, stamps: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same stamps; those that are no time (NaN, infinite, beyond all dates) from the others around them."""
        if abs(float(np.add.reduce(stamps))) <= _LATEST_S:  # False for NaN
            return stamps
        times = np.abs(stamps) <= _LATEST_S  # False for NaN
        known = np.flatnonzero(times)
        if len(known) == len(stamps):
            return stamps
        before = 0.0 if self.time_s is None else self.time_s
        ramp = np.arange(len(stamps), dtype=np.float64) * self._period_s
        if not len(known):
            return before + self._period_s + ramp
        offsets = np.interp(np.arange(len(stamps)), known, stamps[known] - ramp[known])
        mended: NDArray[np.float64] = np.where(times, stamps, offsets + ramp)
        return mended

    def check(self, stamps: NDArray[np.float64], numbers: NDArray[np.int64]) -> Numbered:
        """For a source that numbers its samples: only where its clock jumped against the numbers."""
        self._checking = True
        found = Numbered(numbers, before_s=self.time_s)
        if int(numbers[0]) > self.number and rising(numbers):
            found.ordered = True
            self.number, self.time_s = self._arrivals.check(stamps, numbers, found)
        return found

    def restart(self) -> None:
        """The source began anew."""
        self.number, self.time_s = _BEFORE_ALL, None
        self._arrivals.begin(None, _BEFORE_ALL)
