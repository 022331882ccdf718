"""INT8 as ONNX Runtime's integer kernels want it: unsigned asymmetric inputs, signed symmetric weights.

    x -> moves -> Gemm(W, b) -> y
        =>  x -> Q(u8) -> moves -> DQ -> Gemm(DQ(W8), DQ(b32)) -> y                            runs as QGemm
    x -> moves -> Conv(W, b) -> y
        =>  x -> Q(u8) -> moves -> DQ -> Conv(DQ(W8), DQ(b32)) -> Q(u8) -> DQ -> y             runs as QLinearConv

    y = s_x * s_c * (sum (q_x - z_x) * q_w + b32),  b32 = round(b / (s_x * s_c)): the bias is exact to half a level
    of the accumulator.

The integer Gemm gives floats, so nothing is lost behind it; the integer Conv gives u8 only, so its output needs a
range too. What `quantize` says of scales and of moving Q to the source holds here.

Rule 1: a product named in the choices, with constant weights.
Rule 2: a Conv needs a range of its output; one without (0 to 0) is left alone.
Rule 3: BatchNormalization behind a gated Conv stays where it is: the output range was seen in front of it.
Rule 4: a product of 17 to 31 outputs gets zeros up to 32, and a Slice takes them off again. ONNX Runtime before 1.25
        computes just those wrong on CPUs with AMX, another number at every call (its pull request 27671). A Conv
        with groups, where zeros can't stand at the end, is left alone.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from sattn_edge.calibration_table import LayerChoice
from sattn_edge.graph import Graph, attribute
from sattn_edge.passes.quantize import (
    Inserts,
    Quantize,
    dequantize,
    output_axis,
    pad_with,
    quantize_weights,
    source_of,
    u8_scale,
)

_NARROW, _WIDE = 16, 32


class QuantizeOnnxRuntime(Quantize):
    """Q/DQ as ONNX Runtime's integer kernels want it."""

    name = "quantize-onnxruntime"

    def _why_not(self, node: NodeProto, choice: LayerChoice) -> str:
        if node.op_type == "Conv" and choice.out_high == choice.out_low:
            return "its output has no range, which the integer convolution needs"
        if attribute(node, "group", 1) > 1:
            return "it has groups, whose integer products may be too narrow for ONNX Runtime before 1.25"
        return ""

    def _rewrite(self, graph: Graph, node: NodeProto, choice: LayerChoice) -> tuple[Inserts, str]:
        _widen(graph, node)
        inserts = _input(graph, node, choice)
        if node.op_type == "Conv":
            _output(graph, node, choice)
        return inserts, f"on u8 inputs over {choice.low:.4g} to {choice.high:.4g}"


def _input(graph: Graph, node: NodeProto, choice: LayerChoice) -> Inserts:
    scale, zero = u8_scale(choice.low, choice.high)
    level = np.asarray(zero, np.uint8)
    moves = source_of(graph, node)
    first = moves[-1] if moves else node
    source = first.input[0]
    name = f"{node.name}.input"
    names = [graph.add_constant(f"{name}.scale", np.float32(scale)), graph.add_constant(f"{name}.zero_point", level)]
    quantized = graph.fresh(f"{name}.quantized")
    quantize = helper.make_node("QuantizeLinear", [source, *names], [quantized], name=f"{name}.quantize")
    first.input[0] = quantized
    pad_with(graph, moves, level)
    back = helper.make_node(
        "DequantizeLinear", [node.input[0], *names], [f"{name}.dequantized"], name=f"{name}.dequantize"
    )
    node.input[0] = back.output[0]
    return [(first, [quantize]), (node, [back, *_weights(graph, node, scale)])]


def _widen(graph: Graph, node: NodeProto) -> None:
    """Rule 4: zeros behind the outputs of a product, and a Slice behind it."""
    weight = graph.constant(node.input[1])
    if weight is None or not _NARROW < weight.shape[axis := output_axis(node, weight.ndim)] < _WIDE:
        return
    count = weight.shape[axis]
    name, value = node.name, node.output[0]
    pads = [(0, _WIDE - count if i == axis else 0) for i in range(weight.ndim)]
    node.input[1] = graph.add_constant(f"{name}.weight.widened", np.pad(weight, pads))
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if bias is not None:
        node.input[2] = graph.add_constant(f"{name}.bias.widened", np.pad(bias.reshape(-1), (0, _WIDE - count)))
    node.output[0] = graph.fresh(f"{value}.widened")
    ends = {"starts": 0, "ends": count, "axes": 1 if node.op_type == "Conv" else -1}
    numbers = [graph.add_constant(f"{name}.slice.{key}", np.array([n], np.int64)) for key, n in ends.items()]
    slice_off = helper.make_node("Slice", [node.output[0], *numbers], [value], name=f"{name}.slice")
    graph.proto.node.insert(_place(graph, node) + 1, slice_off)


def _place(graph: Graph, node: NodeProto) -> int:
    return next(i for i, n in enumerate(graph.proto.node) if n is node)


def _weights(graph: Graph, node: NodeProto, input_scale: float) -> list[NodeProto]:
    weight = graph.constant(node.input[1])
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if weight is None:
        raise ValueError(f"the weights of '{node.name}' are computed")
    bias64 = None if bias is None else bias.astype(np.float64)
    found = quantize_weights(weight.astype(np.float64), output_axis(node, weight.ndim), bias64, input_scale)
    made = graph.add_constant(f"{node.name}.weight.int8", found.values)
    zeros = np.zeros(len(found.scales), np.int8)
    nodes = [dequantize(graph, made, found.scales, zeros, f"{node.name}.weight.dequantize", found.axis)]
    node.input[1] = nodes[0].output[0]
    if bias64 is not None:
        steps = (np.float32(input_scale) * found.scales.astype(np.float32)).astype(np.float64)
        levels = np.rint(bias64.reshape(-1) / steps).astype(np.int32)
        made = graph.add_constant(f"{node.name}.bias.int32", levels)
        nodes.append(dequantize(graph, made, steps, np.zeros(len(steps), np.int32), f"{node.name}.bias.dequantize"))
        node.input[2] = nodes[1].output[0]
    return nodes


def _output(graph: Graph, node: NodeProto, choice: LayerChoice) -> None:
    """Q/DQ behind a Conv: its readers read what is dequantised."""
    scale, zero = u8_scale(choice.out_low, choice.out_high)
    name = f"{node.name}.output"
    names = [
        graph.add_constant(f"{name}.scale", np.float32(scale)),
        graph.add_constant(f"{name}.zero_point", np.asarray(zero, np.uint8)),
    ]
    value = node.output[0]
    raw, quantized = graph.fresh(f"{value}.raw"), graph.fresh(f"{value}.quantized")
    node.output[0] = raw
    position = _place(graph, node)
    for i, new in enumerate(
        [
            helper.make_node("QuantizeLinear", [raw, *names], [quantized], name=f"{name}.quantize"),
            helper.make_node("DequantizeLinear", [quantized, *names], [value], name=f"{name}.dequantize"),
        ]
    ):
        graph.proto.node.insert(position + 1 + i, new)
