"""Levels of whole windows against those of training: a wrong scale, and axes in a wrong order.

*Wrong scale*: three windows in a row of three times, or a third of, the level of any training window. Level is the root
mean square over all channels of a unit, so that which way up a sensor lies does not matter.
*Swapped axes*: for ten seconds the means of two channels of a unit are outside those of all training windows, and would
be inside if they were exchanged. Axes that training saw in every position can't be told apart so; where the model file
knows how the channels go together, some can be nevertheless (`monitor_axes`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_runtime.monitor_axes import AxisWatch

_SCALE = 3.0
_SCALE_WINDOWS = 3
_SWAP_S = 10.0
_SHORT = 256  # samples
_MARGIN = 0.25  # of the training range of a window's mean
_WRONG_SCALE, _SWAPPED = "wrong scale", "swapped axes"
# What is taken for one another, as factors.
_FACTORS = {"m/s^2 and g": 9.80665, "degrees and radians": 57.29578, "thousandths": 1000.0, "millionths": 1e6}

Key = tuple[str, str]


class WindowLevels:
    """Mean and mean square of one window's worth of samples after another.

    faults: (kind, channels' names) -> what is wrong, as of the last window.
    """

    KINDS = (_WRONG_SCALE, _SWAPPED)

    def __init__(self, contract: Contract, statistics: Mapping[str, Any] | None) -> None:
        self.faults: dict[Key, str] = {}
        self._names, self._window = contract.channel_names, contract.window
        self._swap_windows = max(_SCALE_WINDOWS, math.ceil(_SWAP_S / contract.window_s))
        known = statistics or {}
        self._groups: list[dict[str, Any]] = list(known.get("units", ()))
        means = [c.get("window_mean") for c in known.get("channels", ())]
        self._means = np.array([[m["min"], m["max"]] for m in means]) if means and all(means) else None
        self._ones = np.ones(_SHORT, np.float32)
        self._sum = np.zeros(contract.modal)
        self._square = np.zeros(contract.modal)
        self._count = 0
        self._off: dict[Key, int] = {}
        self._axes = AxisWatch(contract, statistics)

    def gap(self) -> None:
        """A gap before the next sample: a stretch that axes are judged by does not go on across it."""
        self._axes.restart()

    def add(self, samples: NDArray[np.float32], row: int, *, safe: bool) -> Iterator[int]:
        """Takes samples [n, modal] from row `row` on; yields the last row of each window's worth that is complete.

        safe: they are finite, and no sum of their squares overflows.
        """
        if not safe:
            with np.errstate(all="ignore"):
                yield from self._add(samples, row)
        else:
            yield from self._add(samples, row)

    def _add(self, samples: NDArray[np.float32], row: int) -> Iterator[int]:
        at = 0
        while self._groups and at < len(samples):
            part = samples[at : at + self._window - self._count]
            if len(part) <= _SHORT:
                # On a short part np.dot takes a third of the time of the two below.
                ones = self._ones[: len(part)]
                self._sum += np.dot(ones, part)
                self._square += np.dot(ones, part * part)
            else:
                self._sum += np.add.reduce(part)
                self._square += np.einsum("ij,ij->j", part, part)
            at += len(part)
            self._count += len(part)
            if self._count == self._window:
                self._judge(self._sum / self._window, self._square / self._window)
                self._sum[:] = self._square[:] = self._count = 0
                yield row + at - 1

    def _judge(self, mean: NDArray[np.float64], square: NDArray[np.float64]) -> None:
        if not np.isfinite(square).all():
            return
        for group in self._groups:
            names = ", ".join(self._names[i] for i in group["channels"])
            level = math.sqrt(square[group["channels"]].sum())
            lowest, highest = group["window_rms"]["min"], group["window_rms"]["max"]
            off = level > _SCALE * highest or level * _SCALE < lowest
            usual = math.sqrt(lowest * highest) or highest
            self._count_off((_WRONG_SCALE, names), _factor(level, usual) if off else None, _SCALE_WINDOWS)
            self._count_off((_SWAPPED, names), self._swapped(mean, group["channels"]), self._swap_windows)
        if self._axes.watches:
            self._watch_axes(self._axes, mean, square)

    def _watch_axes(self, axes: AxisWatch, mean: NDArray[np.float64], square: NDArray[np.float64]) -> None:
        before = axes.fault
        axes.add(mean, square)
        if axes.fault is before:
            return
        if before is not None:
            self.faults.pop((_SWAPPED, before[0]), None)
        if axes.fault is not None:
            self.faults[(_SWAPPED, axes.fault[0])] = axes.fault[1]

    def _count_off(self, key: Key, detail: str | None, patience: int) -> None:
        """A fault is one when that many windows in a row show it; it is over with the first that does not."""
        if detail is None:
            self._off.pop(key, None)
            self.faults.pop(key, None)
            return
        self._off[key] = self._off.get(key, 0) + 1
        if self._off[key] >= patience:
            self.faults.setdefault(key, detail)

    def _swapped(self, mean: NDArray[np.float64], channels: list[int]) -> str | None:
        """Two channels whose means are both outside training's, and inside if they are exchanged."""
        if self._means is None or len(channels) < 2:
            return None
        low, high = self._means[:, 0], self._means[:, 1]
        margin = _MARGIN * (high - low)
        outside = [i for i in channels if not low[i] - margin[i] <= mean[i] <= high[i] + margin[i]]
        for a, b in combinations(outside, 2):
            if low[a] <= mean[b] <= high[a] and low[b] <= mean[a] <= high[b]:
                one, other = self._names[a], self._names[b]
                return f"{one} looks like {other}, and {other} like {one}"
        return None


def _factor(level: float, usual: float) -> str:
    """By how much a level is off, and what is known to be so."""
    if not level or not usual:
        return f"level {level:.3g}, usually {usual:.3g}"
    size = max(level / usual, usual / level)
    name, known = min(_FACTORS.items(), key=lambda item: abs(math.log(size / item[1])))
    hint = f", as between {name}" if known / 2 < size < known * 2 else ""
    return f"{level / usual:.3g} times the usual level{hint}"
