"""What exporters leave behind: stack traces with source paths, Constant and Identity nodes, unused values.

Constant -> v                  =>  v is an initializer
x -> Identity | Dropout -> y   =>  readers of y read x      (Dropout in inference does nothing)
"""

from __future__ import annotations

from onnx import ModelProto, numpy_helper

from sattn_edge.graph import Graph, replace_nodes
from sattn_edge.passes import PassReport


class StripTraces:
    """Clears doc strings, node and value metadata, and value infos: they carry absolute paths of a workstation."""

    name = "strip-traces"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: only what computes stays."""
        graph = model.graph
        rows = [*graph.node, *graph.input, *graph.output, *graph.initializer]
        changed = sum(bool(row.doc_string or row.metadata_props) for row in rows)
        for row in [model, graph, *rows]:
            row.ClearField("doc_string")
            row.ClearField("metadata_props")
        graph.ClearField("value_info")
        graph.ClearField("quantization_annotation")
        graph.name = "sattn_edge"
        for field in ("producer_name", "producer_version", "domain", "model_version"):
            model.ClearField(field)
        return PassReport(self.name, changed)


class FoldTrivial:
    """Turns Constant nodes into initializers and takes out nodes that pass their input on."""

    name = "fold-trivial"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rules 1 and 2 of the module's picture."""
        graph = Graph(model)
        dead = []
        for node in model.graph.node:
            value = graph.constant(node.output[0]) if node.op_type == "Constant" else None
            if value is not None:
                model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            elif not (node.op_type in ("Identity", "Dropout") and _passes_on(graph, node.output[0])):
                continue
            else:
                graph.rename(node.output[0], node.input[0])
            dead.append(node)
        replace_nodes(model, [([n], None) for n in dead])
        return PassReport(self.name, len(dead))


def _passes_on(graph: Graph, output: str) -> bool:
    return output not in graph.outputs


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
