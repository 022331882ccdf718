"""A pooled axis that is dropped and put back stays where it is.

x -> ReduceMean|ReduceMax <axes, keepdims 0> -> Unsqueeze <same axes> -> y
=>  x -> ReduceMean|ReduceMax <axes, keepdims 1> -> y

So is the channel pool of CBAM usually written: `torch.max(x, 1)[0].unsqueeze(1)`.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from sattn_edge.graph import Graph, attribute, replace_nodes, set_attribute
from sattn_edge.passes import PassReport

_REDUCTIONS = ("ReduceMean", "ReduceMax")


class KeepPooledAxis:
    """Lets reductions keep the axes that are put back behind them."""

    name = "keep-pooled-axis"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: the same axes. Rule 2: nobody else reads the dropped form."""
        graph = Graph(model, shapes=True)
        pairs = [
            (reduce, reader)
            for reduce in model.graph.node
            if reduce.op_type in _REDUCTIONS and attribute(reduce, "keepdims", 1) == 0
            if (reader := graph.only_reader(reduce.output[0])) is not None and _puts_back(graph, reduce, reader)
        ]
        names = tuple(reduce.name for reduce, _ in pairs)
        for reduce, unsqueeze in pairs:
            set_attribute(reduce, "keepdims", 1)
            reduce.output[0] = unsqueeze.output[0]
        replace_nodes(model, [([unsqueeze], None) for _, unsqueeze in pairs])
        return PassReport(self.name, len(pairs), names)


def _puts_back(graph: Graph, reduce: NodeProto, reader: NodeProto) -> bool:
    if reader.op_type != "Unsqueeze" or len(reader.input) < 2 or reader.input[0] != reduce.output[0]:
        return False
    rank = len(graph.shapes.get(reduce.input[0], ()))
    dropped, back = attribute(reduce, "axes"), graph.constant(reader.input[1])
    if not rank or dropped is None or back is None:
        return False
    return sorted(a % rank for a in dropped) == sorted(int(a) % rank for a in np.reshape(back, -1))
