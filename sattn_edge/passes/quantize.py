"""Q/DQ nodes around the main products that run in INT8: what both placements share.

    x -> Pad -> Gather -> Reshape -> Gemm(W, b)

    x -> Q -> Pad -> Gather -> Reshape -> DQ -> Gemm(DQ(W8), b)                       (moved to the source)

QuantizeLinear is  q(x) = clip(round(x / s) + z)  and DequantizeLinear  (q - z) * s,  both value by value. Moving
values about (Reshape, Transpose, Gather, Slice, Pad with 0) commutes with them: a padded 0 is the level z exactly,
because every range holds zero. So Q may stand where the value is computed, and the moves work on bytes.
Weights: symmetric per output channel, s_c = max|W_c| / 127; a channel of zeros has any scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from sattn_edge.graph import Graph, attribute, set_attribute

Array = NDArray[np.float64]
PRODUCTS = ("Conv", "Gemm", "MatMul")
MOVES = frozenset({"Reshape", "Transpose", "Gather", "Slice", "Pad", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
WEIGHT_LEVELS = 127
_SMALLEST = 2.0**-100  # a scale far below any sensor's, still a normal float32
_BIAS_LEVELS = 2.0**30


@dataclass(frozen=True, eq=False)
class Weights:
    """int8 weights with a scale for each output channel, and the axis those lie on."""

    values: NDArray[np.int8]
    scales: Array
    axis: int


def u8_scale(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of u8 over [low, high], which holds 0; 0 is a level exactly. Both float32-safe."""
    scale = max((high - low) / 255, _SMALLEST)
    return float(np.float32(scale)), int(np.clip(np.rint(-low / scale), 0, 255))


def s8_scale(bound: float) -> float:
    """Scale of s8 over [-bound, bound], levels -127 to 127."""
    return float(np.float32(max(bound / WEIGHT_LEVELS, _SMALLEST)))


def output_axis(node: NodeProto) -> int:
    """The axis of a product's weight that counts its outputs."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1


def quantize_weights(
    weight: Array,
    axis: int,
    bias: Array | None = None,
    input_scale: float = 1.0,
    rounded: Callable[[Array], Array] = lambda scales: scales,
) -> Weights:
    """Weights to int8, symmetric per output channel.

    A channel's scale is raised where its bias would not fit int32 at input_scale * scale. `rounded` takes the scales
    to numbers not smaller that the target can hold.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.maximum(np.abs(weight).max(axis=others) / WEIGHT_LEVELS, _SMALLEST)
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias) / (input_scale * _BIAS_LEVELS))
    scales = rounded(scales.astype(np.float32).astype(np.float64))
    shape = [1] * weight.ndim
    shape[axis] = -1
    levels = np.rint(weight / scales.reshape(shape))
    return Weights(np.clip(levels, -WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8), scales, axis)


def source_of(graph: Graph, node: NodeProto) -> list[NodeProto]:
    """The moves between where a product's input is computed and the product, nearest to the product first.

    Ends at a value that is computed, that something else reads too, or that a Pad fills with anything but 0.
    """
    moves: list[NodeProto] = []
    reader = node
    while True:
        producer = graph.producers.get(reader.input[0])
        if producer is None or producer.op_type not in MOVES or graph.only_reader(reader.input[0]) is not reader:
            return moves
        if producer.op_type == "Pad" and not _pads_zero(graph, producer):
            return moves
        moves.append(producer)
        reader = producer


def _pads_zero(graph: Graph, pad: NodeProto) -> bool:
    if attribute(pad, "mode", b"constant") != b"constant":
        return False
    value = graph.constant(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(())
    return value is not None and not value.any()


def pad_with(graph: Graph, moves: list[NodeProto], level: NDArray[np.uint8] | NDArray[np.int8]) -> None:
    """Lets every Pad among the moves fill with the level that stands for 0."""
    for pad in (m for m in moves if m.op_type == "Pad"):
        value = graph.add_constant(f"{pad.name}.zero", level)
        rest = list(pad.input[3:])
        del pad.input[2:]
        pad.input.extend([value, *rest])


def constant_product(graph: Graph, node: NodeProto) -> str:
    """Why a node can't be quantised, "" if it can."""
    if node.op_type not in PRODUCTS:
        return f"{node.op_type} is no product"
    if graph.constant(node.input[1]) is None:
        return "its weights are computed"
    if len(node.input) > 2 and node.input[2] and graph.constant(node.input[2]) is None:
        return "its bias is computed"
    if _bias_of_another_size(graph, node):
        return "its bias is not one number for each output"
    if node.op_type == "Gemm" and (
        attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1
    ):
        return "it scales or transposes its input"
    return ""


def _bias_of_another_size(graph: Graph, node: NodeProto) -> bool:
    weight = graph.constant(node.input[1])
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return weight is not None and bias is not None and bias.size != weight.shape[output_axis(node)]


def dequantize(
    graph: Graph, value: str, scale: Array, zero: NDArray[np.generic], name: str, axis: int = 0
) -> NodeProto:
    """A DequantizeLinear node behind `value`; scale float64 [] or [channels] is written as float32."""
    factor = graph.add_constant(f"{name}.scale", np.asarray(scale, np.float32))
    level = graph.add_constant(f"{name}.zero_point", zero)
    node = helper.make_node("DequantizeLinear", [value, factor, level], [graph.fresh(name)], name=name)
    if np.ndim(scale):
        set_attribute(node, "axis", axis)
    return node
