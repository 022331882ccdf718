"""Types the products of a lowered graph float16; what is computed between them stays float32.

    x -> Sub -> Div -> Conv -> ReduceMean -> Conv -> Sigmoid -> Mul -> Add -> Relu -> Conv ... Reshape -> Gemm -> logits

    x -> Sub -> Div -> Conv -> ReduceMean -> ... -> Mul -> Add -> Cast -> Relu -> Conv -> Cast -> ReduceMean -> ...
         ------------------ float32 ------------------------      -- float16 ---         -- float32 to the next product
                                                                                     ... -> ReduceMean -> Gemm -> logits

ALGEBRA: none; a value typed float16 is rounded to 11 bits, half an ulp being 2^-11 = 4.9e-4 of it. What passes through
memory (the maps that products read and write) is float16, and so is what tensor cores multiply. What stands between
two products a compiler fuses into one kernel that reads and writes float16 and computes in registers, so float32 there
costs nothing: as many kernels as with float16 everywhere, or fewer, since the 1-map convolution of a gate would have to
be padded to two maps. Gained is the error: on nine trained networks in six attention forms at most 3.1e-4 of the logit
scale, where float16 between the products as well gave up to 5.8e-3 (the shift of a folded BatchNormalization cancels
much of what was rounded before it; parsers fold BatchNormalization itself in the arithmetic of its type).

Rule 1: only products with constant weights (Conv, ConvTranspose, Gemm, MatMul) become float16. Everything that is
    computed value by value, summed or normalised stays float32: the normalisation of raw units (1e5 is inf in float16,
    and 9.81 with a detail of 1e-3 loses the detail), every mean however few its values, sigmoid, BatchNormalization.
Rule 2: a product that reads the window, normalised by per-channel constants or not, stays float32: it has few weights,
    whose rounding every time step shares, and would round the samples themselves.
Rule 3: a product that makes the first output (through nothing but moves, per-channel constants and a softmax) stays
    float32: rounding logits to float16 alone would cost up to 4.9e-4 of the logit scale.
Rule 4: a product with one output map whose input is float32 and not read by a float16 product stays float32: the gate's
    convolution over the pooled map.
Rule 5: a product or move with a constant that becomes inf in float16, or whose every value is below 2^-14, where bits
    go missing, stays float32.
Rule 6: a product whose QuantizeLinear or DequantizeLinear has a scale that float16 can't hold to 2^-11 stays float32,
    with these. (The scale of a channel of zeros may be anything: it is raised to 2^-14.) Every scale that is float16
    somewhere is set to its float16 value everywhere, so that Q and DQ agree also where Q is float32.

Moves and choices of values (Reshape, Gather, Relu, MaxPool, ReduceMax) round nothing and have no type of their own:
float32 where they read it and something wants it, else float16. So casts stand where the least passes through them, and
never two in a row. QuantizeLinear has the type of what it reads, DequantizeLinear float32 only if all its readers have.
A float16 scale needs opset 19: `RaiseOpset` comes before. Inputs and outputs of the graph stay float32. Integers
(indices, shapes, splits, pads, int8 levels) are not touched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from sattn_edge.graph import Graph, attribute, opset_of
from sattn_edge.passes.base import NearMiss, PassReport
from sattn_edge.passes.half_typing import element_types, in_half, lift_constants, write_types

RULES = frozenset(range(2, 7))
SMALLEST_NORMAL = 2.0**-14
SCALE_OPSET = 19
_TOLERANCE = 2.0**-11

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
MOVES = frozenset(
    {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Concat", "Split", "Slice", "Gather", "Pad"}
    | {"Expand", "Tile", "Relu", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"}
)
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
_AFFINE = frozenset({"Sub", "Add", "Mul", "Div", "BatchNormalization"})
_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
_TITLES = {
    1: "rule 1, computed between products",
    2: "rule 2, reads the window",
    3: "rule 3, makes the logits",
    4: "rule 4, one map from float32",
    5: "rule 5, a constant outside float16",
    6: "rule 6, a scale outside float16",
}


class Half:
    """Types a plain float32 graph float16. `rules`: those of 2 to 6 that are in force."""

    name = "half"

    def __init__(self, rules: frozenset[int] = RULES) -> None:
        self._rules = rules

    def __call__(self, model: ModelProto) -> PassReport:
        """Rules 1 to 6. `changed` counts the products now in float16; details name what is not, by rule.

        Raises ValueError for calls of functions and for Q/DQ below opset 19: bugs of the caller.
        """
        _refuse(model)
        types = element_types(model)
        if TensorProto.FLOAT not in types.values() or TensorProto.FLOAT16 in types.values():
            found = "holds float16 already" if TensorProto.FLOAT16 in types.values() else "holds no float32"
            return PassReport(self.name, 0, near_misses=(NearMiss(model.graph.name, f"the graph {found}"),))
        lift_constants(model)
        graph = Graph(model, shapes=True)
        choice = _Choice(graph, types, self._rules)
        choice.decide()
        details = _report(graph, choice.single)
        half = [n for n in model.graph.node if choice.is_float(n) and id(n) not in choice.single]
        products = [n.name for n in half if n.op_type in PRODUCTS]
        if not products:
            return PassReport(self.name, 0, details)
        _round_scales(graph, half)
        casts = write_types(graph, types, half)
        return PassReport(self.name, len(products), (f"float16, with {casts} casts: {', '.join(products)}", *details))


def _refuse(model: ModelProto) -> None:
    if model.functions:
        raise ValueError("functions must be inlined before a graph is typed float16")
    if opset_of(model) < SCALE_OPSET and any(n.op_type in _QDQ for n in model.graph.node):
        raise ValueError(f"float16 scales need opset {SCALE_OPSET}, the graph has {opset_of(model)}: raise it before")


def _report(graph: Graph, single: dict[int, int]) -> tuple[str, ...]:
    """One line for each rule that held somewhere: the nodes it kept in float32, for rule 1 how many of which kind."""
    lines = []
    for rule, title in _TITLES.items():
        nodes = [n for n in graph.proto.node if single.get(id(n)) == rule]
        names = [n.name or n.output[0] for n in nodes]
        if rule == 1:
            names = [f"{count} {kind}" for kind, count in Counter(n.op_type for n in nodes).items()]
        if names:
            lines.append(f"{title}: {', '.join(names)}")
    return tuple(lines)


@dataclass
class _Choice:
    """Decides which nodes stay float32: `single` has them by identity, with the rule (0: a move between such)."""

    graph: Graph
    types: dict[str, int]
    rules: frozenset[int]
    single: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = [n for n in self.graph.proto.node if self.is_float(n)]
        self.products = [n for n in self.nodes if n.op_type in PRODUCTS and self._has_weights(n)]

    def decide(self) -> None:
        """Rule 1 and those in force, in order; then the moves."""
        kept = {id(n) for n in self.products}
        self._keep(1, [n for n in self.nodes if n.op_type not in MOVES | _QDQ and id(n) not in kept])
        found = {2: self._first, 3: self._last, 5: self._constants, 6: self._scales, 4: self._single_maps}
        for rule in (r for r in found if r in self.rules):
            self._keep(rule, found[rule]())
        self._settle_moves()

    def is_float(self, node: NodeProto) -> bool:
        """Whether a node reads or gives float32 in the graph as it was."""
        return any(name and self.types[name] == TensorProto.FLOAT for name in (*node.input, *node.output))

    def _keep(self, rule: int, nodes: list[NodeProto]) -> None:
        for node in nodes:
            self.single.setdefault(id(node), rule)

    def _has_weights(self, node: NodeProto) -> bool:
        """Whether one of a product's factors is constant, in float or as int8 levels."""
        return any(self._constant(name) for name in node.input[:2])

    def _constant(self, name: str) -> bool:
        producer = self.graph.producers.get(name)
        if producer is not None and producer.op_type == "DequantizeLinear":
            name = producer.input[0]
        return self.graph.constant(name) is not None

    def _per_channel(self, node: NodeProto) -> bool:
        """Whether a node shifts or scales one value by constants and leaves its shape alone."""
        shapes, computed = self.graph.shapes, [n for n in node.input if n not in self.graph.initializers]
        if node.op_type not in _AFFINE or len(computed) != 1:
            return False
        return shapes.get(computed[0]) == shapes.get(node.output[0])

    def _first(self) -> list[NodeProto]:
        """Rule 2."""
        window, found = {self.graph.proto.input[0].name}, []
        for node in self.nodes:
            if not window.intersection(node.input):
                continue
            if node.op_type in PRODUCTS:
                found.append(node)
            elif node.op_type in MOVES or self._per_channel(node):
                window.update(node.output)
        return found

    def _last(self) -> list[NodeProto]:
        """Rule 3."""
        found, todo = [], [self.graph.proto.output[0].name]
        while todo:
            node = self.graph.producers.get(todo.pop())
            if node is None:
                continue
            if node.op_type in PRODUCTS:
                found.append(node)
            elif node.op_type in MOVES | _SOFTMAX or self._per_channel(node):
                todo += node.input
        return found

    def _constants(self) -> list[NodeProto]:
        """Rule 5."""
        nodes = [n for n in self.nodes if n.op_type not in _QDQ]
        return [n for n in nodes if not all(_fits(self.graph.initializers[i]) for i in self._constants_of(n))]

    def _constants_of(self, node: NodeProto) -> list[str]:
        return [n for n in node.input if n in self.graph.initializers and self.types[n] == TensorProto.FLOAT]

    def _scales(self) -> list[NodeProto]:
        """Rule 6: Q and DQ with such a scale, and the products that read them."""
        found = [n for n in self.nodes if n.op_type in _QDQ and float16_scale(self.graph, n) is None]
        readers = [r for n in found for name in n.output for r in self.graph.consumers[name]]
        return found + [r for r in readers if r.op_type in PRODUCTS]

    def _single_maps(self) -> list[NodeProto]:
        """Rule 4, after all others."""
        half = [n for n in self.products if id(n) not in self.single]
        inputs = Counter(n.input[0] for n in half)
        return [n for n in half if inputs[n.input[0]] == 1 and self._outputs(n) == 1 and self._made_single(n)]

    def _outputs(self, node: NodeProto) -> int | None:
        """How many maps or columns a product gives."""
        shape = self.graph.shapes.get(node.output[0], ())
        axis = 1 if node.op_type in ("Conv", "ConvTranspose") else -1
        return shape[axis] if shape else None

    def _made_single(self, node: NodeProto) -> bool:
        """Whether all that a node reads is float32 where it is computed, whatever moves stand between."""
        floats = [name for name in node.input if name and self.types[name] == TensorProto.FLOAT]
        before = [p for name in floats if (p := self.graph.producers.get(name)) is not None]
        return all(id(p) in self.single or (p.op_type in MOVES and self._made_single(p)) for p in before)

    def _settle_moves(self) -> None:
        """Moves and Q forwards from float32, moves and DQ back from what wants it; 0 in `single`."""
        reads = {id(n) for n in self.nodes if n.op_type in MOVES | {"QuantizeLinear"} and self._made_single(n)}
        for node in reversed(self.nodes):
            if node.op_type not in MOVES | _QDQ or id(node) in self.single:
                continue
            wanted = [id(r) in self.single for name in node.output for r in self.graph.consumers[name]]
            wanted += [True for name in node.output if name in self.graph.outputs]
            if node.op_type == "DequantizeLinear":
                follows = all(wanted)
            else:
                follows = id(node) in reads and (node.op_type == "QuantizeLinear" or any(wanted))
            if follows:
                self.single[id(node)] = 0


