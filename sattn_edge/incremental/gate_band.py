"""A gate's small convolution over a few columns as a product with a constant matrix.

    a[i, m] = sum_d,j  w[d, j] * pooled[taps[i, d], m + j - left]    =>    a = band * pooled

Taps that fall on padding have no entry. Along time alone the matrix is the same for every channel of the sensor. It
grows with the square of the columns: of many, the taps are gathered instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def band(
    weight: NDArray[np.float64], left: int, taps: Sequence[Sequence[int]], columns: int, modal: int, streams: int
) -> NDArray[np.float64]:
    """The matrix [out*streams*modal, columns*streams*modal].

    Args:
        weight: [kernel, kernel_m].
        left: padding along modal, in front.
        taps: [out, kernel] places of columns, -1 for padding.
        columns: of what it is multiplied with.
        modal: channels of a sensor.
        streams: how many sensors stand beside one another.
    """
    out = len(taps)
    matrix = np.zeros((out, modal, columns, modal))
    for row, places in enumerate(taps):
        for numbers, place in zip(weight, places, strict=True):
            if place < 0:
                continue
            for j, number in enumerate(numbers):
                for m in range(max(0, left - j), min(modal, modal + left - j)):
                    matrix[row, m, place, m + j - left] += number
    beside: NDArray[np.float64] = np.einsum("imjn,st->ismjtn", matrix, np.eye(streams))
    return beside.reshape(out * streams * modal, columns * streams * modal)


def band_rows(
    kernel_m: int, left: int, taps: Sequence[Sequence[int]], columns: int, modal: int, streams: int
) -> NDArray[np.int64]:
    """Which rows of [columns*streams*modal, 1] each tap reads: [out*streams*modal, kernel*kernel_m].

    A tap that falls on padding reads the row behind the last. Arguments: as for `band`.
    """
    places = np.asarray(taps, np.int64)[:, None, None, :, None]
    stream = np.arange(streams)[:, None, None, None]
    channel = (np.arange(modal)[:, None] + np.arange(kernel_m) - left)[:, None, :]
    rows = (places * streams + stream) * modal + channel
    inside = (places >= 0) & (channel >= 0) & (channel < modal)
    found: NDArray[np.int64] = np.where(inside, rows, columns * streams * modal)
    return found.reshape(len(taps) * streams * modal, -1)
