"""Where on the window's time axis the steps of a feature map lie.

    a map of n steps: step i is centred on sample  first + i * step  of the window

A convolution or pool with kernel k, dilation d, stride s and p steps of padding in front reads, for its step i, the
steps i * s - p to i * s - p + (k - 1) * d of its input, whose middle is i * s - p + (k - 1) * d / 2. So

    first' = first + ((k - 1) * d / 2 - p) * step        step' = step * s

(the receptive field arithmetic of Araujo, Norris and Sim, Distill 2019). What works value by value or over feature
maps leaves both as they are. What moves time about in another way (Transpose, Slice, Pad, ...) is not followed.
"""

from __future__ import annotations

from typing import NamedTuple

from onnx import NodeProto

from sattn_edge.graph import Graph, attribute

TIME = 2
_WINDOWED = frozenset({"Conv", "MaxPool", "AveragePool"})
_MOVES_TIME = frozenset(
    {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Pad", "Split", "Tile", "Expand"}
    | {"ConvTranspose", "Resize", "DepthToSpace", "SpaceToDepth", "MatMul", "Gemm", "CumSum"}
)


class Position(NamedTuple):
    """Step 0 is centred on sample `first` of the window, the next one `step` samples later."""

    first: float
    step: float


def positions(graph: Graph) -> dict[str, Position]:
    """The position of every value [b, c, t, m] that could be followed from the window. `graph` must know shapes."""
    found = {graph.proto.input[0].name: Position(0.0, 1.0)}
    for node in graph.proto.node:
        read = next((found[name] for name in node.input if name in found), None)
        if read is None or len(graph.shapes.get(node.output[0], ())) != 4:
            continue
        made = _windowed(graph, node, read) if node.op_type in _WINDOWED else _same(graph, node, read)
        if made is not None:
            found[node.output[0]] = made
    return found


def spread_evenly(steps: int, series: int) -> Position:
    """Steps that share the window out among them, where nothing better is known."""
    step = series / steps
    return Position((step - 1) / 2, step)


def _windowed(graph: Graph, node: NodeProto, read: Position) -> Position | None:
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"", b"VALID"):
        return None
    shape = graph.shapes.get(node.input[1], ())[TIME:] if node.op_type == "Conv" else attribute(node, "kernel_shape")
    if not shape or shape[0] is None:
        return None
    dilation, stride = attribute(node, "dilations", [1])[0], attribute(node, "strides", [1])[0]
    before = attribute(node, "pads", [0])[0]
    return Position(read.first + ((shape[0] - 1) * dilation / 2 - before) * read.step, read.step * stride)


def _same(graph: Graph, node: NodeProto, read: Position) -> Position | None:
    """Unchanged where the length is, by an operator that does not move time."""
    if node.op_type in _MOVES_TIME:
        return None
    lengths = {shape[TIME] for name in node.input if len(shape := graph.shapes.get(name, ())) == 4}
    return read if graph.shapes[node.output[0]][TIME] in lengths else None
