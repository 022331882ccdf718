"""The kernels an engine consists of, and what became of each attention block: `sattn-inspect --kernels`.

JSON: `kernels` is their number, `layers` lists them in order of execution (TensorRT's word for what it lists), and
wherever a kernel is named by a number it is its place in that list, from 0 on:

    {"model": "har.onnx", "backend": "tensorrt-rtx", "compiler": "1.7.1.116", "arch": "sm86", "attention": "gemm",
     "precision": "fp16", "batch": 1 | [least, usual, most], "kernels": 8, "shape_kernels": 0,
     "blocks": [{"name": "att1", "fused": true, "reason": "taps to ReLU in kernel 2", "kernels": [1, 2],
                 "roles": {"product": [1], "stencil": [2], ...}}],
     "products": {"conv1": "float16", ...}, "contradiction": null,
     "layers": [{"name": "__myl_FcAdd_myl0_1", "type": "runtime_fusion", "dtype": "float16",
                 "output_dtype": "float16", "nodes": ["conv1"]}]}

`dtype` is of a kernel's largest input, `output_dtype` of its largest output; null where the compiler does not tell.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sattn_edge.lowering import Lowered
from sattn_edge.model_file import ModelFile
from sattn_edge.text import count, table
from sattn_runtime.tensorrt.blocks import PRODUCTS, LoweredBlock, find_lowered_blocks
from sattn_runtime.tensorrt.fusion import BlockFusion, block_fusions, node_name, role_words
from sattn_runtime.tensorrt.held_precision import HeldPrecision, held_precision
from sattn_runtime.tensorrt.layers import SHAPE_CALL, EngineLayer, EngineTensor

WIDTH = 80
_LEAST_ROOM = 24
_NAME_WIDTH = 18
_RUN = 3  # from so many roles on, first to last says it shorter
_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "": "?"}
_POOLS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "AveragePool", "GlobalAveragePool", "MaxPool"})
_BACKENDS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_CAVEAT = (
    "This is TensorRT-RTX, for desktop GPUs: it needs no GPU to compile, but makes no",
    "engines for a Jetson, whose TensorRT may fuse otherwise.",
)
_DECORATION = re.compile(r"^__myl_|(?:_U\d+)?_myl\d+_\d+$")


@dataclass(frozen=True)
class CompiledFor:
    """Who compiled and for what. arch: `SM86`, None for the GPU at hand; batch: fixed, or least, usual, most."""

    backend: str
    compiler: str
    arch: str | None = None
    batch: int | tuple[int, int, int] = 1


@dataclass(frozen=True, eq=False)
class KernelsReport:
    """What a compiler made of a lowered graph."""

    model: str
    lowered: Lowered
    compiled_for: CompiledFor
    layers: tuple[EngineLayer, ...]
    blocks: tuple[BlockFusion, ...]
    held: HeldPrecision
    parts: tuple[LoweredBlock, ...]


def make(model: ModelFile, lowered: Lowered, layers: Sequence[EngineLayer], compiled_for: CompiledFor) -> KernelsReport:
    """The report on an engine.

    Args:
        model: the model file; blocks have the names they have there.
        lowered: the very graph that was compiled, with its target.
        layers: of `layers.parse_layers`.
        compiled_for: by whom, and for what.
    """
    target = lowered.target
    return KernelsReport(
        model=model.name,
        lowered=lowered,
        compiled_for=compiled_for,
        layers=tuple(layers),
        blocks=block_fusions(lowered.model, layers, model.proto),
        held=held_precision(lowered.model, layers, target.precision, typed=target.typed),
        parts=tuple(find_lowered_blocks(lowered.model, model.proto)),
    )


def as_data(report: KernelsReport) -> dict[str, Any]:
    """Plain dicts, lists and numbers, as the module describes them."""
    made = report.compiled_for
    return {
        "model": report.model,
        "backend": made.backend,
        "compiler": made.compiler,
        "arch": None if made.arch is None else made.arch.lower(),
        "attention": report.lowered.target.form,
        "precision": report.lowered.target.precision,
        "batch": made.batch if isinstance(made.batch, int) else list(made.batch),
        "kernels": len(report.layers),
        "shape_kernels": _shape_kernels(report),
        "blocks": [_block_data(block) for block in report.blocks],
        "products": {name: found or None for name, found in report.held.inputs.items()},
        "contradiction": report.held.wrong or None,
        "layers": [_layer_data(layer) for layer in report.layers],
    }


def _shape_kernels(report: KernelsReport) -> int:
    return sum(layer.kind == SHAPE_CALL for layer in report.layers)


def _block_data(block: BlockFusion) -> dict[str, Any]:
    return {
        "name": block.name,
        "fused": block.fused,
        "reason": block.reason,
        "kernels": list(block.kernels),
        "roles": {role: list(kernels) for role, kernels in block.roles.items()},
    }


def _layer_data(layer: EngineLayer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "type": layer.kind or None,
        "dtype": _main_type(layer.inputs) or None,
        "output_dtype": _main_type(layer.outputs) or None,
        "nodes": list(layer.nodes),
    }


def _main_type(tensors: Sequence[EngineTensor]) -> str:
    """The type of the largest tensor: beside its map a kernel may read a gate or a row of zeros."""
    largest = max(tensors, key=lambda t: math.prod(size for size in t.dims if size > 0), default=None)
    return "" if largest is None else largest.dtype


def as_text(report: KernelsReport) -> list[str]:
    """The page a person reads, at most 80 columns wide as long as names are no longer than usual."""
    lines = [_title(report), "", *_kernel_text(report), "", *_block_text(report), *_precision_text(report)]
    caveat = ["", *_CAVEAT] if report.compiled_for.backend == "tensorrt-rtx" else []
    return [_printable(line) for line in (*lines, *caveat)]


def _printable(line: str) -> str:
    """Names are whoever's made the file, and do not steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _title(report: KernelsReport) -> str:
    made, target = report.compiled_for, report.lowered.target
    batch = str(made.batch) if isinstance(made.batch, int) else f"{made.batch[0]} to {made.batch[2]}"
    who = f"{_BACKENDS.get(made.backend, made.backend)} {made.compiler}"
    arch = "" if made.arch is None else f", {made.arch.lower()}"
    return f"{report.model} by {who}{arch}: {target.form}, {target.precision}, batch {batch}"


