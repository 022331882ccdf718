"""Takes out what no output needs.

a -> f -> b (read by nobody)  =>  nothing
"""

from __future__ import annotations

from onnx import ModelProto

from sattn_edge.graph import Graph, replace_nodes
from sattn_edge.passes.base import PassReport


class Prune:
    """Takes out nodes nobody reads and initializers nobody reads, and sorts initializers by name."""

    name = "prune"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: backwards from the outputs, what is not reached goes."""
        graph = Graph(model)
        alive, front = set(graph.outputs), list(graph.outputs)
        while front:
            node = graph.producers.get(front.pop())
            fresh = [i for i in node.input if i and i not in alive] if node is not None else []
            alive.update(fresh)
            front += fresh
        dead = [n for n in model.graph.node if not alive.intersection(n.output)]
        replace_nodes(model, [([n], None) for n in dead])
        kept = sorted((t for t in model.graph.initializer if t.name in alive), key=lambda t: t.name)
        gone = len(model.graph.initializer) - len(kept)
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        return PassReport(self.name, len(dead) + gone)
