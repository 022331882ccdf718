"""Latency by stage, in fixed buckets: no allocation while running, quantiles within 0.4 % of the truth.

    due      arrival of the window's last sample (paced replay: its scheduled time)
    done     decision handed over
    latency  done - due = wait + assemble + copy_in + infer + copy_out + decide + emit

Because due is the schedule's and not the loop's, a stall counts for every window that had to wait behind it.
"""

from __future__ import annotations

import math

# Up to `decide` a journal line can hold them; `emit` ends after the line is written.
STAGES = ("wait", "assemble", "copy_in", "infer", "copy_out", "decide", "emit")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_SUB_BITS = 7  # 128 buckets an octave
_TOP_BITS = 44  # 4.9 hours; longer ones land in the last bucket, the maximum stays exact


class Histogram:
    """Counts of durations in ns, in buckets whose width is at most 1/128 of their value."""

    def __init__(self) -> None:
        self._counts = [0] * (((_TOP_BITS - _SUB_BITS) << _SUB_BITS) + 2)
        self.count = 0
        self.max_ns = 0
        self.total_ns = 0

    def add(self, duration_ns: int) -> None:
        """Counts one duration; a negative one (clocks of two sources) counts as 0."""
        value = duration_ns if duration_ns > 0 else 0
        shift = value.bit_length() - _SUB_BITS - 1
        place = value if shift <= 0 else (shift << _SUB_BITS) + (value >> shift)
        self._counts[place if place < len(self._counts) else -1] += 1
        self.count += 1
        self.total_ns += value
        if value > self.max_ns:
            self.max_ns = value

    def quantile_ns(self, q: float) -> float:
        """The duration that a part `q` of the counted ones do not exceed (nearest rank), 0 if there are none."""
        rank, seen = max(1, math.ceil(q * self.count)), 0
        for place, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(_middle(place), self.max_ns)
        return 0.0

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
    """What a run's windows took: a histogram a stage, one of the whole, misses, the longest stall, jitter."""

    def __init__(self, deadline_ns: int) -> None:
        self.deadline_ns = deadline_ns
        self.misses = 0
        self.longest_stall_ns = 0
        self.total = Histogram()
        self.stages = {name: Histogram() for name in STAGES}
        self._in_order = tuple(self.stages.values())
        self._last_done = self._last_total = 0
        self._jitter_ns = 0

    def add(self, stages_ns: tuple[int, ...], emit_ns: int, done_ns: int) -> None:
        """Counts one window: the stages up to `decide`, then `emit`, and when it was done."""
        for histogram, value in zip(self._in_order, stages_ns, strict=False):
            histogram.add(value)
        self._in_order[-1].add(emit_ns)
        total = sum(stages_ns) + emit_ns
        self.total.add(total)
        if total > self.deadline_ns:
            self.misses += 1
        if self._last_done:
            self._jitter_ns += abs(total - self._last_total)
            self.longest_stall_ns = max(self.longest_stall_ns, done_ns - self._last_done - self.deadline_ns)
        self._last_done, self._last_total = done_ns, total

    def new_stream(self) -> None:
        """The time between two streams is no stall."""
        self._last_done = 0

    @property
    def jitter_us(self) -> float:
        """Mean absolute difference between the latencies of neighbouring windows (as in RFC 3550, unsmoothed)."""
        return self._jitter_ns / max(1, self.total.count - 1) / 1000

    def summary(self) -> dict[str, object]:
        """Everything in microseconds, as plain data."""
        return {
            "windows": self.total.count,
            "deadline_us": self.deadline_ns / 1000,
            "misses": self.misses,
            "longest_stall_us": round(self.longest_stall_ns / 1000, 2),
            "jitter_us": round(self.jitter_us, 2),
            "total_us": self.total.summary_us(),
            "stages_us": {name: h.summary_us() for name, h in self.stages.items()},
        }
