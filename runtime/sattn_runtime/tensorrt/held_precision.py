"""In what precision an engine computes its products, against what was asked of it.

A compiler may keep a product in float32 that was meant to be faster, and the logits then only get better: nothing
else would tell. So each main product (Conv, ConvTranspose, Gemm, MatMul with constant weights, the classifier among
them, the convolutions of a gate not) is looked up in the list of kernels, and the type of what it reads there is
compared with the graph.

    typed graphs (TensorRT 10 and newer, RTX)   what the graph types, the engine holds: every product
    flags (TensorRT 8.6)                        the builder may choose, so one product is enough

Some kernels don't tell: a region compiled as a whole, a kernel that converts what it reads, a list of names alone.
Their products are left out, and where none is told nothing is claimed (`told` is False).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from sattn_edge.graph import Graph
from sattn_runtime.tensorrt.blocks import PRODUCTS, find_lowered_blocks
from sattn_runtime.tensorrt.fusion import kernels_of, node_name
from sattn_runtime.tensorrt.layers import EngineLayer, EngineTensor

_NUMPY = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
_POINTWISE = ("kgen", "PointWise", "ElementWise", "Reformat", "NoOp", "Shuffle", "Scale", "Cast", "Constant", "Unary")
_CONVERSIONS = ("Cast", "QuantizeLinear")
_UNWRITTEN = ("Relu", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Pad", "Gather", "Slice")


@dataclass(frozen=True)
class HeldPrecision:
    """What an engine's products read. `inputs`: node name -> type, "" where the engine does not tell.

    wrong: what it holds instead of what was asked, "" where nothing contradicts. told: whether anything was to be
    seen at all.
    """

    inputs: Mapping[str, str]
    wrong: str

    @property
    def told(self) -> bool:
        """Whether the list of kernels tells the type of at least one product."""
        return any(self.inputs.values())


def product_inputs(model: ModelProto, layers: Sequence[EngineLayer]) -> dict[str, str]:
    """Main products of a lowered graph -> type of their input in the kernel that computes them, "" if not told."""
    graph = Graph(model, shapes=True)
    return _inputs(graph, main_products(model, graph), layers)


def _inputs(graph: Graph, products: Sequence[NodeProto], layers: Sequence[EngineLayer]) -> dict[str, str]:
    return {node_name(node): _read_type(graph, node, products, layers) for node in products}


def holds(model: ModelProto, layers: Sequence[EngineLayer], precision: str, *, typed: bool) -> str:
    """What an engine holds instead of the precision asked (fp32, fp16, int8), "" where nothing contradicts it."""
    return held_precision(model, layers, precision, typed=typed).wrong


def held_precision(model: ModelProto, layers: Sequence[EngineLayer], precision: str, *, typed: bool) -> HeldPrecision:
    """Compares an engine with the lowered graph it was made of.

    typed: types are the graph's (False: TensorRT 8.6, where float16 is a flag and the graph is float32).

    Raises:
        KeyError: no such precision; a bug of ours.
    """
    asked, graph = _NUMPY[precision], Graph(model, shapes=True)
    products = main_products(model, graph)
    inputs = _inputs(graph, products, layers)
    wanted = [node_name(node) for node in _wanted(graph, products, asked, typed)]
    if precision != "fp32" and not wanted:
        return HeldPrecision(inputs, _nothing_to_hold(precision))
    told = {name: inputs[name] for name in wanted if inputs[name]}
    off = {name: found for name, found in told.items() if found != asked}
    enough = precision != "fp32" and not typed and len(off) < len(told)
    return HeldPrecision(inputs, "" if enough or not off else _words(off, len(told), asked))


def main_products(model: ModelProto, graph: Graph) -> list[NodeProto]:
    """Products with constant weights, in graph order, but those that are a part of a gate."""
    blocks = find_lowered_blocks(model)
    gates = {node.output[0] for block in blocks for role in ("stencil", "pool") for node in block.roles.get(role, ())}
    return [
        node
        for node in model.graph.node
        if node.op_type in PRODUCTS and node.output[0] not in gates and _is_weight(graph, node.input[1])
    ]


def _is_weight(graph: Graph, name: str) -> bool:
    """Whether a value is a constant, through DequantizeLinear and Cast."""
    while graph.constant(name) is None:
        node = graph.producers.get(name)
        if node is None or node.op_type not in ("DequantizeLinear", "Cast"):
            return False
        name = node.input[0]
    return True


def _wanted(graph: Graph, products: Sequence[NodeProto], asked: str, typed: bool) -> Sequence[NodeProto]:
    """The products that are to read the asked type."""
    if asked == "int8":
        return [node for node in products if _is_dequantized(graph, node.input[0])]
    if asked == "float16" and typed:
        half = _half_values(graph.model)
        return [node for node in products if node.input[0] in half]
    return products


def _is_dequantized(graph: Graph, value: str) -> bool:
    node = graph.producers.get(value)
    return node is not None and node.op_type == "DequantizeLinear"


def _half_values(model: ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    rows = [*inferred.input, *inferred.value_info, *inferred.output]
    return {row.name for row in rows if row.type.tensor_type.elem_type == TensorProto.FLOAT16}


def _read_type(graph: Graph, node: NodeProto, products: Sequence[NodeProto], layers: Sequence[EngineLayer]) -> str:
    """The type of what a product reads. A product may also be named by the kernel that scales its sums: int8."""
    places = sorted(kernels_of(node, layers))
    computing = [i for i in places if not layers[i].kind.startswith(_POINTWISE)] or places
    if not computing:
        return ""
    layer = layers[computing[0]]
    others = [one for one in products if node_name(one) in layer.nodes and one.input[0] != node.input[0]]
    if others or _converts(graph, node.input[0], layer):
        return ""
    return _type_of(layer.inputs, _elements(graph.shapes.get(node.input[0], ())))


def _type_of(inputs: Sequence[EngineTensor], elements: int) -> str:
    """The type of the input that has as many elements as the product reads: a kernel that also scales by the gate
    reads the gate too. Where no size fits, the type all of them have.
    """
    fitting = [tensor for tensor in inputs if tensor.dims and _elements(tensor.dims) == elements]
    types = {tensor.dtype for tensor in fitting or inputs}
    return types.pop() if len(types) == 1 else ""


def _elements(shape: Sequence[int | None]) -> int:
    """The product of the sizes that are known."""
    return math.prod(size for size in shape if size is not None and size > 0)


def _converts(graph: Graph, value: str, layer: EngineLayer) -> bool:
    """Whether a kernel makes the type its product reads of another one, which is what it lists as its input."""
    node = graph.producers.get(value)
    while node is not None and node.op_type in (*_UNWRITTEN, *_CONVERSIONS, "DequantizeLinear"):
        if node.op_type in _CONVERSIONS:
            return node_name(node) in layer.nodes
        node = graph.producers.get(node.input[0])
    return False


def _nothing_to_hold(precision: str) -> str:
    if precision == "int8":
        return "float32 or float16 throughout: no product of the graph is quantised"
    return "float32 throughout: the graph has no product that may be float16"


def _words(off: Mapping[str, str], of: int, asked: str) -> str:
    """`2 of 3 products read float32 instead of int8: conv1, conv2`."""
    found = " or ".join(sorted(set(off.values())))
    return f"{len(off)} of {of} products read {found} instead of {asked}: {', '.join(off)}"
