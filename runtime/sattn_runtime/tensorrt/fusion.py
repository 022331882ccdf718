"""Which kernels an engine computes each attention block in, and whether all behind its product is one of them.

A block is `fused` where its stencil, sigmoid, multiply, BatchNormalization and ReLU, as far as it has them, have a
part in one common kernel: then its map is read once and written once. The product and the pooling over feature maps
may be kernels of their own. In the forms whose stencil is a convolution the compiler makes a kernel of that, so they
are not fused; `reason` says what stands where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from sattn_runtime.tensorrt.blocks import ROLES, LoweredBlock, find_lowered_blocks
from sattn_runtime.tensorrt.layers import EngineLayer

TAIL = ("stencil", "sigmoid", "multiply", "batch_norm", "relu")
"""The roles that have to meet in one kernel."""
_MAY_VANISH = ("batch_norm",)  # the addition of zeros is optimised away
WORDS = {
    "product": "product",
    "pool": "pooling over maps",
    "stencil": "taps",
    "sigmoid": "sigmoid",
    "multiply": "multiply",
    "batch_norm": "BatchNorm",
    "relu": "ReLU",
}


@dataclass(frozen=True)
class BlockFusion:
    """One block. `kernels` are those it has a part in, `roles` those of each role of `ROLES` it has, from 0 on."""

    name: str
    fused: bool
    reason: str
    kernels: tuple[int, ...]
    roles: Mapping[str, tuple[int, ...]]


def block_fusions(
    model: ModelProto, layers: Sequence[EngineLayer], source: ModelProto | None = None
) -> tuple[BlockFusion, ...]:
    """The blocks of a lowered graph in the engine made of it, in graph order; nothing where the graph has none.

    source: the graph with blocks as calls, for their names.
    """
    return tuple(_fusion(block, layers) for block in find_lowered_blocks(model, source))


def node_name(node: NodeProto) -> str:
    """The name NVIDIA's parser knows a node by."""
    return str(node.name) or f"node_of_{node.output[0]}"


def kernels_of(node: NodeProto, layers: Sequence[EngineLayer]) -> frozenset[int]:
    """The kernels a node has a part in."""
    name = node_name(node)
    return frozenset(i for i, layer in enumerate(layers) if name in layer.nodes)


def role_words(block: LoweredBlock) -> dict[str, str]:
    """What a person calls the roles of a block."""
    return WORDS | ({"stencil": "gate convolution"} if block.gate_is_convolution else {})


def _fusion(block: LoweredBlock, layers: Sequence[EngineLayer]) -> BlockFusion:
    by_node = {role: [kernels_of(node, layers) for node in nodes] for role, nodes in block.roles.items()}
    roles = {role: tuple(sorted(frozenset().union(*found))) for role, found in by_node.items()}
    parts = [found for role in TAIL for found in by_node.get(role, []) if found]
    unnamed = [role for role in TAIL if role in roles and not roles[role] and role not in _MAY_VANISH]
    common = frozenset.intersection(*parts) if parts and not unnamed else frozenset()
    words = role_words(block)
    reason = _fused(roles, common, words) if common else _apart(roles, unnamed, words)
    kernels = tuple(sorted({kernel for found in roles.values() for kernel in found}))
    return BlockFusion(block.name, bool(common), reason, kernels, roles)


def _fused(roles: Mapping[str, tuple[int, ...]], common: frozenset[int], words: Mapping[str, str]) -> str:
    """`taps to ReLU in kernel 4; pooling over maps in kernel 3`."""
    there = [words[role] for role in TAIL if roles.get(role)]
    text = f"{there[0]} to {there[-1]} in {_kernels(common)}"
    elsewhere = [kernel for kernel in roles.get("pool", ()) if kernel not in common]
    return f"{text}; {words['pool']} in {_kernels(elsewhere)}" if elsewhere else text


def _apart(roles: Mapping[str, tuple[int, ...]], unnamed: Sequence[str], words: Mapping[str, str]) -> str:
    """`gate convolution and sigmoid in kernel 3; multiply, BatchNorm and ReLU in kernel 4`."""
    if unnamed:
        return f"no kernel names its {_and(words[role] for role in unnamed)}"
    groups: dict[tuple[int, ...], list[str]] = {}
    for role in TAIL:
        if roles.get(role):
            groups.setdefault(roles[role], []).append(words[role])
    return "; ".join(f"{_and(names)} in {_kernels(where)}" for where, names in groups.items())


def _kernels(numbers: Iterable[int]) -> str:
    found = sorted(numbers)
    return f"{'kernel' if len(found) == 1 else 'kernels'} {_and(str(i) for i in found)}"


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


__all__ = ["ROLES", "TAIL", "WORDS", "BlockFusion", "block_fusions", "kernels_of", "node_name", "role_words"]
