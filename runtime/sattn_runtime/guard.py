"""What keeps a window from being decided on: values that are no numbers, and input that the monitor refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_runtime.decision import NON_FINITE, WRONG_RATE
from sattn_runtime.events import Event
from sattn_runtime.monitor import Monitor
from sattn_runtime.sample_clock import SampleClock


class Guard:
    """Looks at samples once, when they come, and tells of every window why it is not to be decided on.

    Args:
        contract, statistics: what input should be like.
        clock: knows whether the rate is right.
        monitored: whether more than NaN and Inf is looked for.

    `active`: whether a window may be bad for more than NaN. `last_bad`: the newest row with NaN or Inf, -1 for none.
    """

    def __init__(
        self, contract: Contract, statistics: Mapping[str, Any] | None, clock: SampleClock, *, monitored: bool
    ) -> None:
        ranged = any(c.min is not None or c.max is not None for c in contract.channel)
        self._monitor = Monitor(contract, statistics) if monitored and (statistics or ranged) else None
        self._clock, self._monitored, self._window = clock, monitored, contract.window
        self.active = self._monitor is not None
        self.last_bad = -1

    def look(self, samples: NDArray[np.float32], row: int, *, finite: bool) -> list[Event]:
        """Looks at samples [n, modal], the first of which becomes row `row`; finite: their source has done so."""
        if not finite:
            self._note_bad(samples, row)
        return [] if self._monitor is None else self._monitor.add(samples, row)

    def bad(self, first: int, window: NDArray[np.float32]) -> str | None:
        """Why the window [series, modal] that begins with row `first` must not be decided on."""
        if self.last_bad >= first and not np.isfinite(window).all():
            return NON_FINITE
        if self._monitor is not None:
            bad = self._monitor.bad(first, first + self._window - 1)
            if bad is not None:
                return bad
        return WRONG_RATE if self._clock.wrong_rate and self._monitored else None

    def gap(self, row: int) -> None:
        """A gap before row `row`."""
        if self._monitor is not None:
            self._monitor.gap(row)

    def _note_bad(self, samples: NDArray[np.float32], row: int) -> None:
        """Looks at every sample once, not at every window."""
        good = np.isfinite(samples)
        # memchr over the booleans' bytes: cheaper than good.all() on the few samples of a hop.
        if good.tobytes().find(0) >= 0:
            self.last_bad = row + int(np.flatnonzero(~good.all(axis=1))[-1])
