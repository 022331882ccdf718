"""The names a model file's graph shows to the world: input `window`, output `logits`, named nodes."""

from __future__ import annotations

from onnx import ModelProto

from sattn_edge.graph import Graph
from sattn_edge.passes import PassReport

INPUT, OUTPUT = "window", "logits"


class NameInterface:
    """Renames the one input and the one output, and gives nameless nodes a name."""

    name = "name-interface"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: other values that already have these names make room."""
        graph = model.graph
        before = (graph.input[0].name, graph.output[0].name)
        for row, new in ((graph.input[0], INPUT), (graph.output[0], OUTPUT)):
            if row.name != new:
                _rename_value(model, new, Graph(model).fresh(f"{new}_inner"))
                _rename_value(model, str(row.name), new)
        nameless = [node for node in graph.node if not node.name]
        for i, node in enumerate(graph.node):
            node.name = node.name or f"{node.op_type.lower()}_{i}"
        return PassReport(self.name, int(before != (INPUT, OUTPUT)) + len(nameless))


def _rename_value(model: ModelProto, old: str, new: str) -> None:
    """Renames a value wherever it stands."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    for row in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        if row.name == old:
            row.name = new
