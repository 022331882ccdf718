"""The gates as an output of a source graph.

    y -> SpatialAttention -> g               =>   y -> SpatialAttentionWithGate -> g, gate [b, 1, t, m]
    (once for each block)                         gate -> Reshape [b, t*m] -+
                                                  gate -> Reshape [b, t*m] -+-> Concat -> attention [b, values]

What the network computes is not touched: the twin of the function has the same body and gives its gate away. How the
output is laid out is said in `sattn_edge.attention_output`.
"""

from __future__ import annotations

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper

from sattn_edge.attention import DOMAIN, FUNCTION_NAMES, WITH_GATE, attention_function
from sattn_edge.attention_output import OUTPUT, AttentionBlock, AttentionLayout
from sattn_edge.graph import Graph
from sattn_edge.passes.base import NearMiss, PassReport
from sattn_edge.receptive_field import positions, spread_evenly


class ExposeGates:
    """Adds the output `attention`, the gates of all blocks one behind another. Without blocks there is none."""

    name = "expose-gates"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: a call of a block whose map has a fixed size. Rule 2: a graph of one output, the logits."""
        graph = Graph(model, shapes=True)
        calls = _calls(graph)
        fixed = [call for call in calls if _size(graph, call) is not None]
        misses = [NearMiss(_label(c), "the size of its map is not fixed") for c in calls if _size(graph, c) is None]
        if len(graph.proto.output) != 1:
            return PassReport(self.name, 0, near_misses=(NearMiss(OUTPUT, "the graph has more than one output"),))
        if not fixed:
            return PassReport(self.name, 0, near_misses=tuple(misses))
        _make_room(graph)
        values = [_flat(graph, call) for call in fixed]
        if len(values) > 1:
            graph.proto.node.append(helper.make_node("Concat", values, [OUTPUT], name=OUTPUT, axis=1))
        else:
            graph.producers[values[0]].output[0] = OUTPUT
        _replace_functions(model)  # before shapes are inferred again, which follow the functions
        batch = graph.proto.input[0].type.tensor_type.shape.dim[0].dim_param or "batch"
        element = graph.proto.output[0].type.tensor_type.elem_type or TensorProto.FLOAT
        length = layout_of(model).values
        model.graph.output.append(helper.make_tensor_value_info(OUTPUT, element, [batch, length]))
        return PassReport(self.name, len(fixed), tuple(_label(call) for call in fixed), tuple(misses))


def layout_of(model: ModelProto) -> AttentionLayout:
    """How the gates lie in the output of a graph this pass has been over, and where in time."""
    graph = Graph(model, shapes=True)
    where = positions(graph)
    series = graph.shapes[graph.proto.input[0].name][2] or 0
    blocks = []
    for call in _calls(graph):
        size = _size(graph, call) if len(call.output) > 1 else None
        if size is not None:
            at = where.get(call.input[0]) or spread_evenly(size[0], series)
            blocks.append(AttentionBlock(_label(call), *size, first_sample=at.first, samples_per_step=at.step))
    return AttentionLayout(tuple(blocks))


def _calls(graph: Graph) -> list[NodeProto]:
    return [node for node in graph.proto.node if node.domain == DOMAIN]


def _label(call: NodeProto) -> str:
    return str(call.name or call.output[0])


def _size(graph: Graph, call: NodeProto) -> tuple[int, int] | None:
    """Time steps and modal of what a call gates, None where they are not numbers."""
    shape = graph.shapes.get(call.input[0], ())
    if len(shape) != 4 or shape[2] is None or shape[3] is None:
        return None
    return shape[2], shape[3]


def _flat(graph: Graph, call: NodeProto) -> str:
    """Lets a call give its gate away and flattens it; returns the name of [b, t*m]."""
    steps, modal = _size(graph, call) or (0, 0)
    gate = graph.fresh(f"{_label(call)}.gate")
    call.op_type += WITH_GATE
    call.output.append(gate)
    graph.producers[gate] = call
    flat = graph.fresh(f"{gate}.flat")
    shape = graph.add_constant(f"{flat}.shape", np.asarray([-1, steps * modal], np.int64))
    # Behind all others, so that every node that reads something stands behind what makes it.
    graph.proto.node.append(helper.make_node("Reshape", [gate, shape], [flat], name=flat))
    graph.producers[flat] = graph.proto.node[-1]
    return flat


def _make_room(graph: Graph) -> None:
    """A value inside the network that is called like the output gets another name."""
    if OUTPUT not in {*graph.producers, *graph.initializers}:
        return
    new = graph.fresh(f"{OUTPUT}_inner")
    graph.rename(OUTPUT, new)
    for node in graph.proto.node:
        node.output[:] = [new if name == OUTPUT else name for name in node.output]
    for tensor in graph.proto.initializer:
        tensor.name = new if tensor.name == OUTPUT else tensor.name


def _replace_functions(model: ModelProto) -> None:
    """The functions that calls are of now."""
    called = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    ours = [attention_function(pooling, gate=gate) for pooling in FUNCTION_NAMES for gate in (False, True)]
    kept = [FunctionProto.FromString(f.SerializeToString()) for f in model.functions if f.domain != DOMAIN]
    del model.functions[:]
    model.functions.extend([*kept, *(f for f in ours if f.name in called)])
