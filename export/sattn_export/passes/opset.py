"""To opset 17 and IR 8: what TensorRT 8.6, 10, 11 and every ONNX Runtime in the field read alike.

    ReduceMean(x, axes)   =>  ReduceMean<axes>(x)        (TensorRT 8.x averages over everything otherwise)
    opset < 17            =>  onnx's version converter
    opset > 17            =>  relabelled; attributes that opset 17 lacks go where they hold their default

Relabelling is safe because onnx's checker then judges every node by its definition of opset 17, and because the
result is compared with the source in numbers before a file is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, defs, version_converter

from sattn_edge.errors import CheckpointError
from sattn_edge.graph import Graph, attribute, opset_of, set_attribute
from sattn_edge.passes import PassReport

OPSET = 17
IR_VERSION = 8
_FIRST_WITH_AXES_INPUT = 13
# Attributes newer definitions added, with the value at which they mean what opset 17 means without them.
_NEWER: dict[tuple[str, str], Callable[[Any], bool]] = {
    ("AveragePool", "dilations"): lambda value: all(d == 1 for d in value),
    ("Cast", "saturate"): lambda value: value == 1,
    ("Cast", "round_mode"): lambda _value: True,
    ("Gelu", "approximate"): lambda _value: False,
    ("Reshape", "allowzero"): lambda value: value == 0,
    ("Split", "num_outputs"): lambda _value: True,
}


class ToOpset17:
    """Writes the graph in opset 17, IR 8."""

    name = "opset-17"

    def __init__(self, subject: str) -> None:
        self._subject = subject

    def __call__(self, model: ModelProto) -> PassReport:
        """Raises CheckpointError naming the node that opset 17 has no form for."""
        found = opset_of(model)
        if found < OPSET:
            self._raise_version(model, found)
        axes = sum(_axes_to_attribute(Graph(model), node) for node in model.graph.node)
        if found > OPSET:
            for node in model.graph.node:
                self._lower_node(node)
        del model.opset_import[:]
        model.opset_import.add(domain="", version=OPSET)
        model.ir_version = IR_VERSION
        details = (f"opset {found} -> {OPSET}", f"{axes} reductions with axes as an attribute")
        return PassReport(self.name, int(found != OPSET) + axes, details)

    def _raise_version(self, model: ModelProto, found: int) -> None:
        try:
            model.CopyFrom(version_converter.convert_version(model, OPSET))
        except RuntimeError as error:
            raise CheckpointError(
                self._subject,
                f"opset {found} can't be raised to {OPSET} ({error})",
                todo="export it at opset 17",
            ) from error

    def _lower_node(self, node: NodeProto) -> None:
        try:
            schema = defs.get_schema(node.op_type, OPSET)
        except onnx.defs.SchemaError as error:
            raise CheckpointError(
                self._subject,
                f"operator {node.op_type} of node '{node.name}' is newer than opset {OPSET}",
                todo=f"export it at opset {OPSET} or 18",
            ) from error
        for row in list(node.attribute):
            if row.name in schema.attributes:
                continue
            harmless = _NEWER.get((node.op_type, row.name))
            if harmless is None or not harmless(attribute(node, row.name)):
                raise CheckpointError(
                    self._subject,
                    f"attribute '{row.name}' of node '{node.name}' ({node.op_type}) is newer than opset {OPSET}",
                    todo=f"export it at opset {OPSET} or 18",
                )
            set_attribute(node, row.name, None)


def _axes_to_attribute(graph: Graph, node: NodeProto) -> bool:
    """Moves a reduction's constant axes from its second input to an attribute. True where it did."""
    if not node.op_type.startswith("Reduce") or node.op_type == "ReduceSum" or len(node.input) < 2:
        return False
    axes = graph.constant(node.input[1]) if node.input[1] else None
    if axes is not None:
        del node.input[1:]
        set_attribute(node, "axes", [int(a) for a in axes.reshape(-1)])
        set_attribute(node, "noop_with_empty_axes", None)
    return axes is not None
