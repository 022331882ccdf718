"""To opset 17 and IR 8: what TensorRT 8.6, 10, 11 and every ONNX Runtime in the field read alike.

    ReduceMean(x, axes)   =>  ReduceMean<axes>(x)        (TensorRT 8.x averages over everything otherwise)
    opset < 17            =>  onnx's version converter
    opset > 17            =>  relabelled; attributes that opset 17 lacks go where they hold their default
    reductions without constant axes, and whatever else opset 17 can't say, are refused

Relabelling is safe because onnx's checker then judges every node by its definition of opset 17, and because the
result is compared with the source in numbers before a file is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, defs, helper, version_converter

from sattn_edge.errors import CheckpointError
from sattn_edge.graph import Graph, attribute, opset_of, set_attribute
from sattn_edge.passes import PassReport

OPSET = 17
IR_VERSION = 8
# Attributes that newer definitions added without a default, with the values at which opset 17 means the same.
_HARMLESS: dict[tuple[str, str], Callable[[Any], bool]] = {
    ("AveragePool", "dilations"): lambda value: all(d == 1 for d in value),
    ("LpPool", "dilations"): lambda value: all(d == 1 for d in value),
    ("Split", "num_outputs"): lambda _value: True,
}
_WITH_AXES_INPUT_AT_17 = ("ReduceSum",)


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
        axes = sum(self._axes_to_attribute(Graph(model), node) for node in model.graph.node)
        if found > OPSET:
            for node in model.graph.node:
                self._lower_node(node, found)
        del model.opset_import[:]
        model.opset_import.add(domain="", version=OPSET)
        model.ir_version = IR_VERSION
        self._check(model, found)
        details = (f"opset {found} -> {OPSET}", f"{axes} reductions with axes as an attribute")
        return PassReport(self.name, int(found != OPSET) + axes, details)

    def _raise_version(self, model: ModelProto, found: int) -> None:
        try:
            model.CopyFrom(version_converter.convert_version(model, OPSET))
        except (RuntimeError, version_converter.ConvertError) as error:
            raise CheckpointError(
                self._subject,
                f"opset {found} can't be raised to {OPSET} ({error})",
                todo="export it at opset 17",
            ) from error

    def _lower_node(self, node: NodeProto, found: int) -> None:
        try:
            schema = defs.get_schema(node.op_type, OPSET)
        except onnx.defs.SchemaError as error:
            raise CheckpointError(
                self._subject, f"operator {node.op_type} of node '{node.name}' is newer than opset {OPSET}", todo=_HOW
            ) from error
        for row in list(node.attribute):
            if row.name in schema.attributes:
                continue
            if not _harmless(node, row, found):
                raise CheckpointError(
                    self._subject,
                    f"attribute '{row.name}' of node '{node.name}' ({node.op_type}) is newer than opset {OPSET}",
                    todo=_HOW,
                )
            set_attribute(node, row.name, None)

    def _axes_to_attribute(self, graph: Graph, node: NodeProto) -> bool:
        """Moves a reduction's constant axes from its second input to an attribute. True where it did."""
        if not node.op_type.startswith("Reduce") or node.op_type in _WITH_AXES_INPUT_AT_17 or len(node.input) < 2:
            return False
        axes = graph.constant(node.input[1]) if node.input[1] else np.zeros(0, np.int64)
        if axes is None or (not axes.size and attribute(node, "noop_with_empty_axes", 0)):
            what = "computed" if axes is None else "empty"
            raise CheckpointError(
                self._subject, f"the axes of node '{node.name}' ({node.op_type}) are {what}", "constant axes", _HOW
            )
        del node.input[1:]
        set_attribute(node, "axes", [int(a) for a in axes.reshape(-1)] or None)
        set_attribute(node, "noop_with_empty_axes", None)
        return True

    def _check(self, model: ModelProto, found: int) -> None:
        """What other inputs or types newer definitions have, onnx's checker knows."""
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                self._subject, f"its graph of opset {found} has no form at opset {OPSET} ({reason})", todo=_HOW
            ) from error


_HOW = f"export it at opset {OPSET} or 18"


def _harmless(node: NodeProto, row: AttributeProto, found: int) -> bool:
    """Whether an attribute that opset 17 lacks holds what opset 17 does without it."""
    value = helper.get_attribute_value(row)
    known = _HARMLESS.get((node.op_type, row.name))
    if known is not None:
        return known(value)
    newer = defs.get_schema(node.op_type, found).attributes.get(row.name)
    if newer is None or not newer.default_value.name:
        return False
    return bool(helper.get_attribute_value(newer.default_value) == value)
