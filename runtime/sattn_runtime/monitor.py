"""The input monitor: whether live samples look like those the network was trained on, channel by channel.

*Out of range*: a value outside the contract's range; without one, further outside the training range than that is wide.
*Saturated*: three samples of a chunk at an end of the contract's range that training never reached; or flat for longer
than any run in training, outside the training range.
*Stuck*: equal values for longer than four times the longest run in a training window, and half a second.
*Wrong scale, swapped axes*: whole windows are not like those of training (`monitor_windows`).

Samples are looked at once, in small blocks, by their least and greatest values: a window costs nothing. A fault begins
when it is sure, and no window that holds one of its samples from then on is decided on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_runtime.events import Event
from sattn_runtime.monitor_windows import WindowLevels

_STUCK_RUNS, _STUCK_S = 4, 0.5
_STUCK_PARTS = 8  # a block is this part of the shortest run that is stuck: so late it may be seen
_MOST_BLOCK = 64
_FLAT = 4  # samples
_AT_LIMIT = 3  # samples


class Monitor:
    """One stream's input. `row` counts the rows of its ring.

    bad_row: the newest row that must not be decided on; -1 if there is none. reason: why.
    """

    def __init__(self, contract: Contract, statistics: Mapping[str, Any] | None) -> None:
        self.bad_row = -1
        self.reason = ""
        self._names = contract.channel_names
        known = _known(statistics, contract)
        span = np.array([c["max"] - c["min"] for c in known]) if known else np.inf
        train_low = np.array([c["min"] for c in known]) if known else np.full(contract.modal, -np.inf)
        train_high = np.array([c["max"] for c in known]) if known else np.full(contract.modal, np.inf)
        low = np.array([np.nan if c.min is None else c.min for c in contract.channel])
        high = np.array([np.nan if c.max is None else c.max for c in contract.channel])
        # float32, as the samples: 0.1 is not below 0.1.
        self._lowest = np.where(np.isnan(low), train_low - span, low).astype(np.float32)
        self._highest = np.where(np.isnan(high), train_high + span, high).astype(np.float32)
        self._train_low, self._train_high = train_low.astype(np.float32), train_high.astype(np.float32)
        self._rail_low = np.where(low < train_low, low, -np.inf).astype(np.float32)
        self._rail_high = np.where(high > train_high, high, np.inf).astype(np.float32)
        runs = np.array([c["longest_equal_samples"] for c in known]) if known else np.full(contract.modal, 1 << 60)
        self._stuck = np.maximum(_STUCK_RUNS * runs, int(np.ceil(_STUCK_S * contract.rate_hz))) + 1
        self._flat = np.maximum(runs + 1, _FLAT)
        self.block = int(max(1, min(_MOST_BLOCK, self._stuck.min() // _STUCK_PARTS)))
        self._levels = WindowLevels(contract, statistics) if known else None
        self._knows = bool(known)
        self._window = contract.window
        self._points: dict[tuple[str, int], int] = {}  # the newest row of each fault of single samples
        self._active: dict[tuple[str, int], str] = {}
        self._events: list[Event] = []
        self._least = np.zeros(contract.modal, np.float32)
        self._greatest = np.zeros(contract.modal, np.float32)
        self._partial = 0  # samples in the block at hand
        self._equal = np.zeros(contract.modal, np.int64)  # samples in constant blocks in a row
        self._value = np.zeros(contract.modal, np.float32)
        self._any_equal = False

    def add(self, samples: NDArray[np.float32], row: int) -> list[Event]:
        """Looks at samples [n, modal], the first of which is row `row`; returns what began and ended."""
        count = len(samples)
        if not count:
            return []
        self._events = []
        if not self._partial and count == self.block:
            least, greatest = samples.min(axis=0)[None], samples.max(axis=0)[None]
            self._check_range(least[0], greatest[0], samples, row)
            self._blocks(least, greatest, row)
        else:
            self._check_range(samples.min(axis=0), samples.max(axis=0), samples, row)
            self._cut(samples, row)
        if self._levels is not None:
            self._note_levels(samples)
        if self._points:
            self._forget_points(row + count)
        if self._active:
            self.bad_row = row + count - 1
            self.reason = next(iter(self._active.values()))
        return self._events

    def _check_range(
        self, least: NDArray[np.float32], greatest: NDArray[np.float32], samples: NDArray[np.float32], row: int
    ) -> None:
        below, above = least < self._lowest, greatest > self._highest
        if (below | above).any():
            for channel in np.flatnonzero(below | above).tolist():
                values = samples[:, channel]
                wrong = np.flatnonzero((values < self._lowest[channel]) | (values > self._highest[channel]))
                worst = values[wrong[np.argmax(np.abs(values[wrong]))]]
                self._point(row + int(wrong[-1]), "out of range", channel, f"{worst:.6g}")
        near = (least <= self._rail_low) | (greatest >= self._rail_high)
        for channel in np.flatnonzero(near & ~(below | above)).tolist() if near.any() else ():
            values = samples[:, channel]
            at = np.flatnonzero((values <= self._rail_low[channel]) | (values >= self._rail_high[channel]))
            if len(at) >= _AT_LIMIT:
                self._point(row + int(at[-1]), "saturated", channel, f"{values[at[-1]]:.6g}")

    def _point(self, row: int, kind: str, channel: int, detail: str) -> None:
        """Something wrong with single samples: over when they have left the window."""
        if row > self.bad_row:
            self.bad_row, self.reason = row, f"{kind}: {self._names[channel]}"
        if (kind, channel) not in self._points:
            self._events.append(Event("input_bad", channel=self._names[channel], detail=f"{kind}, {detail}"))
        self._points[(kind, channel)] = row

    def _forget_points(self, row: int) -> None:
        for (kind, channel), last in list(self._points.items()):
            if row - last > self._window:
                del self._points[(kind, channel)]
                self._events.append(Event("input_good", channel=self._names[channel], detail=f"{kind}, over"))

    def _cut(self, samples: NDArray[np.float32], row: int) -> None:
        """Samples into blocks that begin and end where those of any other chunks would."""
        at = 0
        if self._partial:
            at = min(self.block - self._partial, len(samples))
            np.minimum(self._least, samples[:at].min(axis=0), out=self._least)
            np.maximum(self._greatest, samples[:at].max(axis=0), out=self._greatest)
            self._partial += at
            if self._partial < self.block:
                return
            self._blocks(self._least[None], self._greatest[None], row)
            self._partial = 0
        whole = (len(samples) - at) // self.block
        if whole:
            blocks = samples[at : at + whole * self.block].reshape(whole, self.block, -1)
            self._blocks(blocks.min(axis=1), blocks.max(axis=1), row + at)
            at += whole * self.block
        if at < len(samples):
            self._least, self._greatest = samples[at:].min(axis=0), samples[at:].max(axis=0)
            self._partial = len(samples) - at

    def _blocks(self, least: NDArray[np.float32], greatest: NDArray[np.float32], row: int) -> None:
        """Blocks in a row, by the least and greatest value of each channel, [blocks, modal]."""
        constant = least == greatest
        if not self._any_equal and not constant.any():
            return
        if not self._knows:
            return
        for channel in np.flatnonzero(constant.any(axis=0) | (self._equal > 0)).tolist():
            for at, (flat, value) in enumerate(
                zip(constant[:, channel].tolist(), least[:, channel].tolist(), strict=True)
            ):
                self._block(channel, flat, value, row + at * self.block)
        self._any_equal = bool((self._equal > 0).any())

    def _block(self, channel: int, flat: bool, value: float, row: int) -> None:
        if not flat or value != self._value[channel]:
            self._over("stuck", channel)
            self._over("saturated", channel)
            self._equal[channel] = 0
        if not flat:
            return
        self._equal[channel] += self.block
        self._value[channel] = value
        equal = self._equal[channel]
        outside = not self._train_low[channel] <= value <= self._train_high[channel]
        if equal >= self._stuck[channel]:
            self._begin("stuck", channel, f"at {value:.6g}", row)
        elif outside and equal >= self._flat[channel]:
            self._begin("saturated", channel, f"at {value:.6g}", row)

    def _begin(self, kind: str, channel: int, detail: str, row: int) -> None:
        """A fault that lasts until it is over."""
        self.bad_row = max(self.bad_row, row + self.block - 1)
        if (kind, channel) not in self._active:
            self.reason = self._active[(kind, channel)] = f"{kind}: {self._names[channel]}"
            self._events.append(Event("input_bad", channel=self._names[channel], detail=f"{kind}, {detail}"))

    def _over(self, kind: str, channel: int) -> None:
        if self._active.pop((kind, channel), None) is not None:
            self._events.append(Event("input_good", channel=self._names[channel], detail=f"{kind}, over"))

    def _note_levels(self, samples: NDArray[np.float32]) -> None:
        """A window's worth of samples against training windows."""
        assert self._levels is not None  # noqa: S101 - `add` has looked
        if not self._levels.add(samples):
            return
        for kind in ("wrong scale", "swapped axes"):
            for key in [key for key in self._active if key[0] == kind]:
                if key not in self._levels.faults:
                    del self._active[key]
                    self._events.append(Event("input_good", channel=self._levels.names(key), detail=f"{kind}, over"))
        for key, detail in self._levels.faults.items():
            if key not in self._active:
                names = self._levels.names(key)
                self._active[key] = f"{key[0]}: {names}"
                self._events.append(Event("input_bad", channel=names, detail=f"{key[0]}, {detail}"))

    def gap(self) -> None:
        """A gap: nothing goes on across it but what whole windows show."""
        self._equal[:] = 0
        self._partial, self._any_equal = 0, False
        for key in [key for key in self._active if key[0] in ("stuck", "saturated")]:
            del self._active[key]


def _known(statistics: Mapping[str, Any] | None, contract: Contract) -> list[dict[str, Any]]:
    """The channels' statistics in the contract's order, or none if a file has none, or others."""
    channels = statistics.get("channels") if statistics else None
    if not isinstance(channels, list) or len(channels) != contract.modal:
        return []
    needed = ("name", "min", "max", "longest_equal_samples")
    whole = all(isinstance(c, dict) and all(key in c for key in needed) for c in channels)
    return channels if whole and tuple(c["name"] for c in channels) == contract.channel_names else []
