"""Q/DQ nodes around the main products that run in INT8: what both placements share.

    x -> Pad -> Gather -> Reshape -> Gemm(W, b)

    x -> Q -> Pad -> Gather -> Reshape -> DQ -> Gemm(DQ(W8), b)                       (moved to the source)

QuantizeLinear is  q(x) = clip(round(x / s) + z)  and DequantizeLinear  (q - z) * s,  both value by value. Moving
values about (Reshape, Transpose, Gather, Slice, Pad with 0) commutes with them: a padded 0 is the level z exactly,
because every range holds zero. So Q may stand where the value is computed, and the moves work on bytes.
Weights: symmetric per output channel, s_c = max|W_c| / 127; a channel of zeros has any scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from sattn_edge.calibration_table import LayerChoice
from sattn_edge.graph import Graph, attribute, insert_nodes, set_attribute
from sattn_edge.passes.base import NearMiss, PassReport

Array = NDArray[np.float64]
Inserts = list[tuple[NodeProto, list[NodeProto]]]
PRODUCTS = ("Conv", "Gemm", "MatMul")
MOVES = frozenset({"Reshape", "Transpose", "Gather", "Slice", "Pad", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
WEIGHT_LEVELS = 127
OF_NOTHING = 2.0**-14
"""The scale of a value that is always 0: any will do, and this one is a normal number in float16 too."""
_SMALLEST = 2.0**-126  # the smallest normal float32
_BIAS_LEVELS = 2.0**30


class Quantize(ABC):
    """Puts Q/DQ around the products chosen for INT8. `choices`: by name of the product.

    A placement says why it leaves a product alone, and rewrites one; the products keep their names.
    """

    name: str

    def __init__(self, choices: Mapping[str, LayerChoice]) -> None:
        self._choices = {name: choice for name, choice in choices.items() if choice.int8}

    def __call__(self, model: ModelProto) -> PassReport:
        """Adds QuantizeLinear and DequantizeLinear."""
        graph = Graph(model)
        details, misses, new = [], [], []
        for node in [n for n in model.graph.node if n.name in self._choices]:
            choice = self._choices[node.name]
            if reason := constant_product(graph, node) or self._why_not(node, choice):
                misses.append(NearMiss(node.name, reason))
                continue
            inserts, detail = self._rewrite(graph, node, choice)
            new += inserts
            details.append(f"{node.name}: {node.op_type} {detail}")
        insert_nodes(model, new)
        return PassReport(self.name, len(details), tuple(details), tuple(misses))

    def _why_not(self, node: NodeProto, choice: LayerChoice) -> str:  # noqa: ARG002 - for placements that can't
        return ""

    @abstractmethod
    def _rewrite(self, graph: Graph, node: NodeProto, choice: LayerChoice) -> tuple[Inserts, str]:
        """Rewires one product. Returns the nodes to put in front of others, and what to report."""


@dataclass(frozen=True, eq=False)
class Weights:
    """int8 weights with a scale for each output channel, and the axis those lie on."""

    values: NDArray[np.int8]
    scales: Array
    axis: int


def u8_scale(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of u8: x = (q - zero_point) * scale, q in 0..255. 0 is a level; low <= 0 <= high is made so.

    The scale is a float32's value, and above 0 for a range of nothing too.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    step = _float32((high - low) / 255)
    return step, int(np.clip(np.rint(-low / step), 0, 255))


def s8_scale(bound: float) -> float:
    """Scale of s8: x = q * scale, q in -127..127. A float32's value, above 0."""
    return _float32(abs(bound) / WEIGHT_LEVELS)


def _float32(step: float) -> float:
    return float(np.float32(max(step, _SMALLEST))) if step > 0 else OF_NOTHING


def output_axis(node: NodeProto, dims: int) -> int:
    """The axis of a product's weight, of so many dimensions, that counts its outputs."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return dims - 1


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
    return weight is not None and bias is not None and bias.size != weight.shape[output_axis(node, weight.ndim)]


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
