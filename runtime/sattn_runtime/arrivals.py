"""Stamps that are not those of single samples: how late each is for the number of its sample.

Lateness counts against the earliest of the last 256 stamps. Only the first sample of each packet is looked at, since
the others of it share its stamp.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sattn_edge.windows import GAP_PERIODS
from sattn_runtime.events import Event
from sattn_runtime.pieces import Break, Numbered

_BLOCK = 256
_FROZEN_S = 2.0
_FROZEN_PACKETS = 4
_OTHER_RATE = 8  # packets in a row with as long a hole before each: that is another rate
# How fast the spread that was seen once is forgotten, a stamp.
_FORGET = 0.999
# With numbers a jump comes at once; what grows by less from stamp to stamp is another rate.
_AT_ONCE = 0.75


class SlidingMin:
    """The least of the last `size` values."""

    def __init__(self, size: int) -> None:
        self._size, self._count = size, 0
        self._rising: deque[tuple[int, float]] = deque()
        self.last = 0.0

    def push(self, value: float) -> None:
        """Takes a value."""
        rising = self._rising
        while rising and rising[-1][1] >= value:
            rising.pop()
        rising.append((self._count, value))
        if rising[0][0] <= self._count - self._size:
            rising.popleft()
        self._count += 1
        self.last = value

    @property
    def least(self) -> float:
        """The least; there must be one."""
        return self._rising[0][1]


class Arrivals:
    """One stream's stamps against its numbers."""

    def __init__(self, rate_hz: float, jitter_s: float) -> None:
        self.spread_s = 0.0  # the latest a stamp has been
        self._period_s = 1 / rate_hz
        self._floor_s = max(jitter_s, GAP_PERIODS / rate_hz)
        self._packet = 1  # the longest run of equal stamps
        self._regular = True  # all packets are as long
        self._equal = 0  # samples with the newest stamp
        self._frozen = False
        self._alike, self._hole = 0, 0  # packets in a row with a hole of so many samples before each
        self.begin(None, -1)

    @property
    def other_rate(self) -> bool:
        """Whether every packet lately had a hole before it, all alike."""
        return self._alike >= _OTHER_RATE

    @property
    def least_s(self) -> float:
        """The shortest hole that shows."""
        packet_s = self._packet * self._period_s if self._packet > 1 else 0.0
        return max(self._floor_s, max(self.spread_s, 0.25 * packet_s) + 0.5 * packet_s)

    def begin(self, time_s: float | None, number: int) -> None:
        """Measures from this sample on; without a time, from the next."""
        self._origin = None if time_s is None else (time_s, number)
        self._lateness = SlidingMin(_BLOCK)
        if time_s is not None:
            self._lateness.push(0.0)

    def number(self, stamps: NDArray[np.float64], number: int, before_s: float, found: Numbered) -> tuple[int, float]:
        """Fills in the numbers of stamps [n] behind sample `number`; returns the newest number and its stamp."""
        parts = []
        for begin in range(0, len(stamps), _BLOCK):
            block = stamps[begin : begin + _BLOCK]
            parts.append(self._number_block(block, number, before_s, begin, found))
            number, before_s = int(parts[-1][-1]), float(block[-1])
        found.numbers = np.concatenate(parts)
        return number, before_s

    def _number_block(
        self, stamps: NDArray[np.float64], number: int, before_s: float, offset: int, found: Numbered
    ) -> NDArray[np.int64]:
        numbers = np.arange(number + 1, number + 1 + len(stamps))
        steps = np.diff(stamps, prepend=before_s)
        changes = np.flatnonzero(steps)
        self._note_packets(changes, len(stamps), found)
        for at in changes.tolist():
            stamp = float(stamps[at])
            jump_s = self._judge(stamp, int(numbers[at]))
            if jump_s is None:
                self._alike = 0
                continue
            if jump_s > 0:
                missing = self._missing(jump_s)
                numbers[at:] += missing
                self._note_hole(missing, found)
            else:
                found.breaks[offset + at] = Break(float(steps[at]), None, "clock")
            self.begin(stamp, int(numbers[at]))
        return numbers

    def _judge(self, stamp: float, number: int) -> float | None:
        """How far a stamp jumped, in seconds; None if it did not."""
        if self._origin is None:
            self.begin(stamp, number)
            return None
        lateness = stamp - self._origin[0] - (number - self._origin[1]) * self._period_s
        late = lateness - self._lateness.least
        if late > self.least_s:
            return late
        if lateness - self._lateness.last < -self.least_s:
            return lateness - self._lateness.last
        self.spread_s = max(late, self.spread_s * _FORGET)
        self._lateness.push(lateness)
        return None

    def _missing(self, jump_s: float) -> int:
        """A hole's length in samples: of whole packets where all are alike."""
        size = self._packet if self._regular else 1
        return max(1, round(jump_s / self._period_s / size)) * size

    def _note_hole(self, missing: int, found: Numbered) -> None:
        """Hole after hole of one length is not loss: the sensor runs at another rate."""
        self._alike = self._alike + 1 if missing == self._hole else 1
        self._hole = missing
        if self._alike == _OTHER_RATE:
            found.events.append(Event("drift", value=missing / self._packet * 1e6))

    def _note_packets(self, changes: NDArray[np.int64], count: int, found: Numbered) -> None:
        """Learns how long packets are, and where the clock stood still."""
        if len(changes) == count and self._equal <= 1:
            self._equal = 1
            return
        ends = [*changes.tolist(), count]
        self._equal += ends[0]
        self._note_frozen(found)
        for begin, end in pairwise(ends):
            self._end_packet(found)
            self._equal = end - begin
            self._note_frozen(found)

    def _note_frozen(self, found: Numbered) -> None:
        """Told while it lasts: it may never end."""
        stood_s = self._equal * self._period_s
        if not self._frozen and stood_s >= max(_FROZEN_S, _FROZEN_PACKETS * self._packet * self._period_s):
            self._frozen = True
            found.events.append(Event("frozen", count=self._equal, seconds=stood_s))

    def _end_packet(self, found: Numbered) -> None:
        if self._frozen:
            self._frozen = False
            found.events.append(Event("frozen_over", count=self._equal, seconds=self._equal * self._period_s))
        elif self._equal:
            self._regular = self._regular and self._packet in (1, self._equal)
            self._packet = max(self._packet, self._equal)

    def check(self, stamps: NDArray[np.float64], numbers: NDArray[np.int64], found: Numbered) -> tuple[int, float]:
        """Looks for jumps of the clock against given numbers [n], which rise; returns the newest number and stamp."""
        for at in self._worth_a_look(stamps, numbers, found):
            stamp, number, last = float(stamps[at]), int(numbers[at]), self._lateness.last
            jump_s = self._judge(stamp, number)
            if jump_s is None or self._origin is None:
                continue
            lateness = stamp - self._origin[0] - (number - self._origin[1]) * self._period_s
            if jump_s > 0 and lateness - last <= _AT_ONCE * self.least_s:
                self._lateness.push(lateness)
                continue
            found.breaks[at] = Break(jump_s, None, "clock")
            self.begin(stamp, number)
        return int(numbers[-1]), float(stamps[-1])

    def _worth_a_look(self, stamps: NDArray[np.float64], numbers: NDArray[np.int64], found: Numbered) -> list[int]:
        """Of stamps that all differ and are near, the first and the last; else all that differ from the one before."""
        before_s = float(stamps[0]) - 1 if found.before_s is None else found.before_s
        last = len(stamps) - 1
        if last and int(numbers[-1]) - int(numbers[0]) == last and self._equal <= 1 and stamps[0] != before_s:
            steps = stamps[1:] - stamps[:-1]
            near = _AT_ONCE * self._floor_s
            whole = abs(float(stamps[-1] - stamps[0]) - last * self._period_s) <= near
            if whole and np.minimum.reduce(steps) > 0 and np.maximum.reduce(steps) <= self._period_s + near:
                self._equal = 1
                return [0, last]
        changes = np.flatnonzero(np.diff(stamps, prepend=before_s))
        self._note_packets(changes, len(stamps), found)
        return list(changes.tolist())
