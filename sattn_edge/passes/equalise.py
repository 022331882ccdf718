"""Evens out the feature maps that one INT8 range has to hold.

    BN(gamma, beta) -> Relu -> Conv(W)   =>   BN(gamma / f, beta / f) -> Relu -> Conv(W * f)

with one factor f > 0 for each feature map c between them. Relu is positively homogeneous, so
relu(v_c / f_c) * f_c = relu(v_c): the product sums the same terms, and the graph computes what it did. What changes
is the range of each map: a large one is made smaller and its weights larger, so that one scale for all maps wastes
fewer of its 256 levels. The gate stands in front of BatchNormalization and sees nothing of it.

Cross-layer equalisation: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
2019; choosing factors from activations and weights together: Xiao et al., "SmoothQuant", 2023.

Rule 1: between BatchNormalization and the product stand only Relu, and nothing else reads either.
Rule 2: the product is a Conv with constant weights and group 1, or BatchNormalization has one map per input of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto

from sattn_edge.graph import Graph, attribute
from sattn_edge.passes.base import NearMiss, PassReport


class Equalise:
    """Divides the maps that feed a product by its factors. `factors`: name of the product -> one per map."""

    name = "equalise"

    def __init__(self, factors: Mapping[str, Sequence[float]]) -> None:
        self._factors = {name: np.asarray(row, np.float64) for name, row in factors.items() if len(row)}

    def __call__(self, model: ModelProto) -> PassReport:
        """Changes gamma and beta of the BatchNormalization and the weights of the product."""
        graph = Graph(model)
        details, misses = [], []
        for conv in [n for n in model.graph.node if n.name in self._factors]:
            found = equalisable(graph, conv)
            if isinstance(found, str):
                misses.append(NearMiss(conv.name, found))
                continue
            factors = self._factors[conv.name]
            maps = graph.constant(found.input[1])
            if maps is None or maps.shape != factors.shape:
                misses.append(NearMiss(conv.name, f"there are {len(factors)} factors for its maps"))
                continue
            _scale(graph, found, 1, 1 / factors)
            _scale(graph, found, 2, 1 / factors)
            _scale(graph, conv, 1, factors.reshape(1, -1, 1, 1))
            details.append(f"{conv.name}: {len(factors)} maps divided by {factors.min():.3g} to {factors.max():.3g}")
        return PassReport(self.name, len(details), tuple(details), tuple(misses))


def equalisable(graph: Graph, conv: NodeProto) -> NodeProto | str:
    """The BatchNormalization whose maps can be scaled for this product, or why there is none."""
    if conv.op_type != "Conv" or attribute(conv, "group", 1) != 1 or graph.constant(conv.input[1]) is None:
        return "it is not a convolution over all maps with constant weights"
    relu = graph.producers.get(conv.input[0])
    if relu is None or relu.op_type != "Relu":
        return f"its input comes from {'the graph' if relu is None else relu.op_type}, not from Relu"
    norm = graph.producers.get(relu.input[0])
    if norm is None or norm.op_type != "BatchNormalization":
        return "there is no BatchNormalization in front of its Relu"
    if graph.only_reader(relu.output[0]) is not conv or graph.only_reader(norm.output[0]) is not relu:
        return "something else reads its input"
    if any(graph.constant(name) is None for name in norm.input[1:]):
        return "the BatchNormalization in front of it is computed"
    return norm


def _scale(graph: Graph, node: NodeProto, place: int, by: np.ndarray) -> None:
    """Multiplies a constant input, in a constant of its own: another node may share the old one."""
    value = graph.constant(node.input[place])
    if value is None:
        raise ValueError(f"'{node.input[place]}' is computed")
    node.input[place] = graph.add_constant(f"{node.input[place]}.equalised", (value * by).astype(value.dtype))
