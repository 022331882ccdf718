"""What exporters leave behind: stack traces with source paths, Constant and Identity nodes, unused values.

Constant -> v                  =>  v is an initializer
x -> Identity | Dropout -> y   =>  readers of y read x      (Dropout in inference does nothing)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from sattn_edge.graph import Graph, replace_nodes
from sattn_edge.passes import PassReport


class StripTraces:
    """Clears doc strings, node and value metadata, and value infos: they carry absolute paths of a workstation."""

    name = "strip-traces"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: only what computes stays. Rule 2: ONNX's own domain is spelled one way, as nothing."""
        graph = model.graph
        rows = [*graph.node, *graph.input, *graph.output, *graph.initializer]
        attributes = [a for node in graph.node for a in node.attribute]
        tensors = [a.t for a in attributes if a.HasField("t")]
        changed = sum(bool(row.doc_string or row.metadata_props) for row in rows)
        for row in [model, graph, *rows, *tensors]:
            row.ClearField("doc_string")
            row.ClearField("metadata_props")
        for attribute in attributes:
            attribute.ClearField("doc_string")
        for node in graph.node:
            if node.domain == "ai.onnx":
                node.ClearField("domain")
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
            value = _value(node) if node.op_type == "Constant" else None
            if value is not None:
                model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            elif not _passes_on(graph, node):
                continue
            else:
                graph.rename(node.output[0], node.input[0])
            dead.append(node)
        replace_nodes(model, [([n], None) for n in dead])
        return PassReport(self.name, len(dead))


# The forms a Constant's value comes in besides a tensor.
_FORMS: dict[str, Callable[[Any], NDArray[Any]]] = {
    "value_int": lambda value: np.asarray(value, np.int64),
    "value_ints": lambda value: np.asarray(value, np.int64),
    "value_float": lambda value: np.asarray(value, np.float32),
    "value_floats": lambda value: np.asarray(value, np.float32),
}


def _value(node: NodeProto) -> NDArray[Any] | None:
    """What a Constant holds, None for texts and the like."""
    row = node.attribute[0]
    if row.name == "value":
        return numpy_helper.to_array(row.t)
    form = _FORMS.get(row.name)
    return None if form is None else form(helper.get_attribute_value(row))


def _passes_on(graph: Graph, node: NodeProto) -> bool:
    """Identity or Dropout, whose other results nobody reads, inside the graph."""
    if node.op_type not in ("Identity", "Dropout") or node.output[0] in graph.outputs:
        return False
    return not any(graph.consumers.get(name) or name in graph.outputs for name in node.output[1:])
