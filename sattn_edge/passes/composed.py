"""The gate's logits as one convolution of the block's input: form `composed`.

    x -> conv(W [c, i, n, 1], stride s) -> y -> SpatialAttention(w [1, 1, k, 1], a) -> g
                                                                 =>
    x -> Conv([p, i, (k - 1) * s + n, 1], stride s) [b, p, t, m] -> (Mul mask, ReduceMean)? -> Add -> Sigmoid -> gate
    g = y * gate

Algebra. The mean of y is conv(x) with V = mean of W over c and v = mean of b (see `mean_conv`). At step t the gate
wants

    a + sum_h w_h * in(t + h - top) * ( v + sum_j V_j x[(t + h - top) * s + j * d - pad] )

where in(u) is 1 for 0 <= u < length and 0 outside, since the gate pads the MEAN by zeros. Without in() this is one
convolution of x with stride s, whose tap h * s + j * d is the sum of w_h * V_j, padded by top * s + pad. Borders:

1. The bias term a + v * sum_h w_h in(t + h - top) is known for every step: a constant [1, 1, t, 1].
2. A gate tap h that is outside at some step, and meets only padding there, adds nothing by itself: it stays in the
   one kernel. (A 3-tap gate over a 3-tap conv with stride 2 and padding 1: its first tap, always; its last, where
   the input is odd in length.)
3. A gate tap that would meet real input outside gets an output channel of its own, multiplied by its in(): 0 or 1.
   The channels are added up as p times their mean, since TensorRT 8 reads the axes of a mean, but not of a sum,
   from where opset 17 puts them; p stands in the masks.

Nothing is subtracted, so no digits are lost, and a map may be shorter than the gate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from sattn_edge.passes.base import PassReport
from sattn_edge.passes.block import Array, Block, Window, window_of
from sattn_edge.passes.forms import Place, needs_mean, needs_time_only, rewrite_blocks
from sattn_edge.passes.mean_conv import main_conv, mean_weights, needs_whole_conv

MOST_CHANNELS = 8
"""More channels than this cost more than they save: a gate of 7 taps, the widest that is common, needs at most 7."""


class Composed:
    """Writes main conv, mean and gate conv as one convolution, exact at the borders."""

    name = "composed"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: the pooling is the mean alone. Rule 2: a main conv of one group that nothing else reads.

        Rule 3: both convolutions are along time alone, and the gate's keeps the length. Rule 4: the border needs at
        most `MOST_CHANNELS` channels.
        """
        return rewrite_blocks(model, self)

    def why_not(self, place: Place) -> str:
        """Rules 1 to 4."""
        if reason := needs_mean(place.block) or needs_time_only(place.block) or needs_whole_conv(place):
            return reason
        graph, conv = place.graph, main_conv(place.block)
        if not window_of(graph, conv).along_time:
            return f"'{conv.name}' is not along time alone"
        if graph.shapes.get(conv.input[0], (None,) * 4)[2] is None:
            return f"the length of what '{conv.name}' reads is not fixed"
        channels = len(_border(place).channels)
        return f"its borders need {channels} channels, more than {MOST_CHANNELS}" if channels > MOST_CHANNELS else ""

    def write(self, place: Place) -> None:
        """Conv; Mul and ReduceMean where there is more than one channel; Add, Sigmoid, Mul."""
        graph, block, conv = place.graph, place.block, main_conv(place.block)
        window, border = window_of(graph, conv), _border(place)
        weight, bias = mean_weights(graph, conv)
        taps = block.weight[0, 0, :, 0]
        kernels = [_composed(weight, taps, channel, window) for channel in border.channels]
        steps = block.bias + bias * (taps @ border.inside)
        count, even = len(kernels), bool(np.all(steps == steps[0]))
        logits = place.conv(
            conv.input[0],
            np.concatenate(kernels),
            np.full(count, steps[0] if even and count == 1 else 0.0),
            _pads(block, window),
            "composed",
            strides=window.strides,
        )
        if count > 1:
            masks = place.constant("mask", count * border.masks()[None, :, :, None])
            masked = place.add("Mul", [logits, masks], "masked")
            logits = place.add("ReduceMean", [masked], "sum", axes=[1], keepdims=1)
        if count > 1 or not even:
            logits = place.add("Add", [logits, place.constant("bias", steps[None, None, :, None])], "logits")
        place.multiply(logits)


@dataclass(frozen=True, eq=False)
class _Border:
    """`inside` [k, t] is 1 where a gate tap meets the map, 0 outside; channels are the gate taps of each channel."""

    inside: Array
    channels: tuple[tuple[int, ...], ...]

    def masks(self) -> Array:
        """[p, t]: 1 throughout for the first channel, in() of its tap for each other."""
        rows = [np.ones(self.inside.shape[1]), *(self.inside[channel[0]] for channel in self.channels[1:])]
        return np.stack(rows)


def _border(place: Place) -> _Border:
    """Which gate taps can share a kernel: rules 2 and 3 of the algebra."""
    graph, block, conv = place.graph, place.block, main_conv(place.block)
    window, series = window_of(graph, conv), graph.shapes[conv.input[0]][2] or 0
    length, taps = block.shape[1], block.weight.shape[2]
    steps = np.arange(length)[None] + np.arange(taps)[:, None] - block.pads[0]
    inside = (steps >= 0) & (steps < length)
    read = steps[..., None] * window.strides[0] + np.arange(window.kernel[0]) * window.dilations[0] - window.pads[0]
    real = np.any((read >= 0) & (read < series), axis=-1)
    alone = np.any(real & ~inside, axis=1)
    shared = tuple(h for h in range(taps) if not alone[h])
    own = tuple((h,) for h in range(taps) if alone[h] and inside[h].any())
    return _Border(inside.astype(np.float64), (shared, *own))


def _composed(weight: Array, taps: Array, channel: tuple[int, ...], window: Window) -> Array:
    """The kernel [1, i, (k - 1) * s + reach, 1] of some gate taps over the mean's weight [1, i, n, 1]."""
    stride, dilation = window.strides[0], window.dilations[0]
    reach = (window.kernel[0] - 1) * dilation + 1
    out = np.zeros((1, weight.shape[1], (len(taps) - 1) * stride + reach, 1))
    for h in channel:
        out[:, :, h * stride : h * stride + reach : dilation] += taps[h] * weight
    return out


def _pads(block: Block, window: Window) -> tuple[int, int, int, int]:
    stride = window.strides[0]
    return block.pads[0] * stride + window.pads[0], 0, block.pads[2] * stride + window.pads[2], 0
