"""From a histogram to the range an integer type is to span, by several methods.

u8 asymmetric: [low, high] with low <= 0 <= high in levels 0..255, one of which is exactly 0.
s8 symmetric: [-bound, bound] in levels -127..127.

| method | what it keeps |
|---|---|
| minmax | everything seen |
| percentile-P | P % of the values below the upper bound and P % above the lower one; of the absolute values for s8 |
| entropy | what the quantised distribution tells of the clipped one: the least Kullback-Leibler divergence |
| mse | the least mean squared error of rounding and clipping together |

Entropy: S. Migacz, 8-bit Inference with TensorRT, GTC 2017. The mass beyond a threshold is moved to its edge (P); the
mass within is spread evenly over the values of its level that occur (Q); the threshold with the least KL(P || Q) is
taken. Exact zeros stay exact in either scheme, so they are left out of both. Written here from that definition.

Mse: with the values of a bin spread evenly over it, the error is integrated exactly, level by level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sattn_calibration.histogram import Array, Histogram

PERCENTILES = (99.9, 99.99, 99.999)
METHODS = ("minmax", *(f"percentile-{p:g}" for p in PERCENTILES), "entropy", "mse")
SCHEMES = ("u8", "s8")
LEVELS = {"u8": 256, "s8": 255}

_OCTAVES = 10  # thresholds down to 1/1024 of the maximum
_COARSE = 4  # thresholds an octave in the first look
_FINE = 8  # and between two of them in the second
_SUB = 8  # parts a level is looked at in
_ROUNDING = 1e-6  # of one value: less than this of it is what rounding left
_FLOOR = 1e-12  # of a level that nothing fell into

Loss = Callable[[Array, Array], Array]


def thresholds(histogram: Histogram, method: str, scheme: str) -> tuple[float, float]:
    """The range a method gives: low <= 0 <= high, for s8 with low = -high. (0, 0) for a tensor that was always 0.

    Raises:
        ValueError: no such method or scheme, or no finite value in the histogram.
    """
    if method not in METHODS or scheme not in LEVELS:
        raise ValueError(f"method '{method}', scheme '{scheme}': known are {METHODS} and {SCHEMES}")
    if not histogram.total:
        raise ValueError("the histogram is empty")
    if method == "minmax" or not histogram.count.size:
        return _widest(histogram, scheme)
    if method.startswith("percentile"):
        return _percentile(histogram, float(method.partition("-")[2]), scheme)
    density = _Density.of(histogram) if scheme == "u8" else _Density.of(histogram.absolute()).mirrored()
    loss = divergence if method == "entropy" else squared_error
    return _search(lambda low, high: loss(density, low, high, LEVELS[scheme]), _widest(histogram, scheme), scheme)


def all_thresholds(histogram: Histogram, scheme: str) -> dict[str, tuple[float, float]]:
    """The range by each method."""
    return {method: thresholds(histogram, method, scheme) for method in METHODS}


def _widest(histogram: Histogram, scheme: str) -> tuple[float, float]:
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    bound = max(-low, high)
    return (low, high) if scheme == "u8" else (0.0 - bound, bound)  # 0.0 - 0.0 is no -0.0


def _percentile(histogram: Histogram, percent: float, scheme: str) -> tuple[float, float]:
    if scheme == "s8":
        bound = max(quantile(histogram.absolute(), percent / 100), 0.0)
        return 0.0 - bound, bound
    return min(quantile(histogram, 1 - percent / 100), 0.0), max(quantile(histogram, percent / 100), 0.0)


def quantile(histogram: Histogram, share: float) -> float:
    """The value below which that share of all values lies, as numpy.quantile defines it, to within one bin."""
    low, high = histogram.edges()
    place = int(np.searchsorted(low, 0.0))  # zeros have a place of their own, between the two signs
    low, high = np.insert(low, place, 0.0), np.insert(high, place, 0.0)
    count = np.insert(histogram.count, place, histogram.zeros)
    upto = np.cumsum(count)

    def at(rank: int) -> float:
        i = int(np.searchsorted(upto, rank, side="right"))
        part = (rank - (upto[i] - count[i]) + 0.5) / count[i]
        return float(np.clip(low[i] + part * (high[i] - low[i]), histogram.minimum, histogram.maximum))

    rank = (histogram.total - 1) * share
    below = int(rank)
    return at(below) + (rank - below) * (at(min(below + 1, histogram.total - 1)) - at(below))


@dataclass(frozen=True, slots=True, eq=False)
class _Density:
    """Values spread evenly over [low, high) of each bin, ascending; zeros not among them.

    upto: float64 [3, k], the moments 0, 1, 2 of everything below a bin.
    """

    low: Array
    high: Array
    rate: Array
    upto: Array

    @classmethod
    def of(cls, histogram: Histogram) -> _Density:
        """The outermost bins end at the minimum and the maximum."""
        low, high = histogram.edges()
        narrow = (high - low) / 1024  # what is left at least, where all values are on the bin's edge
        low[0] = np.clip(histogram.minimum, low[0], high[0] - narrow[0])
        high[-1] = np.clip(histogram.maximum, low[-1] + narrow[-1], high[-1])
        return cls.made(low, high, histogram.count.astype(np.float64))

    @classmethod
    def made(cls, low: Array, high: Array, count: Array) -> _Density:
        """From bins that may touch and do not overlap."""
        rate = count / (high - low)
        each = np.stack([rate * (high**n - low**n) / n for n in (1, 2, 3)])
        upto = np.concatenate([np.zeros((3, 1)), np.cumsum(each, axis=1)], axis=1)
        return cls(low, high, rate, upto)

    def mirrored(self) -> _Density:
        """Half of everything on the other side of 0: of absolute values, what stands on both sides."""
        low, high = (np.concatenate([-b[::-1], a]) for a, b in ((self.low, self.high), (self.high, self.low)))
        rate = np.concatenate([self.rate[::-1], self.rate]) / 2
        return self.made(low, high, rate * (high - low))

    def below(self, at: Array, moments: int = 3) -> list[Array]:
        """Moments 0, 1, 2 of everything below each point of an array of any shape."""
        i = np.maximum(np.searchsorted(self.low, at, side="right") - 1, 0)
        left, rate = self.low[i], self.rate[i]
        point = np.clip(at, left, self.high[i])
        return [self.upto[n - 1][i] + rate * (point**n - left**n) / n for n in range(1, moments + 1)]


def squared_error(density: _Density, low: Array, high: Array, levels: int) -> Array:
    """Sum of squared errors over all values, for ranges low, high float64 [n]: float64 [n]."""
    step, zero = _steps(low, high, levels)
    centre = (np.arange(levels) - zero[:, None]) * step[:, None]
    border = centre[:, :-1] + step[:, None] / 2
    sums = [
        np.diff(inner, axis=1, prepend=0.0, append=total)
        for inner, total in zip(density.below(border), density.upto[:, -1], strict=True)
    ]
    error: Array = (sums[2] - 2 * centre * sums[1] + centre**2 * sums[0]).sum(axis=1)
    return error


def divergence(density: _Density, low: Array, high: Array, levels: int) -> Array:
    """KL(P || Q) in nats, for ranges low, high float64 [n]: float64 [n]."""
    step, zero = _steps(low, high, levels)
    parts = (levels - 1) * _SUB
    first = -zero * step
    edge = first[:, None] + np.arange(parts + 1) * (step / _SUB)[:, None]
    upto = density.below(edge, moments=1)[0]
    inside = np.diff(upto, axis=1)
    inside[inside < _ROUNDING] = 0.0
    clipped = inside.copy()
    clipped[:, 0] += upto[:, 0]
    clipped[:, -1] += density.upto[0, -1] - upto[:, -1]
    # A level owns half a step on either side; the outermost two have one side only.
    level = (np.arange(parts) + _SUB // 2) // _SUB
    begin = np.flatnonzero(np.diff(level, prepend=-1))
    occurs = clipped > 0
    mass = np.add.reduceat(inside, begin, axis=1)
    share = mass / np.maximum(np.add.reduceat(occurs, begin, axis=1, dtype=np.float64), 1)
    spread = np.where(occurs, share[:, level], 0.0)
    p = clipped / clipped.sum(axis=1, keepdims=True)
    q = spread / np.maximum(spread.sum(axis=1, keepdims=True), _FLOOR)
    ratio = np.where(occurs, p, 1.0) / np.where(occurs, np.maximum(q, _FLOOR), 1.0)
    result: Array = (p * np.log(ratio)).sum(axis=1)
    return result


def _steps(low: Array, high: Array, levels: int) -> tuple[Array, Array]:
    """Step and the level that is 0, float64 [n] each."""
    step = (high - low) / (levels - 1)
    return step, np.clip(np.rint(-low / step), 0, levels - 1)


def _search(loss: Loss, widest: tuple[float, float], scheme: str) -> tuple[float, float]:
    """The range with the least loss: both ends together first, then each by itself. Of equals the widest."""
    shrink = 2.0 ** -(np.arange(_OCTAVES * _COARSE + 1) / _COARSE)
    low, high = _best(loss, *_refined(loss, widest[0] * shrink, widest[1] * shrink))
    if scheme == "u8" and widest[0] < 0 < widest[1]:
        for _ in range(2):
            low, high = _best(loss, *_refined(loss, np.full(len(shrink), low), widest[1] * shrink))
            low, high = _best(loss, *_refined(loss, widest[0] * shrink, np.full(len(shrink), high)))
    return low, high


def _refined(loss: Loss, low: Array, high: Array) -> tuple[Array, Array]:
    """Candidates closer together around the best of a row of them."""
    best = int(np.argmin(loss(low, high)))
    near = np.clip(best + np.linspace(-1, 1, 2 * _FINE + 1), 0, len(low) - 1)
    at = np.unique(near)
    places = np.arange(len(low))
    return np.interp(at, places, low), np.interp(at, places, high)


def _best(loss: Loss, low: Array, high: Array) -> tuple[float, float]:
    best = int(np.argmin(loss(low, high)))
    return float(low[best]), float(high[best])
