"""What a device that keeps float16 between nodes computes, node by node, on any machine's CPU.

    conv(f16) -> y(f16) -> add     =>  conv(f32) -> Cast f16 -> Cast f32 -> y -> add
                                                                            y -> Abs -> largest, sum

ONNX Runtime's CPU can't say it: it computes whole chains of a float16 graph in float32, where 1000 * 300 / 250 is 1200
and not inf. Here every value typed float16 is computed in float32 from float16 inputs and then rounded to float16,
which for one addition, multiplication or division is the correctly rounded float16 result. Sums inside one node
(convolutions, matrix products, means) are added up in float32, as tensor cores do. Nodes typed float32 stay float32.

Nodes that only move values need no rounding: what they move is rounded already. Of every other float16 value the
largest magnitude is kept, so that an inf is found even where a sigmoid or a ReLU hides it from the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.engine_onnxruntime import session
from sattn_edge.graph import Graph, attribute, set_attribute
from sattn_edge.passes.half import MOVES
from sattn_edge.passes.half_typing import element_types, in_half

LARGEST = 65504.0
_FLOAT, _FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


@dataclass(frozen=True)
class HalfRun:
    """What came out of an emulated run.

    logits float32 [n, classes]; `overflow` names the nodes that made an inf or NaN in float16 out of finite values,
    in graph order; `largest` has the largest magnitude of every node that computes in float16 (inf where it left the
    range); `gates` float32 [n, values] where the graph gives its attention.
    """

    logits: NDArray[np.float32]
    overflow: tuple[str, ...]
    largest: dict[str, float]
    gates: NDArray[np.float32] | None = None

    @property
    def headroom(self) -> float:
        """How many times larger the largest value could be before it overflows; inf where nothing is float16."""
        top = max(self.largest.values(), default=0.0)
        return LARGEST / top if top else np.inf


def emulate(model: ModelProto, x: NDArray[np.float32], batch: int = 32, threads: int = 1) -> HalfRun:
    """Runs windows float32 [n, 1, series, modal] through a graph typed by `Half`, `batch` at a time.

    A model whose batch is fixed gets chunks of that size. Raises ValueError for no windows and for a model with
    functions: bugs of the caller.
    """
    if model.functions or not len(x):
        raise ValueError("no windows" if not len(x) else "functions must be inlined before a graph is emulated")
    plan = _Plan(model)
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    size = first.dim_value if first.HasField("dim_value") else min(batch, len(x))
    run = session(plan.model.SerializeToString(), model.graph.name, threads, optimise=False)
    given, overflow, largest = [], set(), dict.fromkeys(plan.labels.values(), 0.0)
    count = len(model.graph.output)  # what is watched stands behind the graph's own outputs
    for start in range(0, len(x), size):
        chunk = x[start : start + size]
        out = run.run(None, {model.graph.input[0].name: plan.feed(_filled(chunk, size, first.HasField("dim_value")))})
        given.append([values[: len(chunk)] for values in out[:count]])
        seen = dict(zip(plan.watched, np.asarray(out[count:], np.float64).reshape(-1, 2), strict=True))
        overflow |= plan.broken(chunk, {name: bool(np.isfinite(row).all()) for name, row in seen.items()})
        for name, (top, total) in seen.items():
            label = plan.labels[name]
            largest[label] = max(largest[label], float(top) if np.isfinite(total) else np.inf)
    order = [label for label in plan.labels.values() if label in overflow]
    logits, *gates = [np.concatenate(parts) for parts in zip(*given, strict=True)]
    return HalfRun(logits, tuple(dict.fromkeys(order)), largest, gates[0] if gates else None)


def _filled(chunk: NDArray[np.float32], size: int, fixed: bool) -> NDArray[np.float32]:
    """A last chunk that a fixed batch is too large for, filled up with its last window."""
    if not fixed or len(chunk) == size:
        return chunk
    return np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])


class _Plan:
    """The graph in float32 with every float16 value rounded, and what is watched in it."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self._types = element_types(model)
        self._source = model.graph
        self.labels = self._labels()
        self.watched = list(self.labels)
        self._write()

    def feed(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The input as the graph gets it."""
        half = self._types[self._source.input[0].name] == _FLOAT16
        return in_half(x).astype(np.float32) if half else x

    def broken(self, x: NDArray[np.float32], finite: Mapping[str, bool]) -> set[str]:
        """Labels of the values that are not finite though everything they were computed from is."""
        good = {self._source.input[0].name: bool(np.isfinite(self.feed(x)).all())}
        found = set()
        for node in self._source.node:
            inputs = all(good.get(name, True) for name in node.input)
            for name in node.output:
                good[name] = finite.get(name, inputs)
                if inputs and not good[name]:
                    found.add(self.labels[name])
        return found

    def _labels(self) -> dict[str, str]:
        """Every watched value with the name its node has in reports: the node's own, the value's if it has none."""
        rows = [(node, name) for node in self._source.node for name in node.output if self._computed_half(node, name)]
        return {name: node.name or name for node, name in rows}

    def _computed_half(self, node: NodeProto, value: str) -> bool:
        return bool(value) and self._types[value] == _FLOAT16 and node.op_type not in (*MOVES, "Constant")

    def _write(self) -> None:
        graph = self.model.graph
        del graph.value_info[:]
        for row in (*graph.input, *graph.output):
            if row.type.tensor_type.elem_type == _FLOAT16:
                row.type.tensor_type.elem_type = _FLOAT
        for tensor in graph.initializer:
            _to_single(tensor)
        view = Graph(self.model)
        nodes: list[NodeProto] = []
        for node in list(graph.node):
            _attributes_to_single(node)
            nodes += [node, *self._rounded(view, node)]
        del graph.node[:]
        graph.node.extend(nodes)

    def _rounded(self, view: Graph, node: NodeProto) -> list[NodeProto]:
        """The nodes behind a node: each float16 output rounded under its own name, and measured."""
        nodes = []
        for i, value in enumerate(list(node.output)):
            if value not in self.labels:
                continue
            raw, half, size = (view.fresh(f"{value}.{what}") for what in ("exact", "float16", "magnitude"))
            node.output[i] = raw
            nodes += [
                helper.make_node("Cast", [raw], [half], to=_FLOAT16),
                helper.make_node("Cast", [half], [value], to=_FLOAT),
                helper.make_node("Abs", [value], [size]),
            ]
            for what in ("ReduceMax", "ReduceSum"):
                result = view.fresh(f"{value}.{what}")
                nodes.append(helper.make_node(what, [size], [result], keepdims=0))
                self.model.graph.output.append(helper.make_tensor_value_info(result, _FLOAT, []))
        return nodes


def _to_single(tensor: TensorProto) -> None:
    if tensor.data_type == _FLOAT16:
        value = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _attributes_to_single(node: NodeProto) -> None:
    """Tensors in attributes to float32. A cast to float16 becomes one to float32: the rounding is behind it."""
    for row in node.attribute:
        if row.type == AttributeProto.TENSOR:
            _to_single(row.t)
    for key in ("to", "output_dtype"):
        if attribute(node, key) == _FLOAT16:
            set_attribute(node, key, _FLOAT)
