"""Which values of a source graph need ranges, and what they hold over real windows: one pass in FP32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from sattn_calibration.histogram import Array, Histogram, HistogramBuilder, PerMapMaximum
from sattn_edge.cost import inlined, node_multiply_adds
from sattn_edge.engine_onnxruntime import session
from sattn_edge.errors import ModelFileError
from sattn_edge.graph import Graph
from sattn_edge.passes.quantize import output_axis

_NAME = "the network under calibration"


@dataclass(frozen=True, eq=False)
class Product:
    """A main product: a convolution or matrix product with constant weights.

    name: of its node, as it stands there. input, output: the values it reads and makes. multiply_adds: of one
    window. weight: float64; axis: the one of its output channels.
    """

    name: str
    op: str
    input: str
    output: str
    multiply_adds: int
    weight: Array
    axis: int

    @property
    def weight_maximum(self) -> Array:
        """The largest absolute weight of each output channel, float64 [o]."""
        others = tuple(i for i in range(self.weight.ndim) if i != self.axis)
        largest: Array = np.abs(self.weight).max(axis=others)
        return largest

    @property
    def terms(self) -> int:
        """How many products each sum has."""
        return int(self.weight.size // self.weight.shape[self.axis])


@dataclass(frozen=True, eq=False)
class Observation:
    """What one value held over all windows. map_minimum, map_maximum: float64 [c], of each feature map (axis 1)."""

    name: str
    histogram: Histogram
    minimum: float
    maximum: float
    map_minimum: Array
    map_maximum: Array


def main_products(model: ModelProto) -> list[Product]:
    """The main products of a source graph, in its order.

    The gates' own convolutions are inside function calls there, so they are not among them.
    """
    bare = ModelProto()
    bare.CopyFrom(model)
    bare.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1  # multiply-adds of one window
    graph = Graph(bare, shapes=True)
    return [found for node in bare.graph.node if (found := _product(graph, node)) is not None]


def _product(graph: Graph, node: NodeProto) -> Product | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
        return None
    weight = graph.constant(node.input[1])
    if weight is None or weight.ndim < 2:
        return None
    return Product(
        name=node.name,
        op=node.op_type,
        input=node.input[0],
        output=node.output[0],
        multiply_adds=node_multiply_adds(graph, node),
        weight=weight.astype(np.float64),
        axis=output_axis(node, weight.ndim),
    )


def collect(
    model: ModelProto, tensors: Sequence[str], x: NDArray[np.float32], batch: int = 16, threads: int = 1
) -> dict[str, Observation]:
    """Runs windows x float32 [n, 1, series, modal] through a source graph and observes some of its values.

    Memory does not grow with n. Each value has to be float32 [b, c, ...].

    Raises:
        ModelFileError: ONNX Runtime refuses the graph, or a value becomes infinite or not a number.
        ValueError: the graph has no such value, or there is no window.
    """
    if not len(x):
        raise ValueError("there is no window to observe")
    names = list(dict.fromkeys(tensors))
    builders = {name: (HistogramBuilder(), PerMapMaximum()) for name in names}
    for values in _run(model, names, x, batch, threads):
        for name, (counts, maps) in builders.items():
            counts.add(values[name])
            maps.add(values[name])
    return {name: _observation(name, *builders[name]) for name in names}


def _run(
    model: ModelProto, names: list[str], x: NDArray[np.float32], batch: int, threads: int
) -> Iterator[Mapping[str, NDArray[np.float32]]]:
    entry = model.graph.input[0].name
    fetched = [name for name in names if name != entry]
    opened = session(_with_outputs(model, fetched).SerializeToString(), _NAME, threads) if fetched else None
    for begin in range(0, len(x), batch):
        piece = np.ascontiguousarray(x[begin : begin + batch])
        values = opened.run(fetched, {entry: piece}) if opened is not None else []
        yield {entry: piece, **dict(zip(fetched, values, strict=True))}


def _with_outputs(model: ModelProto, names: list[str]) -> ModelProto:
    """The graph with its functions opened and these values as its outputs."""
    work = ModelProto()
    work.CopyFrom(model)
    work = inlined(work)
    known = {name for node in work.graph.node for name in node.output}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"the graph has no value '{missing[0]}'")
    del work.graph.output[:]
    work.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return work


def _observation(name: str, counts: HistogramBuilder, maps: PerMapMaximum) -> Observation:
    seen = counts.finish()
    if seen.non_finite:
        raise ModelFileError(
            _NAME,
            f"gives {seen.non_finite} infinite or undefined values in '{name}' over these windows",
            "finite values everywhere",
            "look at the windows' units, and at the network with sattn-verify",
        )
    low, high = maps.finish()
    return Observation(name, seen, seen.minimum, seen.maximum, low, high)
