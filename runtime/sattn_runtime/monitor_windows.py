"""Levels of whole windows against those of training: a wrong scale, and axes in a wrong order.

Level is the root mean square over all channels of a unit, so that which way up a sensor lies does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract

_SCALE = 3.0  # a person who moves less or more than any in training stays within it
_PATIENCE = 3  # windows in a row, for a wrong scale
_PATIENCE_S = 10.0
_MARGIN = 0.25  # of the training range of a window's mean
# What units are taken for one another, as factors.
_FACTORS = {
    "m/s^2 for g": 9.80665,
    "degrees for radians": 57.29578,
    "thousandths": 1000.0,
    "millionths": 1e6,
}


class WindowLevels:
    """Mean and mean square of one window's worth of samples after another.

    faults: (kind, index of the group) -> what is wrong, as of the last window.
    """

    def __init__(self, contract: Contract, statistics: Mapping[str, Any] | None) -> None:
        self.faults: dict[tuple[str, int], str] = {}
        self._contract = contract
        self._window = contract.window
        self._patience = max(_PATIENCE, int(np.ceil(_PATIENCE_S / contract.window_s)))
        statistics = statistics or {}
        self._groups = [g for g in statistics.get("units", []) if g.get("channels")]
        means = [c.get("window_mean") for c in statistics.get("channels", [])]
        self._means = np.array([[m["min"], m["max"]] for m in means]) if means and all(means) else None
        self._sum = np.zeros(contract.modal)
        self._square = np.zeros(contract.modal)
        self._count = 0
        self._off: dict[tuple[str, int], int] = {}

    def names(self, key: tuple[str, int]) -> str:
        """The channels of a fault's group."""
        return ", ".join(self._contract.channel_names[i] for i in self._groups[key[1]]["channels"])

    def add(self, samples: NDArray[np.float32]) -> bool:
        """Takes samples [n, modal]; True where a window's worth is complete and `faults` is new."""
        if not self._groups:
            return False
        with np.errstate(all="ignore"):  # NaN and Inf are somebody else's matter
            self._sum += samples.sum(axis=0)
            self._square += np.einsum("ij,ij->j", samples, samples)
        self._count += len(samples)
        if self._count < self._window:
            return False
        mean, square = self._sum / self._count, self._square / self._count
        self._sum[:] = self._square[:] = 0
        self._count = 0
        if np.isfinite(square).all():
            self._judge(mean, square)
        return True

    def _judge(self, mean: NDArray[np.float64], square: NDArray[np.float64]) -> None:
        for index, group in enumerate(self._groups):
            level = float(np.sqrt(square[group["channels"]].sum()))
            lowest, highest = group["window_rms"]["min"], group["window_rms"]["max"]
            off = level > _SCALE * highest or level * _SCALE < lowest
            usual = float(np.sqrt(lowest * highest)) or highest
            self._count_off(("wrong scale", index), off, _PATIENCE, lambda a=level, b=usual: _factor(a, b))
            swap = self._swapped(mean, group["channels"])
            self._count_off(("swapped axes", index), swap is not None, self._patience, lambda s=swap: s or "")

    def _count_off(self, key: tuple[str, int], off: bool, patience: int, say: Any) -> None:
        """A fault is one when that many windows in a row show it; it is over with the first that does not."""
        if not off:
            self._off.pop(key, None)
            self.faults.pop(key, None)
            return
        self._off[key] = self._off.get(key, 0) + 1
        if self._off[key] >= patience and key not in self.faults:
            self.faults[key] = say()

    def _swapped(self, mean: NDArray[np.float64], channels: list[int]) -> str | None:
        """Two channels whose means are both outside training's, and inside if they are exchanged."""
        if self._means is None:
            return None
        margin = _MARGIN * (self._means[:, 1] - self._means[:, 0])
        low, high = self._means[:, 0] - margin, self._means[:, 1] + margin
        outside = [i for i in channels if not low[i] <= mean[i] <= high[i]]
        names = self._contract.channel_names
        for a, b in combinations(outside, 2):
            if self._means[a, 0] <= mean[b] <= self._means[a, 1] and self._means[b, 0] <= mean[a] <= self._means[b, 1]:
                return f"{names[a]} looks like {names[b]}, and {names[b]} like {names[a]}"
        return None


def _factor(level: float, usual: float) -> str:
    """By how much a level is off, and what is known to be so."""
    ratio = level / usual if usual else float("inf")
    size = max(ratio, 1 / ratio) if ratio > 0 else float("inf")
    name, known = min(_FACTORS.items(), key=lambda item: abs(np.log(size / item[1])) if np.isfinite(size) else 1.0)
    hint = f", like {name}" if known / 2 < size < known * 2 else ""
    return f"{ratio:.3g} times the usual level{hint}"
