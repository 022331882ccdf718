"""Form `gemm`: the whole network over rows = time x modal, each block one product.

    x -> Conv -> y -> SpatialAttention -> g -> BatchNormalization -> Relu -> ... -> ReduceMean -> Reshape -> Gemm
      =>  rows -> Pad -> Gather -> Reshape -> Gemm -> [k*y | mean(y)];  sigmoid(conv(mean(y))) * k*y + shift -> Relu
          -> ... -> MatMul [1/t] -> Reshape -> Gemm

Algebra: a map [b, c, t, m] is rows [b, t*m, c]; see `gemm_product` for the product and the mean as one more of its
columns, `gemm_gate` for the gate, `gemm_tail` for the rest. BN(y * a) = (k*y) * a + shift, so k goes into the product's
main columns and never into the mean's: the gate reads the map unscaled, so k may be 0.

The graph is walked in order. A node is written over rows, or stays as it is on inputs put back to [b, c, t, m].

Rule 1: a convolution along time, of one group and constant weights, that feeds a block or reads rows.
Rule 2: a block whose gated map exists as rows; any pooling. A gate that mixes modal too is always a Conv.
Rule 3: BatchNormalization behind a block that pools by the mean, or behind a plain convolution, goes into the product;
        a maximum must see the map unscaled, so there it is a multiplication and an addition.
Rules 4 to 10: `gemm_tail`.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from sattn_edge.attention import DOMAIN
from sattn_edge.graph import Graph
from sattn_edge.passes.base import NearMiss, PassReport
from sattn_edge.passes.block import Block, find_blocks, norm_behind, scale_and_shift
from sattn_edge.passes.gemm_gate import why_no_gate, write_gate
from sattn_edge.passes.gemm_options import ONNXRUNTIME, TENSORRT, TENSORRT_HALF, GemmOptions
from sattn_edge.passes.gemm_product import Linear, why_no_product, write_product
from sattn_edge.passes.gemm_rows import Writer
from sattn_edge.passes.gemm_tail import tail_rules, write_shift

__all__ = ["ONNXRUNTIME", "TENSORRT", "TENSORRT_HALF", "GemmForm", "GemmOptions"]


class GemmForm:
    """Writes a source graph over rows where that can be done; exact whatever the options."""

    name = "gemm"

    def __init__(self, options: GemmOptions = ONNXRUNTIME) -> None:
        self._options = options

    def __call__(self, model: ModelProto) -> PassReport:
        """Rewrites all that follows from the blocks; a graph none of whose blocks can be done is left alone."""
        walk = _Walk(Graph(model, shapes=True), self._options)
        for node in list(model.graph.node):
            walk.visit(node)
        if walk.done:
            walk.writer.commit(model)
        return PassReport(self.name, len(walk.done), tuple(walk.done), tuple(walk.misses))


class _Walk:
    """One pass over the nodes of a graph."""

    def __init__(self, graph: Graph, options: GemmOptions) -> None:
        blocks = find_blocks(graph)
        self._graph = graph
        self._options = options
        self._blocks = {id(block.call): block for block in blocks}
        self._by_conv = {id(block.conv): block for block in blocks if block.conv is not None}
        self._means: dict[str, str | None] = {}
        self._reasons: dict[int, str] = {}
        self._taken: set[int] = set()
        self._rules = tail_rules()
        self.writer = Writer(graph, blocks[0].dtype if blocks else np.dtype(np.float32))
        self.done: list[str] = []
        self.misses: list[NearMiss] = []

    def visit(self, node: NodeProto) -> None:
        """Writes a node over rows, or keeps it and says why."""
        if id(node) in self._taken:
            return
        reason = self._written(node)
        if reason is None:
            return
        self.writer.keep(node)
        if reason:
            self.misses.append(NearMiss(node.name or node.output[0], reason))

    def _written(self, node: NodeProto) -> str | None:
        """None where a node was written over rows, else why not; nothing to say of nodes in front of the blocks."""
        if node.domain == DOMAIN:
            return self._call(node)
        if id(node) in self._by_conv:
            return self._gated_conv(node, self._by_conv[id(node)])
        if node.op_type == "Conv":
            return self._plain_conv(node)
        if not any(name in self.writer.values for name in node.input):
            return ""
        rule = self._rules.get(node.op_type)
        reason = rule(self.writer, node, self._options) if rule else f"{node.op_type} is not written over rows"
        return reason or None

    def _gated_conv(self, conv: NodeProto, block: Block) -> str | None:
        reason = why_no_gate(block) or why_no_product(self._graph, conv)
        if reason:
            self._reasons[id(block.call)] = reason if why_no_gate(block) else f"its convolution '{conv.name}': {reason}"
            return ""
        linear = Linear.of(self._graph, conv)
        if block.pooling != "max":
            linear = linear.with_mean()
        if (norm := _norm_of(block)) is not None:
            linear = linear.scaled(scale_and_shift(self._graph, norm)[0])
        self._means[conv.output[0]] = self._product(conv, linear, conv.output[0])
        return None

    def _plain_conv(self, conv: NodeProto) -> str | None:
        reason = why_no_product(self._graph, conv)
        is_rows = conv.input[0] in self.writer.values
        if reason or not (is_rows or self._graph.shapes[conv.input[0]][1] == 1):
            return reason if is_rows else ""
        linear, output = Linear.of(self._graph, conv), conv.output[0]
        norm = norm_behind(self._graph, output)
        if norm is not None:
            linear, output = linear.scaled(*scale_and_shift(self._graph, norm)), norm.output[0]
            self._taken.add(id(norm))
        self._product(conv, linear, output)
        return None

    def _product(self, conv: NodeProto, linear: Linear, output: str) -> str | None:
        maps, time, modal = (size or 0 for size in self._graph.shapes[conv.input[0]][1:])
        source = self.writer.to_rows(conv.input[0], (maps, time, modal))
        product = write_product(self.writer, conv, source, linear, self._options)
        self.writer.replaces(output, product.main)
        return product.mean

    def _call(self, call: NodeProto) -> str | None:
        block = self._blocks.get(id(call))
        if block is None:
            return "its weights or the size of its map are not fixed"
        if id(call) in self._reasons:
            return self._reasons[id(call)]
        if call.input[0] not in self.writer.values:
            return block.why or "what it gates is not written over rows"
        if reason := why_no_gate(block):
            return reason
        main = self.writer.values[call.input[0]]
        gated = write_gate(self.writer, block, main, self._means.get(call.input[0]), self._options)
        norm = _norm_of(block)
        if norm is None:
            self.writer.replaces(call.output[0], gated)
        else:
            write_shift(self.writer, norm, gated, scale_and_shift(self._graph, norm)[1], self._options)
            self._taken.add(id(norm))
        self.done.append(block.name)
        return None


def _norm_of(block: Block) -> NodeProto | None:
    """The BatchNormalization whose scale goes into a block's product."""
    return block.batch_norm if block.pooling == "mean" and block.conv is not None else None
