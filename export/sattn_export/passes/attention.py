r"""Finds spatial-attention blocks in any exported graph and makes each one node.

    x -> pool over maps -> Conv -> Sigmoid -> (Mul) -> y      =>      x -> sattn_edge::SpatialAttention -> y
     \___________________________________________/

Blocks are found by what they compute, not by who exported them. Rules, each a reason in the report where it fails:

1. gate: a Sigmoid whose result is multiplied, in either order;
2. conv: the sigmoid reads a Conv with constant weights, stride 1, dilation 1, one group, one output map;
3. shape: its padding keeps time and modal as they are;
4. pool: it reads the mean, the maximum, or both concatenated, over axis 1 with the axis kept;
5. same: what is pooled is what is multiplied;
6. private: nobody else reads the values in between.

A sigmoid multiplied with its own input (SiLU) is no gate and is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from sattn_edge.attention import DOMAIN, DOMAIN_VERSION, attention_call, attention_function
from sattn_edge.contract import Pooling
from sattn_edge.graph import Graph, attribute, replace_nodes
from sattn_edge.passes import NearMiss, PassReport

_GATES = ("Sigmoid", "HardSigmoid")
_POOLS: dict[str, Pooling] = {"ReduceMean": "mean", "ReduceMax": "max"}


class FindAttention:
    """Makes every block that follows the rules a call of the function of its pooling."""

    name = "find-attention"

    def __call__(self, model: ModelProto) -> PassReport:
        """Replaces blocks; near misses name the sigmoid and the first rule that fails."""
        graph = Graph(model)
        found: list[_Block] = []
        misses: list[NearMiss] = []
        for gate in [n for n in model.graph.node if n.op_type in _GATES]:
            match = _match(graph, gate)
            if isinstance(match, _Block):
                found.append(match)
            elif match:
                misses.append(NearMiss(gate.name or gate.output[0], match))
        details = tuple(f"{b.name}: {b.pooling}, kernel {b.kernel}" for b in found)
        replace_nodes(model, [(b.nodes, _call(graph, b)) for b in found])
        for pooling in sorted({b.pooling for b in found}):
            model.functions.append(attention_function(pooling))
        if found:
            model.opset_import.add(domain=DOMAIN, version=DOMAIN_VERSION)
        return PassReport(self.name, len(found), details, tuple(misses))


@dataclass(frozen=True)
class _Block:
    """One block: the value gated, its nodes in order, and what the function needs to know."""

    x: str
    nodes: tuple[NodeProto, ...]
    conv: NodeProto
    weight: NDArray[Any]
    multiply: NodeProto
    pooling: Pooling
    max_first: bool

    @property
    def name(self) -> str:
        return self.multiply.name or self.multiply.output[0]

    @property
    def kernel(self) -> str:
        kt, km = self.weight.shape[2:]
        return f"{kt}x{km}"


def _match(graph: Graph, gate: NodeProto) -> _Block | str | None:
    """A block, the reason why it is none, or None where there is nothing a person would call a gate."""
    readers = graph.consumers.get(gate.output[0], [])
    multiplies = [n for n in readers if n.op_type == "Mul"]
    if gate.input[0] in [i for n in multiplies for i in n.input]:
        return None
    if not multiplies:
        expanded = any(n.op_type == "Expand" for n in readers)
        return "the gate's map is expanded before it is multiplied" if expanded else None
    if gate.op_type != "Sigmoid":
        return f"the gate is {gate.op_type}, not Sigmoid"
    multiply = graph.only_reader(gate.output[0])
    if multiply is None:
        return "the gate's map is used more than once"
    x = next(i for i in multiply.input if i != gate.output[0])
    conv = graph.producers.get(gate.input[0])
    if conv is None or conv.op_type != "Conv":
        return f"the sigmoid reads {conv.op_type if conv is not None else 'an input'}, not a convolution"
    weight = _weight(graph, conv)
    if isinstance(weight, str):
        return weight
    return _match_pool(graph, x, (conv, gate, multiply), weight)


def _match_pool(
    graph: Graph, x: str, tail: tuple[NodeProto, NodeProto, NodeProto], weight: NDArray[Any]
) -> _Block | str:
    """Rules 4 to 6, from the convolution backwards."""
    conv, gate, multiply = tail
    pool = graph.producers.get(conv.input[0])
    if pool is None:
        return "the gate's convolution reads the input itself, nothing is pooled"
    heads = [pool]
    if pool.op_type == "Concat":
        if attribute(pool, "axis") not in (1, -3) or len(pool.input) != 2:
            return f"{pool.op_type} '{pool.name}' does not join two maps along axis 1"
        heads = [graph.producers[i] for i in pool.input if i in graph.producers]
    kinds = [_POOLS.get(h.op_type) for h in heads]
    reason = _pool_reason(graph, heads, x, joined=pool.op_type == "Concat")
    if reason:
        return reason
    inner = [*heads, *([pool] if len(heads) == 2 else []), conv, gate]
    shared = next((n for n in inner if graph.only_reader(n.output[0]) is None), None)
    if shared is not None:
        return f"the value of '{shared.name or shared.op_type}' inside the block is used elsewhere too"
    pooling: Pooling = "mean+max" if len(heads) == 2 else kinds[0] or "mean"
    return _Block(x, (*inner, multiply), conv, weight, multiply, pooling, max_first=kinds == ["max", "mean"])


def _weight(graph: Graph, conv: NodeProto) -> NDArray[Any] | str:
    """The convolution's weight where rules 2 and 3 hold, else the reason."""
    weight = graph.constant(conv.input[1])
    bias = graph.constant(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else np.zeros(1)
    if weight is None or bias is None:
        return "the convolution's weights are computed, not constant"
    if weight.ndim != 4:
        return f"the convolution has {weight.ndim - 2} axes, a window has 2 (series and modal)"
    if weight.shape[0] != 1 or attribute(conv, "group", 1) != 1:
        return f"the convolution gives {weight.shape[0]} maps, a spatial gate is 1 map"
    if set(attribute(conv, "strides", [1])) != {1} or set(attribute(conv, "dilations", [1])) != {1}:
        return "the convolution has a stride or a dilation other than 1"
    pads, (kt, km) = _pads(conv, weight), weight.shape[2:]
    if (pads[0] + pads[2], pads[1] + pads[3]) != (kt - 1, km - 1):
        return f"the convolution's kernel {kt}x{km} with padding {list(pads)} changes the map's shape"
    return weight


def _pads(conv: NodeProto, weight: NDArray[Any]) -> tuple[int, int, int, int]:
    """Padding as numbers, at stride and dilation 1: time and modal before, then behind."""
    kind = attribute(conv, "auto_pad", b"NOTSET")
    if kind in (b"SAME_UPPER", b"SAME_LOWER"):
        kt, km = weight.shape[2:]
        small, large = ((kt - 1) // 2, (km - 1) // 2), (kt // 2, km // 2)
        return (*small, *large) if kind == b"SAME_UPPER" else (*large, *small)
    a, b, c, d = [0, 0, 0, 0] if kind == b"VALID" else attribute(conv, "pads", [0, 0, 0, 0])
    return a, b, c, d


def _pool_reason(graph: Graph, heads: list[NodeProto], x: str, *, joined: bool) -> str:
    """Rules 4 and 5. Empty where they hold."""
    names = [h.op_type for h in heads]
    if joined and sorted(names) != ["ReduceMax", "ReduceMean"]:
        return f"it pools by {' and '.join(names) or 'nothing'}, not by mean and max over feature maps"
    for head in heads:
        if head.op_type not in _POOLS:
            return f"it pools by {head.op_type}, not by mean or max over feature maps"
        axes = _axes(graph, head)
        if axes not in ([1], [-3]):
            return f"{head.op_type} pools over axes {axes}, a spatial gate pools over feature maps (axis 1)"
        if attribute(head, "keepdims", 1) != 1:
            return f"{head.op_type} drops the pooled axis"
        if head.input[0] != x:
            return f"what is pooled ('{head.input[0]}') is not what is multiplied ('{x}')"
    return ""


def _axes(graph: Graph, node: NodeProto) -> list[int] | None:
    """A reduction's axes, from the attribute or from a constant second input."""
    given = attribute(node, "axes")
    if given is None and len(node.input) > 1 and node.input[1]:
        given = graph.constant(node.input[1])
    return None if given is None else [int(a) for a in np.asarray(given).reshape(-1)]


def _call(graph: Graph, block: _Block) -> NodeProto:
    """The one node that stands for a block. A max-then-mean concatenation has its weights' maps swapped."""
    weight_name = block.conv.input[1]
    if block.max_first:
        weight_name = graph.add_constant(f"{weight_name}.mean_max", block.weight[:, ::-1])
    has_bias = len(block.conv.input) > 2 and block.conv.input[2]
    no_bias = np.zeros(1, block.weight.dtype)
    bias_name = block.conv.input[2] if has_bias else graph.add_constant(f"{block.name}.bias", no_bias)
    return attention_call(
        (block.x, weight_name, bias_name),
        block.multiply.output[0],
        pooling=block.pooling,
        pads=_pads(block.conv, block.weight),
        name=block.name,
    )
