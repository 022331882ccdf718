"""The attention blocks of a lowered graph, told by their wiring alone, whatever their form and whoever named them.

    x -> product -> y -+-> pool -> stencil -> sigmoid -+
                       |                               v
                       +---------------------------> multiply -> batch_norm -> relu

A block is a sigmoid of one value for each time step and channel that scales a feature map. What leads to it and is
not on the way to the map is its gate: the `stencil` (a convolution, or slices times numbers, added) and in front of
it the `pool` over feature maps, where that is not a part of the product or of the stencil. In form `gemm` the first
product may itself be taps; then it is multiplies and adds. Casts and reshapes belong to nobody.

Source graphs, whose blocks are calls, are the matter of `sattn_edge.passes.block`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from onnx import ModelProto, NodeProto

from sattn_edge.attention import DOMAIN
from sattn_edge.graph import Graph, Shape

ROLES = ("product", "pool", "stencil", "sigmoid", "multiply", "batch_norm", "relu")
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SIGMOIDS = frozenset({"Sigmoid", "HardSigmoid"})
_MOVES = frozenset({"Cast", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Concat", "Split"})
_BEHIND_PRODUCT = _MOVES | {"Slice", "Relu", "BatchNormalization", "QuantizeLinear", "DequantizeLinear"}
_SUMS = frozenset({"Add", "Sub"})
_FACTORS = frozenset({"Mul", "Div"})
_ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Clip", "HardSwish", "Tanh", "Softplus"}
    | {"ThresholdedRelu", "Softsign", *_SIGMOIDS}
)


@dataclass(frozen=True, eq=False)
class LoweredBlock:
    """The nodes of one block by role, in the order of ROLES; a role nothing plays is not there."""

    name: str
    roles: Mapping[str, tuple[NodeProto, ...]]

    @property
    def gate_is_convolution(self) -> bool:
        """Whether the stencil is a convolution rather than slices."""
        return any(node.op_type in PRODUCTS for node in self.roles.get("stencil", ()))


def find_lowered_blocks(model: ModelProto, source: ModelProto | None = None) -> list[LoweredBlock]:
    """The blocks in graph order. `source` is the graph with calls the model was lowered from, for their names.

    A block is named as its call; where no source tells, as the nodes are that a form wrote (`att1` of `att1.sigmoid`
    and `att1.multiply`); else `block 1` and on.
    """
    graph = Graph(model, shapes=True)
    found = [roles for node in model.graph.node if node.op_type in _SIGMOIDS and (roles := _match(graph, node))]
    calls = {} if source is None else {n.output[0]: n.name or n.output[0] for n in source.graph.node if _is_call(n)}
    names = [_name(roles, calls) for roles in found]
    taken = {name for name in names if name and names.count(name) == 1}
    named = [name if name in taken else f"block {i}" for i, name in enumerate(names, 1)]
    return [LoweredBlock(name, roles) for name, roles in zip(named, found, strict=True)]


def _is_call(node: NodeProto) -> bool:
    return bool(node.domain == DOMAIN)


def _name(roles: Mapping[str, tuple[NodeProto, ...]], calls: Mapping[str, str]) -> str:
    sigmoid, multiply = roles["sigmoid"][0], roles["multiply"][0]
    value = multiply.output[0]
    if call := calls.get(value) or calls.get(value.removesuffix(".rows")):
        return call
    stems = {sigmoid.name.removesuffix(".sigmoid"), multiply.name.removesuffix(".multiply")}
    return stems.pop() if len(stems) == 1 else ""


def _match(graph: Graph, sigmoid: NodeProto) -> dict[str, tuple[NodeProto, ...]] | None:
    """The roles around a sigmoid, None where it gates no map."""
    at = _multiply_behind(graph, sigmoid.output[0])
    if at is None:
        return None
    multiply, gate, mapped = at
    on_the_way = {id(node) for node in _leading_to(graph, [mapped], set())}
    if id(sigmoid) in on_the_way or not _one_plane(graph.shapes.get(gate, ()), graph.shapes.get(mapped, ())):
        return None
    stencil, sources = _stencil(graph, sigmoid.input[0], on_the_way)
    pool = [node for node in _leading_to(graph, sources, on_the_way) if node.op_type not in _MOVES]
    if not stencil and not pool:
        return None  # x * sigmoid(x)
    if sources == [mapped] and not pool and not any(node.op_type in PRODUCTS for node in stencil):
        return None  # x * sigmoid(1.7 * x): of the map itself, value by value
    norm, relu = _behind(graph, multiply.output[0])
    parts = (_product(graph, mapped), pool, stencil, [sigmoid], [multiply], norm, relu)
    return {role: tuple(nodes) for role, nodes in zip(ROLES, parts, strict=True) if nodes}


def _computed(graph: Graph, node: NodeProto) -> list[str]:
    """The inputs of a node that are no constants."""
    return [name for name in node.input if name and graph.constant(name) is None]


def _multiply_behind(graph: Graph, value: str) -> tuple[NodeProto, str, str] | None:
    """The multiply a gate ends in, the gate as it reads it, and the map."""
    for node in graph.consumers.get(value, ()):
        if node.op_type in _MOVES:
            if at := _multiply_behind(graph, node.output[0]):
                return at
        elif node.op_type == "Mul" and len(others := [n for n in _computed(graph, node) if n != value]) == 1:
            return node, value, others[0]
    return None


def _one_plane(gate: Shape, mapped: Shape) -> bool:
    """Whether a gate has one value where the map has all its feature maps: [b, 1, t, m], or [b, rows, 1] over rows."""
    if len(gate) != len(mapped) or len(gate) not in (3, 4):
        return not gate or not mapped  # nothing is known, so nothing speaks against it
    axis = 1 if len(gate) == 4 else 2
    return gate[axis] == 1 and all(a == b for i, (a, b) in enumerate(zip(gate, mapped, strict=True)) if i != axis)


def _leading_to(graph: Graph, values: Sequence[str], stop: set[int]) -> list[NodeProto]:
    """Every node that values are computed by, up to the nodes of `stop`."""
    found: dict[int, NodeProto] = {}
    open_values = list(values)
    while open_values:
        node = graph.producers.get(open_values.pop())
        if node is not None and id(node) not in stop and id(node) not in found:
            found[id(node)] = node
            open_values += _computed(graph, node)
    return list(found.values())


class _Step(NamedTuple):
    """One step from the logits towards the map: nodes of the stencil, and what they read."""

    nodes: Sequence[NodeProto]
    reads: Sequence[str]
    is_term: bool = False  # behind a factor: of one term, no longer of their sum
    ends: bool = False  # the stencil ends here


def _stencil(graph: Graph, logits: str, stop: set[int]) -> tuple[list[NodeProto], list[str]]:
    """The nodes of a gate's stencil, and the values it runs over."""
    found: dict[int, NodeProto] = {}
    sources: list[str] = []
    open_values = [(logits, False)]
    while open_values:
        value, is_term = open_values.pop()
        node = graph.producers.get(value)
        step = None if node is None or id(node) in stop else _step(graph, node, is_term, stop)
        if step is None:
            sources.append(value)
            continue
        found.update({id(one): one for one in step.nodes})
        if step.ends:
            sources += step.reads
        else:
            open_values += [(name, step.is_term) for name in step.reads]
    return list(found.values()), list(dict.fromkeys(sources))


