"""The gate as one convolution of the block's own map: form `folded`.

    y [b, c, t, m] -> SpatialAttention(weight w [1, 1, kt, km], bias a) -> g
                                                                 =>
    y -> Conv(w / c for every map, a) [b, 1, t, m] -> Sigmoid -> gate;    g = y * gate

Algebra: a convolution is linear, so the weighted sum of means is one sum over maps and taps:

    a + sum_k w_k * (1/c sum_i y_i[t + k]) = a + sum_(i, k) (w_k / c) * y_i[t + k]

Padding stands for maps of zeros on both sides, and the mean of zeros is zero: borders are the same.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from sattn_edge.passes.base import PassReport
from sattn_edge.passes.forms import Place, needs_mean, rewrite_blocks


class Folded:
    """Writes mean and gate convolution as one convolution from c maps to 1."""

    name = "folded"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: the pooling is the mean alone (a maximum is not linear). Any kernel and pads."""
        return rewrite_blocks(model, self)

    def why_not(self, place: Place) -> str:
        """Rule 1."""
        return needs_mean(place.block)

    def write(self, place: Place) -> None:
        """Conv, Sigmoid, Mul."""
        block = place.block
        maps = block.shape[0]
        weight = np.repeat(block.weight / maps, maps, axis=1)
        place.multiply(place.conv(block.call.input[0], weight, np.array([block.bias]), block.pads))
