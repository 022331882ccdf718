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

import numpy as np
from onnx import NodeProto, helper

from sattn_edge.calibration_table import LayerChoice
from sattn_edge.graph import Graph
from sattn_edge.passes.quantize import Array, Inserts, Quantize, dequantize, output_axis, quantize_weights, s8_scale


class QuantizeTensorRT(Quantize):
    """Q/DQ on the inputs and weights of the products."""

    name = "quantize-tensorrt"

    def _rewrite(self, graph: Graph, node: NodeProto, choice: LayerChoice) -> tuple[Inserts, str]:
        bound = max(choice.high, -choice.low)
        return [(node, _nodes(graph, node, bound))], f"on s8 inputs within {bound:.4g}"


def _nodes(graph: Graph, node: NodeProto, bound: float) -> list[NodeProto]:
    name = f"{node.name}.input"
    scale = half_up(np.asarray(s8_scale(bound))).astype(np.float32)
    names = [
        graph.add_constant(f"{name}.scale", scale),
        graph.add_constant(f"{name}.zero_point", np.zeros((), np.int8)),
    ]
    quantized, back = graph.fresh(f"{name}.quantized"), graph.fresh(f"{name}.dequantized")
    weight = graph.constant(node.input[1])
    if weight is None:
        raise ValueError(f"the weights of '{node.name}' are computed")
    found = quantize_weights(weight.astype(np.float64), output_axis(node, weight.ndim), rounded=half_up)
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