def _kernel_text(report: KernelsReport) -> list[str]:
    sizes = _shape_kernels(report)
    note = f", {sizes} of them to work out sizes" if sizes else ""
    rows = [(i, *_kernel_row(report, i)) for i in range(len(report.layers))]
    header, *lines = table(rows, header=("", "kernel", "type", "in", "out", "computes"))
    column = header.index("computes")
    wrapped = [part for line in lines for part in _hanging(line[:column], line[column:])]
    return [f"kernels: {len(report.layers)}{note}", header, *wrapped]


def _hanging(head: str, text: str) -> list[str]:
    """A text that goes on underneath itself. Names are not broken, so a line may be longer than a terminal is wide."""
    room = max(WIDTH - len(head), _LEAST_ROOM)
    first, *others = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    return [(head + first).rstrip(), *(" " * len(head) + part for part in others)]


def _kernel_row(report: KernelsReport, i: int) -> tuple[str, ...]:
    layer = report.layers[i]
    types = [_main_type(tensors) if tensors else "-" for tensors in (layer.inputs, layer.outputs)]
    name = _DECORATION.sub("", _DECORATION.sub("", layer.name))
    return (_cut(name, _NAME_WIDTH), layer.kind or "-", *(_SHORT.get(t, t) for t in types), _computes(report, i))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _computes(report: KernelsReport, i: int) -> str:
    """`block 2: taps to ReLU`, `fc`, or the names of the nodes where neither block nor product is among them."""
    blocks = enumerate(zip(report.parts, report.blocks, strict=True), 1)
    told = [f"block {n}: {text}" for n, (part, block) in blocks if (text := _part(part, block, i))]
    told += _landmarks(report, i)
    if told or report.layers[i].kind == SHAPE_CALL:
        return ", ".join(told) or "sizes, for the free batch"
    nodes = report.layers[i].nodes
    return f"{nodes[0]} and {count(len(nodes) - 1, 'node')} more" if len(nodes) > 2 else ", ".join(nodes)


def _part(part: LoweredBlock, block: BlockFusion, i: int) -> str:
    """What a kernel computes of a block: `conv1`, `pooling`, `taps to ReLU`.

    A product is computed by its first kernel; others that name it scale its sums or add its bias.
    """
    words, found = role_words(part), [role for role in block.roles if block.roles[role]]
    here = [role for role in found if i in block.roles[role] and (role != "product" or block.roles[role][0] == i)]
    rest = len(found)
    while rest and found[rest - 1] in here:
        rest -= 1
    end = found[rest:]
    if len(end) < _RUN:
        return ", ".join(_word(part, words, role) for role in here)
    front = [_word(part, words, role) for role in here if role not in end]
    return ", ".join([*front, f"{_word(part, words, end[0])} to {words[end[-1]]}"])


def _word(part: LoweredBlock, words: dict[str, str], role: str) -> str:
    """A product is best known by its own name; taps have none."""
    nodes = part.roles.get(role, ())
    return node_name(nodes[0]) if role == "product" and nodes[0].op_type in PRODUCTS else words[role].split(" over ")[0]


def _landmarks(report: KernelsReport, i: int) -> list[str]:
    """Products and poolings that are of no block."""
    of_blocks = {node.output[0] for part in report.parts for nodes in part.roles.values() for node in nodes}
    nodes = report.lowered.model.graph.node
    marks = [n for n in nodes if n.op_type in PRODUCTS | _POOLS and n.output[0] not in of_blocks]
    return [node_name(node) for node in marks if node_name(node) in report.layers[i].nodes]


def _block_text(report: KernelsReport) -> list[str]:
    if not report.blocks:
        return ["attention blocks: none"]
    fused = sum(block.fused for block in report.blocks)
    of = "all" if fused == len(report.blocks) else f"{fused}" if fused else "none"
    width = max(len(block.name) for block in report.blocks)
    lines = [f"attention blocks: {len(report.blocks)}, {of} fused"]
    for n, block in enumerate(report.blocks, 1):
        head = f"  {n}  {block.name.ljust(width)}  {'fused' if block.fused else 'apart'}  "
        lines += _hanging(head, block.reason)
    return lines


def _precision_text(report: KernelsReport) -> list[str]:
    """Which type each product reads, a line a type."""
    by_type: dict[str, list[str]] = {}
    for name, found in report.held.inputs.items():
        by_type.setdefault(found, []).append(name)
    lines = ["", "products"] if by_type else []
    for found, names in by_type.items():
        lines += _hanging(f"  {_SHORT.get(found, found)}  ", ", ".join(names))
    return [*lines, f"  not as asked: {report.held.wrong}"] if report.held.wrong else lines
