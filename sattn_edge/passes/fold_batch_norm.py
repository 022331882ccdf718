"""BatchNormalization moved through the gate into the main convolution.

    x -> conv(W, b) -> y;    y * gate(y or x) -> BatchNormalization -> z
                                                                 =>
    x -> conv(k W, k b) -> y';    y' * gate -> Add(shift [1, c, 1, 1]) -> z
    x -> conv(W, b) -> BatchNormalization -> z  =>  x -> conv(k W, k b + shift) -> z

For plain graphs: after a form has been written and functions are opened.

Algebra. At inference BatchNormalization is k * value + shift for each map, k = gamma / sqrt(variance + epsilon),
shift = beta - k * mean. A gate scales, so k (y * gate) + shift = (k y) * gate + shift. The gate itself must still be
made of y = y' / k, so whatever else reads y is divided:

- nothing, where the gate is made of x (forms `mean-conv`, `composed`): any k will do, 0 too;
- a Conv with weight V (form `folded`): weight V / k for each map it reads;
- a ReduceMean over maps (form `taps`): the Conv 1x1 with weights 1 / (c k), which is the mean of y' / k.

What dividing costs. In floating point V / k and k y have the relative error of one rounding each whatever k is, so in
fp32 a small k does no harm before 1e-38. In fp16 it does: y' = k y sinks below the smallest normal number, 6e-5, and
then carries an absolute error of 3e-8, which the division makes 3e-8 / k of y. With a largest |k| of 1 or more, as
trained networks have (nine of them: 2.5 to 66), `SMALLEST` = 1e-3 of it keeps that at 3e-5, a tenth of the rounding of
values near 1 (5e-4), and the divided weights in the range of fp16; their smallest |k| was 2e-2 of the largest. One map
whose k is smaller, or 0, leaves the whole BatchNormalization where it is, in any precision: one form is one graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from sattn_edge.graph import Graph, attribute, replace_nodes
from sattn_edge.passes.base import NearMiss, PassReport
from sattn_edge.passes.block import Array, conv_weights, scale_and_shift

Dtype = np.dtype[np.floating[Any]]
SMALLEST = 1e-3
"""Smallest |k| that is divided by, as a part of the largest."""


class FoldBatchNorm:
    """Folds BatchNormalization after a gated or plain convolution into the convolution's weights."""

    name = "fold-batch-norm"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: its constants are known, and it reads a conv or the product of a conv and a gate.

        Rule 2: the conv's result and the product have no other readers than the gate. Rule 3: the gate reads the
        conv's result not at all, by a Conv, or by a ReduceMean over maps. Rule 4: where it does, no |k| is below
        `SMALLEST` of the largest.
        """
        graph = Graph(model, shapes=True)
        norms = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
        found = [(norm, _match(graph, norm)) for norm in norms]
        misses = tuple(NearMiss(norm.name, fold) for norm, fold in found if isinstance(fold, str))
        folds = [fold for _, fold in found if not isinstance(fold, str)]
        names = tuple(fold.norm.name for fold in folds)
        for fold in folds:
            _apply(graph, fold)
        replace_nodes(model, [([fold.norm], None) for fold in folds if not fold.gated])
        return PassReport(self.name, len(folds), names, misses)


@dataclass(frozen=True, eq=False)
class _Fold:
    """A BatchNormalization, the conv it goes into, what else reads that conv; k and shift [c] float64."""

    norm: NodeProto
    conv: NodeProto
    readers: tuple[NodeProto, ...]
    gated: bool
    k: Array
    shift: Array


def _match(graph: Graph, norm: NodeProto) -> _Fold | str:
    """How a BatchNormalization is folded, or why it is not."""
    if any(graph.constant(name) is None for name in norm.input[1:]):
        return "its constants are computed"
    if attribute(norm, "training_mode", 0) or len(norm.output) > 1:
        return "it is set to training"
    value = norm.input[0]
    source = graph.producers.get(value)
    if source is None or source.op_type not in ("Conv", "Mul"):
        return f"it reads {'the input' if source is None else source.op_type}, not a convolution or a gate's product"
    if graph.only_reader(value) is not norm:
        return "something else reads what it normalises"
    if source.op_type == "Conv":
        return _match_conv(graph, norm, source, None)
    first, second = source.input
    convs = [graph.producers.get(name) for name in (first, second) if first != second]
    results = [_match_conv(graph, norm, n, source) for n in convs if n is not None and n.op_type == "Conv"]
    if not results:
        return "it reads a product, but not of a convolution and a gate"
    return next((fold for fold in results if not isinstance(fold, str)), results[0])


def _match_conv(graph: Graph, norm: NodeProto, conv: NodeProto, multiply: NodeProto | None) -> _Fold | str:
    """Rules 2 to 4 for one convolution, gated where there is a `multiply`."""
    value, (k, shift) = conv.output[0], scale_and_shift(graph, norm)
    if any(graph.constant(name) is None for name in conv.input[1:] if name):
        return f"the weights of '{conv.name}' are computed"
    shapes = [graph.shapes.get(name, ()) for name in (value, norm.input[0])]
    if any(len(shape) != 4 or shape[1] != len(k) for shape in shapes):
        return f"'{conv.name}' gives {list(shapes[0])}, not [batch, {len(k)}, time, channels]"
    target = norm if multiply is None else multiply
    readers = tuple(node for node in graph.consumers[value] if node is not target)
    if value in graph.outputs:
        return f"'{conv.name}' is an output of the graph"
    if other := next((node for node in readers if not _can_divide(graph, node, value)), None):
        return f"'{other.name}' ({other.op_type}) reads '{conv.name}' too, and can't be divided by the scale"
    if readers and (reason := _too_small(k)):
        return reason
    return _Fold(norm, conv, readers, multiply is not None, k, shift)


def _can_divide(graph: Graph, node: NodeProto, value: str) -> bool:
    if node.op_type == "Conv":
        group, weight = attribute(node, "group", 1), graph.constant(node.input[1])
        return group == 1 and weight is not None and value not in node.input[1:]
    axes, keep = attribute(node, "axes", []), attribute(node, "keepdims", 1)
    return node.op_type == "ReduceMean" and list(axes) in ([1], [-3]) and keep == 1


def divides(k: Array) -> bool:
    """Whether what was scaled by k [c] can be divided by it again: no |k| is too small beside the largest."""
    size = np.abs(k)
    return bool(size.min() > 0 and size.min() >= SMALLEST * size.max())


def _too_small(k: Array) -> str:
    if divides(k):
        return ""
    size = np.abs(k)
    at = int(size.argmin())
    return (
        f"the gate reads the map and would be divided by the scale, which is {k[at]:.3g} for map {at} "
        f"and up to {size.max():.3g} for others"
    )


def _apply(graph: Graph, fold: _Fold) -> None:
    """Changes the nodes in place: they may stand in other folds too."""
    dtype = _dtype(graph, fold.conv)
    _scale(graph, fold.conv, fold.k, None if fold.gated else fold.shift)
    for reader in fold.readers:
        _divide(graph, reader, fold.k, dtype)
    if not fold.gated:
        fold.conv.output[0] = fold.norm.output[0]
        return
    shift = graph.add_constant(f"{fold.norm.name}.shift", fold.shift.reshape(1, -1, 1, 1).astype(dtype))
    inputs = [fold.norm.input[0], shift]
    fold.norm.CopyFrom(helper.make_node("Add", inputs, list(fold.norm.output[:1]), name=fold.norm.name))


def _scale(graph: Graph, conv: NodeProto, k: Array, shift: Array | None) -> None:
    """Rows of the weight and of the bias times k; the bias plus shift."""
    (weight, bias), dtype = conv_weights(graph, conv), _dtype(graph, conv)
    has_bias = len(conv.input) > 2 and bool(conv.input[2])
    new = [graph.add_constant(f"{conv.name}.weight", (weight * k.reshape(-1, 1, 1, 1)).astype(dtype))]
    if has_bias or shift is not None:
        new.append(graph.add_constant(f"{conv.name}.bias", (bias * k + (0 if shift is None else shift)).astype(dtype)))
    del conv.input[1:]
    conv.input.extend(new)


def _divide(graph: Graph, reader: NodeProto, k: Array, dtype: Dtype) -> None:
    """Lets what reads the scaled map see the map as it was."""
    if reader.op_type == "Conv":
        weight = conv_weights(graph, reader)[0] / k.reshape(1, -1, 1, 1)
        reader.input[1] = graph.add_constant(f"{reader.name}.weight", weight.astype(dtype))
        return
    weight = (1 / (len(k) * k)).reshape(1, -1, 1, 1)
    inputs = [reader.input[0], graph.add_constant(f"{reader.name}.weight", weight.astype(dtype))]
    conv = helper.make_node("Conv", inputs, list(reader.output), name=reader.name, kernel_shape=[1, 1])
    reader.CopyFrom(conv)


def _dtype(graph: Graph, conv: NodeProto) -> Dtype:
    weight = graph.constant(conv.input[1])
    if weight is None:
        raise ValueError(f"the weights of '{conv.name}' are computed")
    return weight.dtype
