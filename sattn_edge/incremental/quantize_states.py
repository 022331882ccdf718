"""States in the eight bits their product reads.

    Concat(state, new) -+-> QuantizeLinear -> Gather (taps) -> ...
                        `-> Gather (kept) -> next state
      =>
    Concat(state u8, QuantizeLinear(new)) -+-> Gather (taps) -> ...
                                           `-> Gather (kept) -> next state u8

Quantising is value by value, so it commutes with joining and gathering. What is kept and moved is a quarter as large,
and a value is quantised once instead of in every step that reads it. A column of zeros becomes one of zero points.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from sattn_edge.graph import Graph, replace_nodes
from sattn_edge.passes.base import PassReport


class QuantizeStates:
    """Moves QuantizeLinear in front of the Concat that joins a state with what is new."""

    name = "quantize-states"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: the Concat joins a graph input with a value; what reads it is one QuantizeLinear and one Gather that
        makes an output. Rule 2: the scale is one number.
        """
        values = [n.output[0] for n in model.graph.node if n.op_type == "Concat"]
        done = [value for value in values if _moved(Graph(model), value)]  # a change makes a graph out of date
        return PassReport(self.name, len(done), tuple(done))


def _moved(graph: Graph, joined: str) -> bool:
    concat = graph.producers[joined]
    states = {row.name: row for row in graph.proto.input}
    outputs = {row.name: row for row in graph.proto.output}
    readers = graph.consumers[joined]
    quantizers = [n for n in readers if n.op_type == "QuantizeLinear"]
    keepers = [n for n in readers if n.op_type == "Gather" and n.output[0] in outputs]
    if concat.input[0] not in states or len(quantizers) != 1 or len(keepers) != 1 or len(readers) != 2:
        return False
    quantizer = quantizers[0]
    scale, zero = (graph.constant(name) for name in quantizer.input[1:3])
    if scale is None or zero is None or scale.size != 1 or len(graph.consumers[concat.input[0]]) != 1:
        return False
    element = TensorProto.UINT8 if zero.dtype == np.uint8 else TensorProto.INT8
    for row in (states[concat.input[0]], outputs[keepers[0].output[0]]):
        row.type.tensor_type.elem_type = element
    new = graph.fresh(f"{concat.input[1]}.quantized")
    first = helper.make_node("QuantizeLinear", [concat.input[1], *quantizer.input[1:]], [new], name=quantizer.name)
    join = helper.make_node("Concat", [concat.input[0], new], [joined], name=concat.name, axis=0)
    for reader in graph.consumers[quantizer.output[0]]:
        reader.input[0] = joined
    replace_nodes(graph.model, [([quantizer], None), ([concat], join)])
    at = next(i for i, n in enumerate(graph.proto.node) if n.output[0] == joined)
    graph.proto.node.insert(at, first)
    return True