def _fits(tensor: TensorProto) -> bool:
    """Rule 5: nothing finite becomes inf, and not every value is too small for 11 bits."""
    value = numpy_helper.to_array(tensor)
    finite = value[np.isfinite(value)]
    largest = np.abs(finite).max(initial=0.0)
    return bool(np.isfinite(in_half(finite)).all()) and (largest == 0 or largest >= SMALLEST_NORMAL)


def float16_scale(graph: Graph, node: NodeProto) -> NDArray[np.float16] | None:
    """Rule 6: the scale of a Q or DQ in float16, None where float16 can't hold it to 2^-11 or it is computed."""
    scale = graph.constant(node.input[1])
    if scale is None:
        return None
    scale = _without_empty_channels(graph, node, scale.astype(np.float64))
    half = in_half(scale)
    exact = half.astype(np.float64)
    held = np.isfinite(exact) & (exact > 0) & (np.abs(exact - scale) <= _TOLERANCE * scale)
    return half if held.all() else None


def _without_empty_channels(graph: Graph, node: NodeProto, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales of constant channels whose every level is the zero point, raised to the smallest normal float16."""
    levels = graph.constant(node.input[0]) if node.op_type == "DequantizeLinear" else None
    zero: NDArray[Any] | None = np.zeros(1, np.int8)
    if len(node.input) > 2 and node.input[2]:
        zero = graph.constant(node.input[2])
    if levels is None or zero is None or scale.ndim != 1 or len(graph.consumers[node.input[1]]) > 1:
        return scale
    axis = attribute(node, "axis", 1)
    if not -levels.ndim <= axis < levels.ndim or levels.shape[axis] != len(scale) or zero.size not in (1, len(scale)):
        return scale  # no runtime takes such a node
    rows = np.moveaxis(levels, axis, 0).reshape(len(scale), -1)
    empty = (rows == zero.reshape(-1, 1)).all(axis=1)
    return np.where(empty, np.maximum(scale, SMALLEST_NORMAL), scale)


def _round_scales(graph: Graph, half: list[NodeProto]) -> None:
    """Rule 6: a scale that is float16 somewhere gets its float16 value everywhere."""
    for node in (n for n in half if n.op_type in _QDQ):
        value = float16_scale(graph, node)
        if value is not None and node.input[1] in graph.initializers:
            tensor = numpy_helper.from_array(value.astype(np.float32), node.input[1])
            graph.initializers[node.input[1]].CopyFrom(tensor)
