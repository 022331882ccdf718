"""Model-local functions opened: what is left of the blocks' calls, and any other function of the file.

    y -> sattn_edge::SpatialAttention -> g  =>  y -> ReduceMean -> Conv -> Sigmoid -> gate;    g = y * gate

Not every runtime opens functions by itself (OpenVINO does not), and the passes that follow read plain nodes.
"""

from __future__ import annotations

from onnx import ModelProto

from sattn_edge.cost import inlined
from sattn_edge.passes.base import PassReport


class InlineFunctions:
    """Opens every call of a function; the graph then holds standard operators only."""

    name = "inline-functions"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: a node whose domain and operator are a function of the file is a call."""
        functions = {(f.domain, f.name) for f in model.functions}
        calls = [n for n in model.graph.node if (n.domain, n.op_type) in functions]
        names = tuple(n.name or n.output[0] for n in calls)
        opened = inlined(model)
        if opened is not model:
            model.CopyFrom(opened)
        return PassReport(self.name, len(names), names)
