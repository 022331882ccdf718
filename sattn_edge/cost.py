"""What a network costs: operators, parameters, multiply-adds for one window."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import onnx.inliner
from onnx import ModelProto

from sattn_edge.graph import Graph, attribute


@dataclass(frozen=True)
class Cost:
    """Operators by kind (functions opened), trainable parameters, multiply-adds of one window (batch 1)."""

    operators: dict[str, int]
    parameters: int
    multiply_adds: int


def inlined(model: ModelProto) -> ModelProto:
    """The model with every model-local function opened, without the opset imports that leaves dangling."""
    out: ModelProto = onnx.inliner.inline_local_functions(model) if model.functions else model
    used = {node.domain for node in out.graph.node} | {""}
    kept = [o for o in out.opset_import if o.domain in used or o.domain == "ai.onnx"]
    del out.opset_import[:]
    out.opset_import.extend(kept)
    return out


def cost(model: ModelProto) -> Cost:
    """Counts a model. Parameters are the elements of float initializers."""
    bare = ModelProto()
    bare.CopyFrom(model)
    bare.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    bare = inlined(bare)
    graph = Graph(bare, shapes=True)
    return Cost(
        operators=dict(Counter(node.op_type for node in bare.graph.node).most_common()),
        parameters=sum(math.prod(t.dims) for t in bare.graph.initializer if t.data_type == 1),
        multiply_adds=sum(node_multiply_adds(graph, node) for node in bare.graph.node),
    )


def node_multiply_adds(graph: Graph, node: onnx.NodeProto) -> int:
    """Of a convolution or a matrix product: outputs times the length of each sum; 0 for pointwise work."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    out = math.prod(d or 1 for d in graph.shapes.get(node.output[0], ()))
    weight = graph.shapes.get(node.input[1], ())
    if node.op_type == "Conv":
        return out * math.prod(d or 1 for d in weight[1:])
    if node.op_type == "Gemm":
        return out * (weight[1 if attribute(node, "transB", 0) else 0] or 1)
    return out * (graph.shapes.get(node.input[0], (1,))[-1] or 1)
