"""The gate's convolution as slices, multiplies and adds: form `taps`.

    y [b, c, t, m] -> SpatialAttention(w [1, p, k, 1], a) -> g
                                                                 =>
    y -> ReduceMean | ReduceMax over maps -> Pad by zeros along time -> k slices of length t, shifted by one each
    logits = w_0 * slice_0 + w_1 * slice_1 + ... + a;    g = y * Sigmoid(logits)

Algebra: this is what a convolution of one plane is, written out. The window's length is fixed, so every slice has
constant bounds, and the padding stands in the graph: borders are the same. With mean+max there are two planes of k
slices. The map has one plane, so a compiler makes the slices part of the multiply that follows, which it does not
do with a convolution.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from sattn_edge.passes.base import PassReport
from sattn_edge.passes.forms import Place, needs_time_only, rewrite_blocks

_TIME = 2
_POOLS = {"mean": ("ReduceMean",), "max": ("ReduceMax",), "mean+max": ("ReduceMean", "ReduceMax")}


class Taps:
    """Writes the gate's convolution along time as one multiply-add for each tap."""

    name = "taps"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: the gate's kernel is along time alone. Rule 2: its pads keep the length."""
        return rewrite_blocks(model, self)

    def why_not(self, place: Place) -> str:
        """Rules 1 and 2."""
        return needs_time_only(place.block)

    def write(self, place: Place) -> None:
        """Poolings, pads, slices; multiplies and adds; Sigmoid, Mul."""
        block, terms = place.block, []
        for plane, reduce in enumerate(_POOLS[block.pooling]):
            pooled = place.add(
                reduce, [block.call.input[0]], reduce.removeprefix("Reduce").lower(), axes=[1], keepdims=1
            )
            for i, value in enumerate(_shifted(place, pooled)):
                weight = place.constant("weight", block.weight[:, plane : plane + 1, i : i + 1])
                terms.append(place.add("Mul", [value, weight], "tap"))
        bias = place.constant("bias", np.full((1, 1, 1, 1), block.bias))
        logits = terms[0]
        for term in (*terms[1:], bias):
            logits = place.add("Add", [logits, term], "sum")
        place.multiply(logits)


def _shifted(place: Place, pooled: str) -> list[str]:
    """The pooled map as each tap sees it: [b, 1, t, m] each, zeros where it is outside."""
    block = place.block
    top, _, bottom, _ = block.pads
    taps, length = block.weight.shape[_TIME], block.shape[1]
    if taps == 1:
        return [pooled]
    pads = place.integers("pads", [0, 0, top, 0, 0, 0, bottom, 0])
    padded, axes = place.add("Pad", [pooled, pads], "pad"), place.integers("axes", [_TIME])
    rows = [(place.integers("start", [i]), place.integers("end", [i + length])) for i in range(taps)]
    return [place.add("Slice", [padded, start, end, axes], "slice") for start, end in rows]
