"""Writes the types of a graph some of whose nodes become float16: constants converted, casts where types meet.

    conv(half) -> y -> mean(single), mul(half)     =>  conv -> y -> mul
                                                               y -> Cast -> y.single -> mean
    gemm(half) -> logits (an output)               =>  gemm -> logits.half -> Cast -> logits

Rule 1: one cast serves every reader of a value that needs the other type.
Rule 2: inputs and outputs of the graph keep name and type.
Rule 3: a constant that only float16 nodes read is converted under its name; one that both read gets a float16 twin.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.graph import Graph, attribute, replace_nodes

_FLOAT, _FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def element_types(model: ModelProto) -> dict[str, int]:
    """The element type (TensorProto.DataType) of every value of the main graph.

    Raises ValueError naming a value whose type onnx's inference does not find.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    types: dict[str, int] = {t.name: t.data_type for t in model.graph.initializer}
    for row in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        types[row.name] = row.type.tensor_type.elem_type
    for node in model.graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise ValueError(f"the element type of '{name}' ({node.op_type}) is not known")
    return types


def in_half(value: NDArray[Any]) -> NDArray[np.float16]:
    """Rounded to float16, to inf where that is what float16 makes of it."""
    with np.errstate(over="ignore"):
        return value.astype(np.float16)


def lift_constants(model: ModelProto) -> None:
    """Constant nodes of floats become initializers of the same name, to be converted like them."""
    nodes, tensors = [], []
    for node in (n for n in model.graph.node if n.op_type == "Constant"):
        tensor = TensorProto()
        number = next((v for key in ("value_float", "value_floats") if (v := attribute(node, key)) is not None), None)
        if number is not None:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(number, np.float32)))
        elif (value := attribute(node, "value")) is not None:
            tensor.CopyFrom(value)
        if tensor.data_type == _FLOAT:
            tensor.name = node.output[0]
            nodes.append(node)
            tensors.append(tensor)
    model.graph.initializer.extend(tensors)
    replace_nodes(model, [([node], None) for node in nodes])


def write_types(graph: Graph, types: dict[str, int], half: list[NodeProto]) -> int:
    """Types `half` (nodes of the graph) float16 in place; returns the number of casts. The view is stale afterwards."""
    return _Typing(graph, types, {id(node) for node in half}).write()


class _Typing:
    def __init__(self, graph: Graph, types: dict[str, int], half: set[int]) -> None:
        self._graph = graph
        self._half = half
        self._floats = {name for name, kind in types.items() if kind == _FLOAT}
        self._readers: dict[str, set[bool]] = defaultdict(set)  # value -> whether its readers are float16
        for node in graph.proto.node:
            for name in node.input:
                self._readers[name].add(id(node) in half)
        for name in graph.outputs:
            self._readers[name].add(False)
        self._names: dict[tuple[str, bool], str] = {}  # (value, as float16) -> what it is called as that type

    def write(self) -> int:
        before = [cast for row in self._graph.proto.input for cast in self._cast(row.name, made_half=False)]
        constants = [name for name in self._graph.initializers if name in self._floats]
        for name in constants:
            self._constant(name)
        nodes, count = before, len(before)
        for node in list(self._graph.proto.node):
            half = id(node) in self._half
            casts = [cast for name in node.output if name in self._floats for cast in self._cast(name, made_half=half)]
            self._rename(node, half)
            nodes += [node, *casts]
            count += len(casts)
        self._note_types()
        del self._graph.proto.node[:]
        self._graph.proto.node.extend(nodes)
        return count

    def _cast(self, value: str, *, made_half: bool) -> list[NodeProto]:
        """The cast behind a value that is computed or given as one type and read as the other, if there is one."""
        if value not in self._floats:
            return []
        keeps = made_half and value not in self._graph.outputs
        other = value
        if self._readers[value] | {made_half} != {keeps}:
            other = self._graph.fresh(f"{value}.{'single' if keeps else 'half'}")
        self._names[value, keeps] = value
        self._names[value, not keeps] = other
        if other == value:
            return []
        source, target = self._names[value, made_half], self._names[value, not made_half]
        name = f"{value}.{'single' if made_half else 'half'}"
        return [helper.make_node("Cast", [source], [target], name=name, to=_FLOAT if made_half else _FLOAT16)]

    def _constant(self, name: str) -> None:
        value = numpy_helper.to_array(self._graph.initializers[name])
        self._names[name, False] = self._names[name, True] = name
        if self._readers[name] == {True}:
            self._graph.initializers[name].CopyFrom(numpy_helper.from_array(in_half(value), name))
        elif True in self._readers[name]:
            self._names[name, True] = self._graph.add_constant(f"{name}.half", in_half(value))

    def _rename(self, node: NodeProto, half: bool) -> None:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name in self._floats:
                    names[i] = self._names[name, half]

    def _note_types(self) -> None:
        """Values noted in the file that are float16 now."""
        made = {name for node in self._graph.proto.node if id(node) in self._half for name in node.output}
        for row in self._graph.proto.value_info:
            if row.name in made and row.type.tensor_type.elem_type == _FLOAT:
                row.type.tensor_type.elem_type = _FLOAT16
