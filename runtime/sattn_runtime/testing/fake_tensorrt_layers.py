"""The layers an engine of the fake says it has, made up from its graph.

One layer for each product (Conv, Gemm, MatMul), with the element type that its data come in, and one for each run of
other nodes between two products. Of the DequantizeLinear nodes in front of a product only their input is seen: the
product takes what they took. How a text of them looks is in `fake_tensorrt_inspector`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from sattn_runtime.testing.fake_tensorrt_plan import PRODUCTS, Header, Shape

NAMES: dict[int, str] = {
    TensorProto.FLOAT: "Float",
    TensorProto.FLOAT16: "Half",
    TensorProto.INT8: "Int8",
    TensorProto.UINT8: "UInt8",
    TensorProto.INT32: "Int32",
    TensorProto.INT64: "Int64",
    TensorProto.BOOL: "Bool",
}
_KINDS = {"Conv": "correlation", "Gemm": "gemm", "MatMul": "gemm"}
_MOST_WORDS = 8


@dataclass(frozen=True)
class Tensor:
    """One input or output of a layer; dtype as in NAMES, a free axis is -1."""

    name: str
    dims: Shape
    dtype: str


@dataclass(frozen=True)
class Layer:
    """One layer; nodes are the names of the ONNX nodes it computes."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    nodes: tuple[str, ...] = ()


def interface(info: ValueInfoProto) -> Tensor:
    """An input or output of a graph."""
    kind = info.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return Tensor(info.name, dims, NAMES.get(kind.elem_type, "Float"))


def inputs_of(model: ModelProto) -> list[Tensor]:
    """Inputs that are no constants."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [interface(info) for info in model.graph.input if info.name not in constants]


def outputs_of(model: ModelProto) -> list[Tensor]:
    """Outputs."""
    return [interface(info) for info in model.graph.output]


class Layers:
    """Makes the layers of one graph."""

    def __init__(self, model: ModelProto, header: Header, *, single: bool = False) -> None:
        """single: every layer says float32, whatever it was asked for."""
        self._model, self._header, self._single = onnx.shape_inference.infer_shapes(model), header, single
        graph = self._model.graph
        self._nodes = list(graph.node)
        self._made = {name: node for node in self._nodes for name in node.output}
        self._constants = {tensor.name for tensor in graph.initializer}
        self._ends = {info.name for info in (*graph.input, *graph.output)}
        self._values = {info.name: interface(info) for info in (*graph.value_info, *graph.input, *graph.output)}

    def make(self) -> tuple[Layer, ...]:
        """All layers in order. TensorRT-RTX has one more for a graph with a free axis, which computes shapes."""
        free = any(size < 0 for tensor in inputs_of(self._model) for size in tensor.dims)
        made = [Layer("__mye_shapes_myl0_0", "shape_call")] if free and self._header.module == "tensorrt_rtx" else []
        unpacked = {each.output[0] for node in self._nodes for each in self._unpacked(node)}
        rest = [node for node in self._nodes if node.output[0] not in unpacked]
        for product, nodes in groupby(rest, key=lambda node: node.op_type in PRODUCTS):
            run = list(nodes)
            made += [self._product(node) for node in run] if product else [self._run(run)]
        return tuple(_numbered(made))

    def _unpacked(self, node: NodeProto) -> list[NodeProto]:
        """The DequantizeLinear nodes right in front of a product."""
        before = [self._made.get(name) for name in node.input] if node.op_type in PRODUCTS else []
        return [each for each in before if each is not None and each.op_type == "DequantizeLinear"]

    def _product(self, node: NodeProto) -> Layer:
        unpacked = self._unpacked(node)
        packed = next((each.input[0] for each in unpacked if each.output[0] == node.input[0]), None)
        data = self._tensor(node.input[0], packed)
        nodes = (node.name, *(each.name for each in unpacked))
        return Layer(node.name, _KINDS[node.op_type], (data,), (self._tensor(node.output[0]),), nodes)

    def _run(self, nodes: list[NodeProto]) -> Layer:
        made = _once(name for node in nodes for name in node.output)
        taken = _once(name for node in nodes for name in node.input if name and name not in self._constants)
        others = [node for node in self._nodes if node.output[0] not in made]
        wanted = {name for node in others for name in node.input} | self._ends
        words = "".join(node.op_type[:4] for node in nodes[:_MOST_WORDS]) + "Etc" * (len(nodes) > _MOST_WORDS)
        return Layer(
            f"__myl_{words}",
            "kgen",
            tuple(self._tensor(name) for name in taken if name not in made),
            tuple(self._tensor(name) for name in made if name in wanted),
            tuple(node.name for node in nodes),
        )

    def _tensor(self, name: str, packed: str | None = None) -> Tensor:
        """A value, or where it was quantised the quantised one, in the type that this engine has it in."""
        value = self._values.get(packed or name) or Tensor(packed or name, (), "Float")
        return Tensor(value.name, value.dims, self._dtype(value, packed is not None))

    def _dtype(self, value: Tensor, packed: bool) -> str:
        if value.dtype not in ("Float", "Half", "Int8"):
            return value.dtype
        if self._single:
            return "Float"
        if self._header.strongly_typed or value.name in self._ends:
            return value.dtype
        # Where flags tell, what is typed in the graph does not: FP16 anywhere. INT8 where it is quantised, since a
        # quantised graph is not built without that flag.
        if packed or value.dtype == "Int8":
            return "Int8"
        return "Half" if "FP16" in self._header.flags else "Float"


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _numbered(layers: list[Layer]) -> list[Layer]:
    return [
        Layer(f"{layer.name}_myl0_{i}", layer.kind, layer.inputs, layer.outputs, layer.nodes) if layer.nodes else layer
        for i, layer in enumerate(layers)
    ]
