"""An Expand that a Mul would do by itself.

gate [b, 1, t, m] -> Expand -> [b, c, t, m] -> Mul with x [b, c, t, m]   =>   gate -> Mul with x
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from sattn_edge.graph import Graph, replace_nodes
from sattn_edge.passes import PassReport


class DropExpand:
    """Takes out Expand nodes in front of a Mul whose other factor has the full shape already."""

    name = "drop-expand"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: the shapes are known, batch aside, and equal. Rule 2: nobody else reads the expanded value."""
        graph = Graph(model, shapes=True)
        dead = [node for node in model.graph.node if node.op_type == "Expand" and _needless(graph, node)]
        names = tuple(node.name for node in dead)
        for node in dead:
            graph.rename(node.output[0], node.input[0])
        replace_nodes(model, [([node], None) for node in dead])
        return PassReport(self.name, len(dead), names)


def _needless(graph: Graph, node: NodeProto) -> bool:
    multiply = graph.only_reader(node.output[0])
    if multiply is None or multiply.op_type != "Mul":
        return False
    others = [name for name in multiply.input if name != node.output[0]]
    source, shape = graph.shapes.get(node.input[0], ()), graph.shapes.get(node.output[0])
    if len(others) != 1 or not shape or None in shape[1:] or len(source) != len(shape):
        return False
    return graph.shapes.get(others[0]) == shape
