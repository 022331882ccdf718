"""What stands between and behind the blocks, over rows: elementwise operators, BatchNormalization, pool, classifier.

    ReduceMean<axes [2]>(x [b, c, t, m])        =>  [1/t ... 1/t] [1, t] * rows seen as [b, t, m*c]
    Reshape(x [b, c, t, m]) -> Gemm(W [c*t*m])  =>  rows seen as [b, t*m*c] -> Gemm(W in the order (t, m, c))
    Reshape(x [b, 1, t, m]), ... -> Concat      =>  rows seen as [b, t*m], ... -> Concat

Each rule writes a node of the old graph or says why it can't. A flattened value keeps the order (t, m, c) until a
product with constant weights reads it, whose weights are put in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from sattn_edge.graph import attribute
from sattn_edge.passes.block import scale_and_shift
from sattn_edge.passes.gemm_options import GemmOptions
from sattn_edge.passes.gemm_rows import Rows, Writer

Rule = Callable[[Writer, NodeProto, GemmOptions], str]

_UNARY = """
    Abs Neg Exp Log Sqrt Reciprocal Erf Tanh Sigmoid Identity Clip Dropout Relu LeakyRelu Elu Selu Celu Gelu
    HardSigmoid HardSwish Mish Softplus Softsign ThresholdedRelu
"""
UNARY = frozenset(_UNARY.split())
"""What works value by value on one computed input."""
BINARY = ("Add", "Sub", "Mul", "Div")


def tail_rules() -> Mapping[str, Rule]:
    """The rule of each operator that can read rows; it gives the reason where it can't, nothing where it did."""
    return {
        **dict.fromkeys(UNARY, _unary),
        **dict.fromkeys(BINARY, _binary),
        "BatchNormalization": _batch_norm,
        "ReduceMean": _pool,
        "AveragePool": _pool,
        "GlobalAveragePool": _pool,
        "Reshape": _flatten,
        "Flatten": _flatten,
        "Concat": _join,
        "Gemm": _classify,
        "MatMul": _classify,
    }


def _unary(writer: Writer, node: NodeProto, _: GemmOptions) -> str:
    """Rule 4: value by value, on one computed input."""
    if any(writer.graph.constant(name) is None for name in node.input[1:] if name):
        return f"{node.op_type} with computed options"
    if len(node.output) > 1:
        return f"{node.op_type} with more than one output"
    rows = writer.values[node.input[0]]
    value = writer.graph.fresh(f"{node.output[0]}.rows")
    writer.keep(node, [rows.name, *node.input[1:]], [value])
    writer.replaces(node.output[0], rows.at(value, rows.tail))
    return ""


def _binary(writer: Writer, node: NodeProto, _: GemmOptions) -> str:
    """Rule 5: with a number, with a number for each feature map, or with rows of the same size."""
    first = next(writer.values[name] for name in node.input if name in writer.values)
    tail = first.tail if first.flat else first.rows
    inputs = [_operand(writer, name, first, tail, f"{node.name}.operand_{i}") for i, name in enumerate(node.input)]
    if not all(inputs):
        return f"{node.op_type} with something else than a number, numbers for each feature map, or another such map"
    value = writer.graph.fresh(f"{node.output[0]}.rows")
    writer.keep(node, inputs, [value])
    writer.replaces(node.output[0], first.at(value, tail))
    return ""


def _operand(writer: Writer, value: str, like: Rows, tail: tuple[int, ...], name: str) -> str:
    if value in writer.values:
        rows = writer.values[value]
        return writer.view(rows, tail) if (rows.size, rows.flat) == (like.size, like.flat) else ""
    number = writer.graph.constant(value)
    if number is None or number.ndim > (2 if like.flat else 4):
        return ""  # computed, or the result has more axes
    if number.size == 1:
        return writer.constant(name, number.reshape(()))
    per_map = number.ndim >= 3 and number.shape[-3:] == (like.maps, 1, 1) and number.size == like.maps
    return writer.constant(name, number.reshape(-1)) if per_map and not like.flat else ""


def _batch_norm(writer: Writer, node: NodeProto, options: GemmOptions) -> str:
    """Rule 6: BatchNormalization that no product takes in is a multiplication and an addition."""
    if any(writer.graph.constant(name) is None for name in node.input[1:]) or len(node.output) != 1:
        return "BatchNormalization with computed statistics"
    scale, shift = scale_and_shift(writer.graph, node)
    scaled = _per_map(writer, "Mul", writer.values[node.input[0]], scale, f"{node.name}.scale", options)
    write_shift(writer, node, scaled, shift, options)
    return ""


def write_shift(writer: Writer, node: NodeProto, rows: Rows, shift: NDArray[np.float64], options: GemmOptions) -> None:
    """What is left of a BatchNormalization once its scale is in: plus shift [c]."""
    writer.replaces(node.output[0], _per_map(writer, "Add", rows, shift, f"{node.name}.add", options))


