"""What a stream does beyond cutting windows."""

from __future__ import annotations

from dataclasses import dataclass

from sattn_edge.errors import UsageError, did_you_mean
from sattn_runtime.decider import DecisionOptions
from sattn_runtime.sample_clock import ClockOptions

SPLIT, HOLD, INTERPOLATE = GAP_POLICIES = ("split", "hold", "interpolate")
# A window may be made up by this part in one piece; more is no measurement any more.
_FILL_PART = 8


@dataclass(frozen=True)
class StreamOptions:
    """Time, gaps and decisions of a stream.

    gap: `split` lets no window span a gap, `hold` repeats the last sample before a hole, `interpolate` draws a line
        across it.
    monitor: no window is decided on whose samples are not like those of training.
    resample_hz: the rate of what comes in; it is brought to the contract's.
    fill_most: longer holes than this many samples are split; an eighth of a window if None.
    """

    gap: str = SPLIT
    fill_most: int | None = None
    monitor: bool = True
    resample_hz: float | None = None
    clock: ClockOptions = ClockOptions()  # noqa: RUF009 - frozen
    decision: DecisionOptions = DecisionOptions()  # noqa: RUF009 - frozen

    def check(self) -> None:
        """Raises UsageError for what can't be."""
        if self.gap not in GAP_POLICIES:
            raise UsageError("gap policy", f"got '{self.gap}'", did_you_mean(self.gap, GAP_POLICIES))
        if self.fill_most is not None and self.fill_most < 1:
            raise UsageError("fill_most", f"got {self.fill_most}", "a number of samples, 1 or more")
        self.clock.check()
        self.decision.check()

    def most_filled(self, window: int) -> int:
        """The longest hole in samples that is filled, 0 where none is."""
        if self.gap == SPLIT:
            return 0
        return self.fill_most if self.fill_most is not None else window // _FILL_PART
