"""What a channel's values may be, by the contract and by the statistics of the training windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract

_STUCK_RUNS, _STUCK_S = 4, 0.5
_STUCK_PARTS = 8  # a block is this part of the shortest run that is stuck: up to so much later it is known
_FLAT = 4  # samples
# Statistics of fewer windows than this don't say what is usual: of eight, every twelfth healthy window was beyond them.
FEWEST_WINDOWS = 32


def enough_windows(statistics: Mapping[str, Any] | None) -> bool:
    """Whether statistics are of so many windows that they say what is usual."""
    count = statistics.get("windows") if statistics else None
    return isinstance(count, int) and count >= FEWEST_WINDOWS


class Limits:
    """One contract's limits, float32 as the samples are: 0.1 is not below 0.1.

    measured: there are statistics of all channels; known: and of enough windows to judge range and scale.
    stuck, flat: so many equal samples are a fault, flat ones outside the training range.
    """

    def __init__(self, contract: Contract, statistics: Mapping[str, Any] | None) -> None:
        channels = _channels(statistics, contract)
        self.measured = bool(channels)
        self.known = self.measured and enough_windows(statistics)
        low = np.array([np.nan if c.min is None else c.min for c in contract.channel])
        high = np.array([np.nan if c.max is None else c.max for c in contract.channel])
        if channels:
            least, greatest = (np.array([float(c[key]) for c in channels]) for key in ("min", "max"))
            span = greatest - least if self.known else np.full(contract.modal, np.inf)
            runs = [int(c["longest_equal_samples"]) for c in channels]
        else:
            least, greatest = np.full(contract.modal, -np.inf), np.full(contract.modal, np.inf)
            span, runs = np.full(contract.modal, np.inf), [1 << 40] * contract.modal
        self._least, self._greatest = least.tolist(), greatest.tolist()
        self._lowest = np.where(np.isnan(low), least - span, low).astype(np.float32)
        self._highest = np.where(np.isnan(high), greatest + span, high).astype(np.float32)
        # A rail that training reached is none: there it was no fault.
        self._rail_low = np.where(low < least, low, -np.inf).astype(np.float32)
        self._rail_high = np.where(high > greatest, high, np.inf).astype(np.float32)
        self._inner_low = np.maximum(self._lowest, self._rail_low)
        self._inner_high = np.minimum(self._highest, self._rail_high)
        shortest = int(np.ceil(_STUCK_S * contract.rate_hz))
        self.stuck = [max(_STUCK_RUNS * run, shortest) + 1 for run in runs]
        self.flat = [max(run + 1, _FLAT) for run in runs]
        self.block = min(self.stuck) // _STUCK_PARTS

    def touched(self, least: NDArray[np.float32], greatest: NDArray[np.float32]) -> bool:
        """Whether any channel's least or greatest value [modal] is at a limit."""
        within = np.count_nonzero(least > self._inner_low) + np.count_nonzero(greatest < self._inner_high)
        return bool(within < 2 * len(least))  # NaN is within nothing

    def points(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which samples [n, modal] are out of range, and which of the others are at a rail."""
        outside = (samples < self._lowest) | (samples > self._highest)
        return outside, ((samples <= self._rail_low) | (samples >= self._rail_high)) & ~outside

    def beyond_training(self, channel: int, value: float) -> bool:
        """Whether no training window had such a value."""
        return self.known and not self._least[channel] <= value <= self._greatest[channel]


def _channels(statistics: Mapping[str, Any] | None, contract: Contract) -> list[dict[str, Any]]:
    """The channels' statistics in the contract's order; none if a file has none, or others."""
    channels = statistics.get("channels") if statistics else None
    if not isinstance(channels, list) or len(channels) != contract.modal:
        return []
    needed = ("name", "min", "max", "longest_equal_samples")
    whole = all(isinstance(c, dict) and all(key in c for key in needed) for c in channels)
    return channels if whole and tuple(c["name"] for c in channels) == contract.channel_names else []
