"""The mean over maps as a convolution of the block's input: form `mean-conv`.

    x -> conv(W [c, i, kt, km], b) -> y -> SpatialAttention(w, a) -> g
                                                                 =>
    x -> Conv(mean of W over c, mean of b) [b, 1, t, m] -> Conv(w, a) -> Sigmoid -> gate;    g = y * gate

Algebra: the main convolution is linear in its output maps, so the mean of its maps is the convolution with the mean
of its weights and bias, in the same window. Nothing but the multiply reads y afterwards, so what follows the
multiply can move into the main convolution.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from sattn_edge.graph import Graph
from sattn_edge.passes.base import PassReport
from sattn_edge.passes.block import Array, Block, conv_weights, window_of
from sattn_edge.passes.forms import Place, needs_mean, rewrite_blocks


class MeanConv:
    """Writes the mean over maps as a convolution to one map, then the gate's own convolution."""

    name = "mean-conv"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: the pooling is the mean alone. Rule 2: a main conv of one group that nothing else reads."""
        return rewrite_blocks(model, self)

    def why_not(self, place: Place) -> str:
        """Rules 1 and 2."""
        return needs_mean(place.block) or needs_whole_conv(place)

    def write(self, place: Place) -> None:
        """Conv, Conv, Sigmoid, Mul."""
        block, conv = place.block, main_conv(place.block)
        window = window_of(place.graph, conv)
        weight, bias = mean_weights(place.graph, conv)
        mean = place.conv(
            conv.input[0],
            weight,
            bias,
            window.pads,
            "mean",
            strides=window.strides,
            dilations=window.dilations,
        )
        place.multiply(place.conv(mean, block.weight, np.array([block.bias]), block.pads))


def needs_whole_conv(place: Place) -> str:
    """Why not, where a form reads a block's input in the place of its map."""
    conv = place.block.conv
    if conv is None:
        return place.block.why
    group = window_of(place.graph, conv).group
    return f"'{conv.name}' has {group} groups" if group != 1 else ""


def main_conv(block: Block) -> NodeProto:
    """The main conv of a block that has one to change (`needs_whole_conv`)."""
    if block.conv is None:
        raise ValueError(f"block '{block.name}' has no convolution of its own")
    return block.conv


def mean_weights(graph: Graph, conv: NodeProto) -> tuple[Array, Array]:
    """What makes the mean over a conv's maps from its input: weight float64 [1, i, kt, km] and bias [1]."""
    weight, bias = conv_weights(graph, conv)
    return weight.mean(0, keepdims=True), bias.mean(keepdims=True)
