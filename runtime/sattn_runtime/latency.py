"""Latency by stage, in fixed buckets: no allocation while running, quantiles within 0.4 % of the truth.

    due      arrival of the window's last sample (paced replay: its scheduled time)
    done     decision handed over
    latency  done - due = wait + assemble + copy_in + infer + copy_out + decide + emit

Because due is the schedule's and not the loop's, a stall counts for every window that had to wait behind it.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

# Up to `decide` a journal line can hold them; `emit` ends after the line is written.
STAGES = ("wait", "assemble", "copy_in", "infer", "copy_out", "decide", "emit")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_SUB_BITS = 7  # 128 buckets an octave
_TOP_BITS = 44  # 4.9 hours; longer ones land in the last bucket, the maximum stays exact

_ROWS = 512  # windows that are counted together
_ROW = struct.Struct(f"{len(STAGES) + 1}q")


class Histogram:
    """Counts of durations in ns, in buckets whose width is at most 1/128 of their value."""

    def __init__(self) -> None:
        self._counts = np.zeros(((_TOP_BITS - _SUB_BITS) << _SUB_BITS) + 2, np.int64)
        self.count = 0
        self.max_ns = 0
        self.total_ns = 0

    def add(self, duration_ns: int) -> None:
        """Counts one duration; a negative one (clocks of two sources) counts as 0."""
        self.add_many(np.asarray([duration_ns], np.int64))

    def add_many(self, durations_ns: NDArray[np.int64]) -> None:
        """Counts durations int64 [n] in ns."""
        if not len(durations_ns):
            return
        values = np.maximum(durations_ns, 0)
        # frexp's exponent is the number of bits: exact below 2**53 ns, 104 days.
        shift = np.maximum(np.frexp(values.astype(np.float64))[1] - _SUB_BITS - 1, 0).astype(np.int64)
        places = np.minimum((shift << _SUB_BITS) + (values >> shift), len(self._counts) - 1)
        np.add.at(self._counts, places, 1)
        self.count += len(values)
        self.total_ns += int(values.sum())
        self.max_ns = max(self.max_ns, int(values.max()))

    def quantile_ns(self, q: float) -> float:
        """The duration that a part `q` of the counted ones do not exceed (nearest rank), 0 if there are none."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(q * self.count))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_middle(place), self.max_ns)

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


class Latency:
    """What a run's windows took: a histogram a stage, one of the whole, misses, the longest stall, jitter.

    `add` only writes one row down, so that it costs a window next to nothing; rows are counted some hundred at a
    time, after a window's decision was handed over. Whoever reads calls `fold` first.
    """

    def __init__(self, deadline_ns: int) -> None:
        self.deadline_ns = deadline_ns
        self.misses = 0
        self.longest_stall_ns = 0
        self.total = Histogram()
        self.stages = {name: Histogram() for name in STAGES}
        self._rows = bytearray(_ROW.size * _ROWS)
        self._used = 0
        self._last: tuple[int, int] | None = None  # (done, total) of the window before, in this stream
        self._jitter_ns = self._steps = 0

    def add(self, stages_ns: tuple[int, ...], emit_ns: int, done_ns: int) -> None:
        """Counts one window: the six stages up to `decide`, then `emit`, and when it was done."""
        _ROW.pack_into(self._rows, self._used, *stages_ns, emit_ns, done_ns)
        self._used += _ROW.size
        if self._used == len(self._rows):
            self.fold()

    def fold(self) -> None:
        """Counts the rows written down so far."""
        if not self._used:
            return
        rows = np.frombuffer(self._rows, np.int64, self._used // 8).reshape(-1, len(STAGES) + 1)
        self._used = 0
        for i, histogram in enumerate(self.stages.values()):
            histogram.add_many(rows[:, i])
        totals, done = rows[:, :-1].sum(axis=1), rows[:, -1]
        self.total.add_many(totals)
        self.misses += int((totals > self.deadline_ns).sum())
        if self._last is not None:
            done, totals = np.append(self._last[0], done), np.append(self._last[1], totals)
        if len(done) > 1:
            stall = int(np.diff(done).max()) - self.deadline_ns
            self.longest_stall_ns = max(self.longest_stall_ns, stall)
            self._jitter_ns += int(np.abs(np.diff(totals)).sum())
            self._steps += len(totals) - 1
        self._last = int(done[-1]), int(totals[-1])

    def new_stream(self) -> None:
        """The time between two streams is no stall."""
        self.fold()
        self._last = None

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
