"""Latency by stage, in fixed buckets: no array is made while running, quantiles within 0.4 % of the truth.

    due      arrival of the window's last sample (paced replay: its scheduled time)
    done     decision handed over
    latency  done - due = wait + assemble + copy_in + infer + copy_out + decide + emit

Because due is the schedule's and not the loop's, a stall counts for every window that had to wait behind it.

The error: an octave of nanoseconds has 128 buckets, a quantile is given as the middle of its bucket, so it is off by at
most half a bucket, 1/256 or 0.39 % of the value; below 256 ns every bucket is one nanosecond. The maximum is exact.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

# Up to `decide` a journal line can hold them; `emit` ends after the line is written.
STAGES = ("wait", "assemble", "copy_in", "infer", "copy_out", "decide", "emit")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_SUB_BITS = 7  # 128 buckets an octave
_TOP_BITS = 44  # 4.9 hours; longer ones land in the last bucket, the maximum stays exact

ROWS = 512  # windows that are counted together
_ROW = struct.Struct(f"{len(STAGES) + 2}q")  # the stages, done, lane


class Histogram:
    """Counts of durations in ns, in buckets whose width is at most 1/128 of their value."""

    def __init__(self) -> None:
        self._counts = np.zeros(((_TOP_BITS - _SUB_BITS) << _SUB_BITS) + 2, np.int64)
        # Made once and used for every block: the loop must not wait for memory.
        self._values, self._places, self._shifts = (np.zeros(ROWS, np.int64) for _ in range(3))
        self._floats, self._bits = np.zeros(ROWS), np.zeros(ROWS, np.int32)
        self.count = 0
        self.max_ns = 0
        self.total_ns = 0

    def add(self, duration_ns: int) -> None:
        """Counts one duration; a negative one (clocks of two sources) counts as 0."""
        self.add_many(np.asarray([duration_ns], np.int64))

    def add_many(self, durations_ns: NDArray[np.int64]) -> None:
        """Counts durations int64 [n] in ns."""
        for begin in range(0, len(durations_ns), ROWS):
            self._add_block(durations_ns[begin : begin + ROWS])

    def _add_block(self, durations_ns: NDArray[np.int64]) -> None:
        """At most ROWS of them. Every step writes into an array that is there."""
        count = len(durations_ns)
        values, places, shifts = self._values[:count], self._places[:count], self._shifts[:count]
        np.maximum(durations_ns, 0, out=values)
        self._floats[:count] = values
        # frexp's exponent is the number of bits: exact below 2**53 ns, 104 days.
        np.frexp(self._floats[:count], self._floats[:count], self._bits[:count])
        shifts[:] = self._bits[:count]
        shifts -= _SUB_BITS + 1
        np.maximum(shifts, 0, out=shifts)
        np.right_shift(values, shifts, out=places)
        np.left_shift(shifts, _SUB_BITS, out=shifts)
        places += shifts
        np.minimum(places, len(self._counts) - 1, out=places)
        np.add.at(self._counts, places, 1)
        self.count += count
        self.total_ns += int(values.sum())
        self.max_ns = max(self.max_ns, int(values.max()))

    def quantile_ns(self, q: float) -> float:
        """The duration that a part `q` of the counted ones do not exceed (nearest rank), 0 if there are none."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(q * self.count))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_middle(place), self.max_ns)

    def cumulative(self, edges_ns: list[int]) -> list[int]:
        """How many durations lie at or below each edge, ascending; off by at most those within an edge's bucket.

        One more at the end: how many there are, from the same look, since `count` may be behind on another thread.
        """
        middles = [bisect_right(_MIDDLES, edge) for edge in edges_ns]
        sums = np.concatenate([[0], np.cumsum(self._counts)])
        return [*(int(sums[place]) for place in middles), int(sums[-1])]

    def summary_us(self) -> dict[str, float]:
        """p50 to p99.9, max and mean in microseconds."""
        rows = {name: self.quantile_ns(q) / 1000 for name, q in QUANTILES.items()}
        rows["max"] = self.max_ns / 1000
        rows["mean"] = self.total_ns / self.count / 1000 if self.count else 0.0
        return {name: round(value, 2) for name, value in rows.items()}


def _middle(place: int) -> float:
    shift = max(0, (place >> _SUB_BITS) - 1)
    low = (place - (shift << _SUB_BITS)) << shift
    return low + ((1 << shift) - 1) / 2


_MIDDLES = [_middle(place) for place in range(((_TOP_BITS - _SUB_BITS) << _SUB_BITS) + 2)]