def _step(graph: Graph, node: NodeProto, is_term: bool, stop: set[int]) -> _Step | None:
    """The step over a node, None where it is no part of a stencil: a sum of terms, a term a factor times a slice."""
    reads, op = _computed(graph, node), node.op_type
    if op in _MOVES:
        return _Step((), reads, is_term)
    if is_term:
        return _Step((node,), reads, is_term) if op in ("Slice", "Pad") else None
    if op in PRODUCTS:
        return _Step((node,), reads[:1], ends=True)
    if op in _SUMS:
        return _Step((node,), reads)
    if op in _FACTORS and len(reads) == 1:
        return _Step((node,), reads, is_term=True)
    if op in ("ReduceMean", "ReduceSum") and (border := _border(graph, node, stop)):
        return _Step((node, *border), _computed(graph, border[-1])[:1], ends=True)
    return None


def _border(graph: Graph, reduce: NodeProto, stop: set[int]) -> list[NodeProto]:
    """What form `composed` adds up where its borders need a channel each: the mask's multiply, the convolution."""
    multiply = _producer(graph, reduce.input[0])
    if multiply is None or multiply.op_type != "Mul" or len(reads := _computed(graph, multiply)) != 1:
        return []
    conv = _producer(graph, reads[0])
    is_gate = conv is not None and conv.op_type == "Conv" and id(conv) not in stop
    return [multiply, conv] if conv is not None and is_gate else []


def _producer(graph: Graph, value: str) -> NodeProto | None:
    """What makes a value, moves left out."""
    node = graph.producers.get(value)
    while node is not None and node.op_type in _MOVES:
        node = graph.producers.get(node.input[0])
    return node


def _product(graph: Graph, mapped: str) -> list[NodeProto]:
    """The convolution or matrix product that makes a map, or the taps it is written as."""
    node = graph.producers.get(mapped)
    while node is not None and node.op_type in _BEHIND_PRODUCT:
        node = graph.producers.get(node.input[0])
    if node is None:
        return []
    if node.op_type in PRODUCTS:
        return [node]
    taps, sources = _weighted_sum(graph, node)
    behind = [_producer(graph, value) for value in sources]
    if len(behind) == 1 and behind[0] is not None and behind[0].op_type in PRODUCTS:
        return [behind[0]]  # scaled or shifted behind the product
    return taps


def _weighted_sum(graph: Graph, last: NodeProto) -> tuple[list[NodeProto], list[str]]:
    """Adds and multiplies by numbers that end in a node, and the values they take."""
    found: dict[int, NodeProto] = {}
    sources: list[str] = []
    open_nodes = [last]
    while open_nodes:
        node = open_nodes.pop()
        reads = _computed(graph, node)
        if node.op_type not in _SUMS and not (node.op_type in _FACTORS and len(reads) == 1):
            sources += node.output[:1]
            continue
        found[id(node)] = node
        made = [graph.producers.get(name) for name in reads]
        sources += [name for name, one in zip(reads, made, strict=True) if one is None]
        open_nodes += [one for one in made if one is not None]
    return list(found.values()), list(dict.fromkeys(sources))


def _behind(graph: Graph, value: str) -> tuple[list[NodeProto], list[NodeProto]]:
    """BatchNormalization, or the multiply and add that are left of it, and the activation behind."""
    norm: list[NodeProto] = []
    while (node := graph.only_reader(value)) is not None:
        if node.op_type in _ACTIVATIONS:
            return norm, [node]
        if node.op_type == "BatchNormalization" or (
            node.op_type in _SUMS | _FACTORS and len(_computed(graph, node)) == 1
        ):
            norm.append(node)
        elif node.op_type not in _MOVES or len(node.output) > 1:
            break
        value = node.output[0]
    return norm, []
