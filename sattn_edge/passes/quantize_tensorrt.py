"""INT8 as TensorRT's parser takes it: signed and symmetric everywhere, on the inputs of the main products only.

    x -> Gemm|Conv(W, b) -> y    =>    x -> Q(s8) -> DQ -> Gemm|Conv(DQ(W8), b) -> y

    y = s_x * s_c * sum q_x * q_w + b   with z = 0 on both sides

A zero point that is not 0 and an int32 bias are refused by the parser, so the bias stays as it is; the output is not
quantised, so the gate reads what the product gave. Q and DQ stand together, directly in front of the product: the
compiler moves Q into whatever writes x.

Rule 1: a product named in the choices, with constant weights.
Rule 2: every scale is rounded up to a number that float16 holds, so that typing it float16 later (`Half`) changes
        neither a level nor a value. A scale beyond float16 stays what it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper

from sattn_edge.calibration_table import LayerChoice
from sattn_edge.graph import Graph, insert_nodes
from sattn_edge.passes.base import NearMiss, PassReport
from sattn_edge.passes.quantize import Array, constant_product, dequantize, output_axis, quantize_weights, s8_scale


class QuantizeTensorRT:
    """Puts Q/DQ on the inputs and weights of the products chosen for INT8. `choices`: by name of the product."""

    name = "quantize-tensorrt"

    def __init__(self, choices: Mapping[str, LayerChoice]) -> None:
        self._choices = {name: choice for name, choice in choices.items() if choice.int8}

    def __call__(self, model: ModelProto) -> PassReport:
        """Adds QuantizeLinear and DequantizeLinear; the products keep their names."""
        graph = Graph(model)
        details, misses, new = [], [], []
        for node in [n for n in model.graph.node if n.name in self._choices]:
            choice = self._choices[node.name]
            if reason := constant_product(graph, node):
                misses.append(NearMiss(node.name, reason))
                continue
            new.append((node, _nodes(graph, node, choice)))
            details.append(f"{node.name}: {node.op_type} on s8 inputs within {choice.high:.4g}")
        insert_nodes(model, new)
        return PassReport(self.name, len(details), tuple(details), tuple(misses))


def _nodes(graph: Graph, node: NodeProto, choice: LayerChoice) -> list[NodeProto]:
    name = f"{node.name}.input"
    scale = half_up(np.asarray(s8_scale(max(choice.high, -choice.low)))).astype(np.float32)
    names = [
        graph.add_constant(f"{name}.scale", scale),
        graph.add_constant(f"{name}.zero_point", np.zeros((), np.int8)),
    ]
    quantized, back = graph.fresh(f"{name}.quantized"), graph.fresh(f"{name}.dequantized")
    weight = graph.constant(node.input[1])
    if weight is None:
        raise ValueError(f"the weights of '{node.name}' are computed")
    found = quantize_weights(weight.astype(np.float64), output_axis(node), rounded=half_up)
    made = graph.add_constant(f"{node.name}.weight.int8", found.values)
    zeros = np.zeros(len(found.scales), np.int8)
    weights = dequantize(graph, made, found.scales, zeros, f"{node.name}.weight.dequantize", found.axis)
    nodes = [
        helper.make_node("QuantizeLinear", [node.input[0], *names], [quantized], name=f"{name}.quantize"),
        helper.make_node("DequantizeLinear", [quantized, *names], [back], name=f"{name}.dequantize"),
        weights,
    ]
    node.input[0], node.input[1] = back, weights.output[0]
    return nodes


def half_up(scales: Array) -> Array:
    """Each scale as the next float16 number that is not smaller, float64; unchanged where float16 has none."""
    with np.errstate(over="ignore"):
        near = scales.astype(np.float16)
        up = np.where(near.astype(np.float64) < scales, np.nextafter(near, np.float16(np.inf)), near).astype(np.float64)
    return np.where(np.isfinite(up), up, scales)