class Latency:
    """What a run's windows took: a histogram a stage, one of the whole, misses, the longest stall, jitter.

    A window only adds one row, so that it costs next to nothing; rows are counted some hundred at a time, after a
    window's decision was handed over. Whoever reads calls `fold` first.

    `rows` are those of windows that are not counted yet, at most ROWS: stages, emit, done, lane, as `add` takes them.
    The hot path does itself what `add` does: behind an inference the call would be a third of what that costs.
    """

    def __init__(self, deadline_ns: int) -> None:
        self.deadline_ns = deadline_ns
        self.misses = 0
        self.longest_stall_ns = 0
        self.total = Histogram()
        self.stages = {name: Histogram() for name in STAGES}
        self.rows: list[tuple[tuple[int, ...], int, int, int]] = []  # at most ROWS
        self._packed = bytearray(_ROW.size * ROWS)
        self._table = np.frombuffer(self._packed, np.int64).reshape(ROWS, len(STAGES) + 2)
        self._totals, self._dones, self._steps_ns = (np.zeros(ROWS + 1, np.int64) for _ in range(3))
        self._last: dict[int, tuple[int, int]] = {}  # by lane (done, total) of the window before, in its stream
        self._lanes = 1
        self._jitter_ns = self._steps = 0

    def add(self, stages_ns: tuple[int, ...], emit_ns: int, done_ns: int, lane: int = 0) -> None:
        """Counts one window: the six stages up to `decide`, then `emit`, and when it was done.

        `lane` is that of its stream, where several go on at the same time.
        """
        # Behind an inference all code that runs has to come from memory first: to pack the row here would cost several
        # times what it costs to keep it, and some hundred at a time cost little.
        rows = self.rows
        rows.append((stages_ns, emit_ns, done_ns, lane))
        if len(rows) == ROWS:
            self.fold()

    @property
    def pending(self) -> bool:
        """Whether rows are kept that are not counted yet."""
        return bool(self.rows)

    def fold(self) -> None:
        """Counts the rows kept so far."""
        count = len(self.rows)
        if not count:
            return
        pack, packed, at = _ROW.pack_into, self._packed, 0
        for stages_ns, emit_ns, done_ns, lane in self.rows:
            pack(packed, at, *stages_ns, emit_ns, done_ns, lane)
            at += _ROW.size
        self.rows.clear()
        rows = self._table[:count]
        for i, histogram in enumerate(self.stages.values()):
            histogram.add_many(rows[:, i])
        # Place 0 is the last window of the block before, so that the step between the two counts.
        totals, dones = self._totals[1 : count + 1], self._dones[1 : count + 1]
        totals[:] = rows[:, 0]
        for i in range(1, len(STAGES)):  # older numpy makes 58 kB for a sum over an axis
            totals += rows[:, i]
        dones[:] = rows[:, len(STAGES)]
        self.total.add_many(totals)
        self.misses += int(np.count_nonzero(totals > self.deadline_ns))
        if self._lanes == 1:
            self._count_steps(0, count)
        else:
            self._count_lanes(rows[:, -1])

    def _count_lanes(self, lanes: NDArray[np.int64]) -> None:
        """The steps of each lane by itself."""
        totals, dones = self._totals[1 : len(lanes) + 1].copy(), self._dones[1 : len(lanes) + 1].copy()
        for lane in np.unique(lanes).tolist():
            mine = lanes == lane
            count = int(np.count_nonzero(mine))
            self._totals[1 : count + 1], self._dones[1 : count + 1] = totals[mine], dones[mine]
            self._count_steps(lane, count)

    def _count_steps(self, lane: int, count: int) -> None:
        """Stalls and jitter: what lies between each window and the one before it in its stream."""
        begin, before = 1, self._last.get(lane)
        self._last[lane] = int(self._dones[count]), int(self._totals[count])
        if before is not None:
            begin, (self._dones[0], self._totals[0]) = 0, before
        steps = self._steps_ns[: count - begin]
        if not len(steps):
            return
        np.subtract(self._dones[begin + 1 : count + 1], self._dones[begin:count], out=steps)
        self.longest_stall_ns = max(self.longest_stall_ns, int(steps.max()) - self.deadline_ns)
        np.subtract(self._totals[begin + 1 : count + 1], self._totals[begin:count], out=steps)
        np.abs(steps, out=steps)
        self._jitter_ns += int(steps.sum())
        self._steps += len(steps)

    def new_stream(self, lane: int = 0) -> None:
        """The time between two streams of a lane is no stall."""
        self.fold()
        self._lanes = max(self._lanes, lane + 1)
        self._last.pop(lane, None)

    @property
    def jitter_us(self) -> float:
        """Mean absolute difference between the latencies of neighbouring windows (as in RFC 3550, unsmoothed)."""
        return self._jitter_ns / max(1, self._steps) / 1000

    def summary(self) -> dict[str, object]:
        """Everything in microseconds, as plain data."""
        self.fold()
        return {
            "windows": self.total.count,
            "deadline_us": self.deadline_ns / 1000,
            "misses": self.misses,
            "longest_stall_us": round(self.longest_stall_ns / 1000, 2),
            "jitter_us": round(self.jitter_us, 2),
            "total_us": self.total.summary_us(),
            "stages_us": {name: h.summary_us() for name, h in self.stages.items()},
        }
