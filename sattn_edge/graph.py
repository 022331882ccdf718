"""Reading and rewiring a plain ONNX graph: who makes a value, who reads it, what shape it has.

A `Graph` is a view that indexes a model once; a pass that changes wiring makes a fresh one afterwards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Shape = tuple[int | None, ...]


class Graph:
    """Producers, consumers, constants and shapes of a model's main graph."""

    def __init__(self, model: ModelProto, *, shapes: bool = False) -> None:
        self.model = model
        self.proto = model.graph
        self.initializers: dict[str, TensorProto] = {t.name: t for t in self.proto.initializer}
        self.producers: dict[str, NodeProto] = {o: n for n in self.proto.node for o in n.output if o}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.proto.node:
            for name in node.input:
                if name:
                    self.consumers[name].append(node)
        self.outputs = {o.name for o in self.proto.output}
        self.shapes: dict[str, Shape] = value_shapes(model) if shapes else {}

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of an initializer or of a Constant node that holds a tensor, None for anything computed."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.producers.get(name)
        tensor = attribute(node, "value") if node is not None and node.op_type == "Constant" else None
        return None if tensor is None else numpy_helper.to_array(tensor)

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a value, None if there are others or the value leaves the graph."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def fresh(self, base: str) -> str:
        """A value name nobody uses yet, `base` where that is free."""
        used = {*self.initializers, *self.producers, *(i.name for i in self.proto.input)}
        name, i = base, 0
        while name in used:
            i += 1
            name = f"{base}_{i}"
        return name

    def add_constant(self, base: str, value: NDArray[Any]) -> str:
        """Adds an initializer and returns its name."""
        tensor = numpy_helper.from_array(np.asarray(value, order="C"), self.fresh(base))
        self.proto.initializer.append(tensor)
        self.initializers[tensor.name] = tensor
        return tensor.name

    def rename(self, old: str, new: str) -> None:
        """Every reader of `old` reads `new` instead; outputs of the graph keep their names."""
        for node in self.proto.node:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value, `default` where the node does not carry it."""
    for row in node.attribute:
        if row.name == name:
            return helper.get_attribute_value(row)
    return default


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Sets or replaces an attribute; None takes it away."""
    kept = [row for row in node.attribute if row.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def value_shapes(model: ModelProto) -> dict[str, Shape]:
    """Inferred shapes of all values; None for a dimension that is not a number."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    rows = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    shapes = {row.name: _shape(row.type.tensor_type) for row in rows if row.type.tensor_type.HasField("shape")}
    shapes.update({t.name: tuple(t.dims) for t in model.graph.initializer})
    return shapes


def _shape(tensor: onnx.TypeProto.Tensor) -> Shape:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def opset_of(model: ModelProto) -> int:
    """The version of the default ONNX domain a model is written in."""
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def replace_nodes(model: ModelProto, swaps: Sequence[tuple[Sequence[NodeProto], NodeProto | None]]) -> None:
    """Takes groups of nodes out of the main graph; a new node stands where the last of its group stood.

    Nodes are told by identity, and the list is written anew: nodes held from before must not be used afterwards.
    """
    places = {id(group[-1]): new for group, new in swaps}
    gone = {id(node) for group, _ in swaps for node in group}
    kept = []
    for node in model.graph.node:
        new = places.get(id(node))
        if new is not None:
            kept.append(new)
        elif id(node) not in gone:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def insert_nodes(model: ModelProto, before: Sequence[tuple[NodeProto, Sequence[NodeProto]]]) -> None:
    """Puts new nodes in front of given ones, in the order given. Nodes held from before must not be used afterwards."""
    places: dict[int, list[NodeProto]] = defaultdict(list)
    for node, new in before:
        places[id(node)].extend(new)
    kept = [one for node in model.graph.node for one in (*places.get(id(node), ()), node)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
