"""What the forms of the attention block share: nodes that take the place of a block's call.

A form looks at each block, says why it can't write it or writes it, and `rewrite_blocks` does the rest: calls a
form can't do stay calls, to be opened as they are by `InlineFunctions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from sattn_edge.graph import Graph
from sattn_edge.passes.base import NearMiss, PassReport
from sattn_edge.passes.block import Block, find_blocks


class Place:
    """A block in its graph, and the nodes written in its place; each is named as its value, `<block>.<what>`."""

    def __init__(self, graph: Graph, block: Block) -> None:
        self.graph = graph
        self.block = block
        self.nodes: list[NodeProto] = []

    def add(self, op_type: str, inputs: Sequence[str], what: str, **attributes: Any) -> str:
        """Writes a node with one output and returns that value's name."""
        value = self.graph.fresh(f"{self.block.name}.{what}")
        node = helper.make_node(op_type, list(inputs), [value], name=value, **attributes)
        self.graph.producers[value] = node
        self.nodes.append(node)
        return value

    def constant(self, what: str, value: float | NDArray[np.float64]) -> str:
        """A number or an array as an initializer in the block's own float type."""
        return self.graph.add_constant(f"{self.block.name}.{what}", np.asarray(value, self.block.dtype))

    def integers(self, what: str, values: Sequence[int]) -> str:
        """Integers [n] as an initializer."""
        return self.graph.add_constant(f"{self.block.name}.{what}", np.asarray(values, np.int64))

    def conv(
        self,
        value: str,
        weight: NDArray[np.float64],
        bias: NDArray[np.float64],
        pads: Sequence[int],
        what: str = "conv",
        *,
        strides: Sequence[int] = (1, 1),
        dilations: Sequence[int] = (1, 1),
    ) -> str:
        """A convolution of a value with weight [o, i, kt, km] and bias [o]."""
        names = [value, self.constant(f"{what}.weight", weight), self.constant(f"{what}.bias", bias)]
        return self.add(
            "Conv",
            names,
            what,
            kernel_shape=list(weight.shape[2:]),
            strides=list(strides),
            dilations=list(dilations),
            pads=list(pads),
            group=1,
        )

    def multiply(self, logits: str) -> None:
        """The block's end: its map times the sigmoid of the gate's logits, under the name the call's result had."""
        call = self.block.call
        if self.block.gate:  # an output of the graph is made of it, so it keeps its name
            gate = self.block.gate
            self.nodes.append(helper.make_node("Sigmoid", [logits], [gate], name=f"{self.block.name}.sigmoid"))
        else:
            gate = self.add("Sigmoid", [logits], "sigmoid")
        node = helper.make_node("Mul", [call.input[0], gate], [call.output[0]], name=f"{self.block.name}.multiply")
        self.nodes.append(node)


class Form(Protocol):
    """A way to write the attention block."""

    @property
    def name(self) -> str:
        """The name of the form, of its pass and of its target."""

    def why_not(self, place: Place) -> str:
        """Why a block can't be written this way, nothing where it can."""

    def write(self, place: Place) -> None:
        """Adds the nodes that lead from what the block reads to its result."""


def rewrite_blocks(model: ModelProto, form: Form) -> PassReport:
    """Writes every block of a source graph that a form can do, in the place of its call."""
    graph = Graph(model, shapes=True)
    misses: list[NearMiss] = []
    written: dict[int, list[NodeProto]] = {}
    names: list[str] = []
    for block in find_blocks(graph):
        place = Place(graph, block)
        if reason := form.why_not(place):
            misses.append(NearMiss(block.name, reason))
            continue
        form.write(place)
        written[id(block.call)] = place.nodes
        names.append(block.name)
    if written:
        _replace(model, written)
    return PassReport(form.name, len(names), tuple(names), tuple(misses))


def _replace(model: ModelProto, written: Mapping[int, Sequence[NodeProto]]) -> None:
    nodes = [new for old in model.graph.node for new in written.get(id(old), (old,))]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def needs_mean(block: Block) -> str:
    """Why not, where a form holds for the mean over maps only."""
    return "" if block.pooling == "mean" else f"it pools by {block.pooling}; this form needs the mean alone"


def needs_time_only(block: Block) -> str:
    """Why not, where a form's gate runs along time and keeps its length."""
    top, left, bottom, right = block.pads
    kernel_t, kernel_m = block.weight.shape[2:]
    if kernel_m != 1 or left or right:
        return f"its gate's kernel [{kernel_t}, {kernel_m}] with pads {list(block.pads)} is not along time alone"
    if top + bottom != kernel_t - 1 or min(top, bottom) < 0:
        return f"its gate's pads {list(block.pads)} change the length with a kernel of {kernel_t}"
    return ""
