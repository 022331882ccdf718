"""To an opset above 17, for targets that can only say what they need there: a float16 scale needs opset 19.

    Reduce...<axes>(x)       =>  Reduce...(x, axes)              (opset 18; the axes are an initializer)
    Split(x) -> n outputs    =>  Split<num_outputs n>(x)         (opset 18)
    everything else          =>  relabelled

ALGEBRA: none. The same operators with the same numbers, written as the newer definitions ask. Written by hand, since
onnx's version converter makes axes a Constant node (the TensorRT parser is sure of an initializer only) and leaves the
IR version behind. Every other operator of `sattn_edge.gate_operators` has between 17 and 22 gained types and optional
attributes only; onnx's checker then judges every node by its newer definition.

Only for targets that say so: TensorRT 8.x takes a reduction at opset 18, ignores its axes and averages over everything,
the batch included, without a word. TensorRT 10 and later and TensorRT-RTX read them.

Rule 1: the model gets exactly the version asked for. One that is already there is left alone; none is lowered.
Rule 2: the IR version becomes the least that the opset needs, and never less than it was.
Rule 3: `for_scales` leaves a graph without QuantizeLinear and DequantizeLinear as it is.
Rule 4: functions must be inlined before: their bodies are in an opset of their own.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from sattn_edge.graph import Graph, attribute, opset_of, set_attribute
from sattn_edge.passes.base import PassReport

OLDEST, NEWEST = 17, 22  # opset 23 needs IR version 11, which ONNX Runtime 1.23 refuses
_AXES_MOVED_AT_18 = frozenset(
    {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"}
    | {"ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"}
)


class RaiseOpset:
    """Writes a graph of opset 17 or later in opset `version`; `for_scales`: only one that quantises anything."""

    name = "raise-opset"

    def __init__(self, version: int, *, for_scales: bool = False) -> None:
        if not OLDEST <= version <= NEWEST:
            raise ValueError(f"opset {version}: allowed are {OLDEST} to {NEWEST}")
        self._version = version
        self._for_scales = for_scales

    def __call__(self, model: ModelProto) -> PassReport:
        """Raises ValueError for a model above the version, below opset 17, or with functions: bugs of the caller."""
        found = opset_of(model)
        if found == self._version or (self._for_scales and not _quantizes(model)):
            return PassReport(self.name, 0)
        if model.functions or not OLDEST <= found < self._version:
            what = "functions" if model.functions else f"opset {found}"
            raise ValueError(f"a model with {what} can't be raised to opset {self._version}")
        moved = 0
        if found < 18:
            graph = Graph(model)
            moved = sum(_axes_to_input(graph, node) for node in model.graph.node)
            for node in model.graph.node:
                _count_outputs(node)
        for entry in model.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = self._version
        model.ir_version = max(
            model.ir_version, helper.find_min_ir_version_for([helper.make_opsetid("", self._version)])
        )
        onnx.checker.check_model(model)
        details = (f"opset {found} -> {self._version}", f"{moved} reductions with axes as an input")
        return PassReport(self.name, 1, details)


def _quantizes(model: ModelProto) -> bool:
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)


def _axes_to_input(graph: Graph, node: NodeProto) -> bool:
    """Moves a reduction's axes from the attribute to its second input. True where it did."""
    if node.op_type not in _AXES_MOVED_AT_18:
        return False
    axes = attribute(node, "axes")
    if axes is None:
        return False  # over everything, in both
    set_attribute(node, "axes", None)
    node.input.append(graph.add_constant(f"{node.output[0]}.axes", np.asarray(axes, dtype=np.int64)))
    return True


def _count_outputs(node: NodeProto) -> None:
    """A Split into equal parts says at opset 18 into how many."""
    if node.op_type == "Split" and not (len(node.input) > 1 and node.input[1]):
        set_attribute(node, "num_outputs", len(node.output))