def _per_map(
    writer: Writer, op_type: str, rows: Rows, numbers: NDArray[np.float64], name: str, options: GemmOptions
) -> Rows:
    """Rows with a number [c] for each feature map multiplied or added, several rows seen as one where wanted."""
    count = rows.rows[0]
    times = max(n for n in range(1, count + 1) if count % n == 0 and (n == 1 or n * rows.maps <= options.row_values))
    tail = (count // times, times * rows.maps)
    inputs = [writer.view(rows, tail), writer.constant(f"{name}.numbers", np.tile(numbers, times))]
    return rows.at(writer.add(op_type, inputs, name), tail)


def _pool(writer: Writer, node: NodeProto, options: GemmOptions) -> str:
    """Rule 7: the mean over all of time, or over time and modal, that keeps the axes."""
    rows = writer.values[node.input[0]]
    axes = () if rows.flat else mean_over(node, rows.time)
    if not axes:
        return f"{node.op_type} is not the mean over all of time"
    modal = 1 if 3 in axes else rows.modal
    count, row = rows.rows[0] // modal, modal * rows.maps
    value, output = writer.view(rows, (count, row)), f"{node.output[0]}.rows"
    tail: tuple[int, ...] = (row,)
    if options.pool == "matmul":
        weights = writer.constant(f"{node.name}.weight", np.full((1, count), 1 / count))
        pooled, tail = writer.add("MatMul", [weights, value], node.name, output), (1, row)
    else:
        pooled = writer.add("ReduceMean", [value], node.name, output, axes=[1], keepdims=0)
    writer.replaces(node.output[0], Rows(pooled, tail, rows.maps, 1, modal))
    return ""


def mean_over(node: NodeProto, time: int) -> tuple[int, ...]:
    """The axes of [b, c, time, m] a pool averages over: time, or time and modal; nothing for any other node."""
    if node.op_type == "GlobalAveragePool":
        return (2, 3)
    if node.op_type == "ReduceMean":
        axes = tuple(sorted(axis % 4 for axis in attribute(node, "axes", [])))
        kept = attribute(node, "keepdims", 1) == 1 and len(node.input) == 1  # runtimes take any other number for 0
        return axes if kept and axes in ((2,), (2, 3)) else ()
    if node.op_type != "AveragePool":
        return ()
    plain = not any(attribute(node, "pads", [])) and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    return (2,) if plain and list(attribute(node, "kernel_shape", [])) == [time, 1] else ()


def _flatten(writer: Writer, node: NodeProto, _: GemmOptions) -> str:
    """Rule 8: all but the batch becomes one axis."""
    rows = writer.values[node.input[0]]
    whole = rows.maps * rows.time * rows.modal
    shape = writer.graph.shapes.get(node.output[0], ())
    if len(shape) != 2 or shape[1] != whole or attribute(node, "axis", 1) not in (1, -3):
        return f"{node.op_type} does not flatten all of a window"
    tail = (whole,)
    writer.replaces(node.output[0], Rows(writer.view(rows, tail), tail, *rows.size, flat=True))
    return ""


def _join(writer: Writer, node: NodeProto, _: GemmOptions) -> str:
    """Rule 10: flattened values of one plane, as the gates are, one behind another: their order is (t, m) already."""
    flat = [writer.values[name] for name in node.input if name in writer.values]
    if any(not rows.flat or rows.maps != 1 for rows in flat) or attribute(node, "axis") not in (1, -1):
        return f"{node.op_type} does not join flattened values of one plane"
    writer.keep(node, [_seen_flat(writer, name) for name in node.input])
    return ""


def _seen_flat(writer: Writer, value: str) -> str:
    rows = writer.values.get(value)
    return value if rows is None else writer.view(rows, (rows.time * rows.modal,))


def _classify(writer: Writer, node: NodeProto, _: GemmOptions) -> str:
    """Rule 9: a product of what was flattened with constant weights reads them in the order of the rows."""
    rows = writer.values.get(node.input[0])
    weight = writer.graph.constant(node.input[1])
    if rows is None or not rows.flat or any(name in writer.values for name in node.input[1:]):
        return f"{node.op_type} does not read a flattened map"
    if weight is None or weight.ndim != 2 or attribute(node, "transA", 0):
        return f"{node.op_type} has no constant weights [inputs, outputs]"
    turned = bool(attribute(node, "transB", 0))
    ordered = _in_row_order(weight.T if turned else weight, rows)
    name = writer.constant(f"{node.input[1]}.rows", ordered.T if turned else ordered)
    whole = (rows.maps * rows.time * rows.modal,)
    writer.keep(node, [writer.view(rows, whole), name, *node.input[2:]])
    return ""


def _in_row_order(weight: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    """Weights [c*t*m, outputs] in the order (t, m, c) of their inputs."""
    ordered: NDArray[np.float64] = weight.reshape(*rows.size, -1).transpose(1, 2, 0, 3)
    return ordered.reshape(len(weight), -1)
