"""A histogram of everything a tensor held, gathered in one pass and in memory that does not grow.

The bins are those a float32 has by itself: sign, exponent and the first nine bits of the fraction. Their edges are
dyadic and fixed, each bin is at most 1/512 of its value wide, and nothing has to be rescaled when a larger value
comes. So the counts depend neither on the order of the values nor on how they were cut into batches, and the body
stays resolved however far the tail reaches: below a maximum 200 times the body it has as many bins as without it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FRACTION_BITS = 9
_SHIFT = 23 - FRACTION_BITS  # of a float32's 23 bits of fraction
_BINS = 1 << (32 - _SHIFT)
_NEGATIVE = _BINS // 2  # the sign is a bin's highest bit
_NOT_FINITE = 255 << FRACTION_BITS  # the first bin of infinities and NaN
_CHUNK = 1 << 19  # values at once: the index of each is held, 8 bytes


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """What a tensor held.

    index: int64 [k], the occupied bins in ascending order of value, as the upper bits of a float32.
    count: int64 [k], the values in each, exact zeros not among them.
    zeros, non_finite: how many values were 0, and how many infinite or not a number.
    minimum, maximum: exact, over the finite values; 0 where there is none.
    """

    index: NDArray[np.int64]
    count: NDArray[np.int64]
    zeros: int
    non_finite: int
    minimum: float
    maximum: float

    @property
    def total(self) -> int:
        """How many finite values there were."""
        return int(self.count.sum()) + self.zeros

    def edges(self) -> tuple[Array, Array]:
        """Lower and upper edge of each bin, float64 [k] each. Neighbours share them; at 0 there is an edge."""
        size = self.index & (_NEGATIVE - 1)
        inner, outer = _magnitude(size), _magnitude(size + 1)
        negative = self.index >= _NEGATIVE
        return np.where(negative, -outer, inner), np.where(negative, -inner, outer)

    def absolute(self) -> Histogram:
        """The histogram of the absolute values: exact, since the bins lie symmetrically about 0."""
        counts = np.zeros(_NEGATIVE, np.int64)
        np.add.at(counts, self.index & (_NEGATIVE - 1), self.count)
        index = np.flatnonzero(counts)
        largest = max(abs(self.minimum), abs(self.maximum))
        smallest = max(self.minimum, -self.maximum, 0.0)  # 0 where both signs occur: a bound, good enough here
        return Histogram(index, counts[index], self.zeros, self.non_finite, smallest, largest)

    def digest(self) -> str:
        """Names the content: SHA-256 of its canonical bytes, in hexadecimal."""
        head = f"histogram 1, {FRACTION_BITS} bits, {len(self.index)} bins, {self.zeros}, {self.non_finite}\n"
        limits = np.array([self.minimum, self.maximum], "<f8") + 0.0  # no -0.0
        body = (self.index.astype("<i4").tobytes(), self.count.astype("<i8").tobytes(), limits.tobytes())
        return hashlib.sha256(b"".join((head.encode(), *body))).hexdigest()


class HistogramBuilder:
    """Gathers a `Histogram` from batches of any size, in any order."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._zeros = 0
        self._minimum, self._maximum = np.inf, -np.inf

    def add(self, values: NDArray[np.floating]) -> None:
        """Counts an array of any shape. What is not float32 is made so first."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        for begin in range(0, flat.size, _CHUNK):
            self._add(flat[begin : begin + _CHUNK])

    def _add(self, values: NDArray[np.float32]) -> None:
        counts = np.bincount(values.view(np.uint32) >> _SHIFT, minlength=_BINS)
        self._counts += counts
        if counts[_NOT_FINITE:_NEGATIVE].any() or counts[_NEGATIVE + _NOT_FINITE :].any():
            values = values[np.isfinite(values)]
        if not values.size:
            return
        self._zeros += values.size - int(np.count_nonzero(values))
        self._minimum = min(self._minimum, float(values.min()))
        self._maximum = max(self._maximum, float(values.max()))

    def finish(self) -> Histogram:
        """What was gathered so far."""
        counts = self._counts.copy()
        odd = np.r_[_NOT_FINITE:_NEGATIVE, _NEGATIVE + _NOT_FINITE : _BINS]
        non_finite = int(counts[odd].sum())
        counts[odd] = 0
        # Zeros of both signs leave the two bins at 0, which hold what is below 2^-135 besides; that is too small
        # for its sign to matter.
        counts[0] += counts[_NEGATIVE] - self._zeros
        counts[_NEGATIVE] = 0
        order = np.concatenate([np.arange(_BINS - 1, _NEGATIVE - 1, -1), np.arange(_NEGATIVE)])
        index = order[counts[order] > 0]
        seen = self._minimum <= self._maximum
        return Histogram(
            index=index,
            count=counts[index],
            zeros=self._zeros,
            non_finite=non_finite,
            minimum=self._minimum + 0.0 if seen else 0.0,
            maximum=self._maximum + 0.0 if seen else 0.0,
        )


def histogram(values: NDArray[np.floating]) -> Histogram:
    """The histogram of one array."""
    builder = HistogramBuilder()
    builder.add(values)
    return builder.finish()


def _magnitude(size: NDArray[np.int64]) -> Array:
    """The absolute value at which a bin begins; one past the last finite bin it is 2^128."""
    exponent, fraction = size >> FRACTION_BITS, size & ((1 << FRACTION_BITS) - 1)
    normal = exponent > 0
    mantissa = np.where(normal, 1.0, 0.0) + fraction / float(1 << FRACTION_BITS)
    return np.asarray(np.ldexp(mantissa, np.where(normal, exponent, 1) - 127), np.float64)


class PerMapMaximum:
    """The smallest and the largest value of each feature map, axis 1, over everything added."""

    def __init__(self) -> None:
        self._minimum: NDArray[np.float32] | None = None
        self._maximum: NDArray[np.float32] | None = None

    def add(self, values: NDArray[np.float32]) -> None:
        """Takes a batch [b, c, ...]."""
        rows = values.reshape(*values.shape[:2], -1)
        low, high = rows.min(axis=2).min(axis=0), rows.max(axis=2).max(axis=0)
        self._minimum = low if self._minimum is None else np.minimum(self._minimum, low)
        self._maximum = high if self._maximum is None else np.maximum(self._maximum, high)

    def finish(self) -> tuple[Array, Array]:
        """Minimum and maximum, float64 [c] each.

        Raises:
            ValueError: nothing was added.
        """
        if self._minimum is None or self._maximum is None:
            raise ValueError("no batch was added")
        return self._minimum.astype(np.float64), self._maximum.astype(np.float64)
