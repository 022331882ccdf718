"""Feature maps kept as rows while a graph is written anew in form `gemm`.

    map [b, c, t, m]  =  rows [b, t*m, c], elements in the order (t, m, c)

The same buffer seen as [b, t, m*c] or [b, t*m*c] is a Reshape away, which moves nothing. A value that some node
needs as it was comes back by Reshape and Transpose under the name it had, so that node reads it unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.graph import Graph

Tail = tuple[int, ...]
TO_ROWS, FROM_ROWS = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class Rows:
    """The value `name` [b, *tail] that holds a map [b, c, t, m] in the order (t, m, c).

    `flat`: the value it stands for is [b, c*t*m], in the order (c, t, m).
    """

    name: str
    tail: Tail
    maps: int
    time: int
    modal: int
    flat: bool = False

    @property
    def rows(self) -> Tail:
        """The tail that has one row for each time step and channel of the sensor."""
        return (self.time * self.modal, self.maps)

    @property
    def size(self) -> tuple[int, int, int]:
        """Feature maps, time steps, modal."""
        return (self.maps, self.time, self.modal)

    def at(self, name: str, tail: Tail) -> Rows:
        """Another value of the same size."""
        return replace(self, name=name, tail=tail)


class Writer:
    """The nodes of the new graph in order, and which values of the old graph exist as rows."""

    def __init__(self, graph: Graph, dtype: np.dtype[np.floating]) -> None:
        self.graph = graph
        self.values: dict[str, Rows] = {}
        self._dtype = dtype
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._views: dict[tuple[str, Tail], str] = {}
        self._gone: set[str] = set()

    def add(self, op_type: str, inputs: Sequence[str], name: str, output: str = "", **attributes: Any) -> str:
        """Writes a node with one output; returns that value's name, `output` or the node's own name."""
        value = self.graph.fresh(output or name)
        self._write(helper.make_node(op_type, list(inputs), [value], name=name, **attributes))
        return value

    def split(self, value: str, widths: Sequence[int], name: str) -> list[str]:
        """Cuts a value's last axis (axis 2) into pieces."""
        outputs = [self.graph.fresh(f"{name}.{i}") for i in range(len(widths))]
        self._write(helper.make_node("Split", [value, self.integers(f"{name}.widths", widths)], outputs, name, axis=2))
        return outputs

    def constant(self, name: str, value: float | NDArray[np.float64]) -> str:
        """A number or an array as an initializer in the graph's own float type."""
        return self._constant(name, np.asarray(value, self._dtype, order="C"))

    def integers(self, name: str, value: Sequence[int] | NDArray[np.int64]) -> str:
        """Integers as an initializer."""
        return self._constant(name, np.asarray(value, np.int64, order="C"))

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        tensor = numpy_helper.from_array(value, self.graph.fresh(name))
        self.graph.initializers[tensor.name] = tensor
        self._constants.append(tensor)
        return tensor.name

    def _write(self, node: NodeProto) -> None:
        self._nodes.append(node)
        self.graph.producers.update({value: node for value in node.output if value})

    def replaces(self, value: str, rows: Rows) -> None:
        """From here on the old graph's `value` exists as rows only."""
        self.values[value] = rows
        self._gone.add(value)

    def view(self, rows: Rows, tail: Tail) -> str:
        """The same buffer as [b, *tail], reshaped once however often it is asked for."""
        if tail == rows.tail:
            return rows.name
        key = (rows.name, tail)
        if key not in self._views:
            name = f"{rows.name}.as_{'x'.join(map(str, tail))}"
            self._views[key] = self.reshape(rows.name, tail, name)
        return self._views[key]

    def reshape(self, value: str, tail: Tail, name: str) -> str:
        """Any value as [b, *tail], the batch left open."""
        return self.add("Reshape", [value, self.integers(f"{name}.shape", (-1, *tail))], name)

    def to_rows(self, value: str, size: tuple[int, int, int]) -> Rows:
        """A value of the old graph as rows, readable as it is too. One plane needs no Transpose."""
        if value not in self.values:
            maps, time, modal = size
            source = value if maps == 1 else self.add("Transpose", [value], f"{value}.transposed", perm=TO_ROWS)
            tail = (time * modal, maps)
            name = self.reshape(source, tail, f"{value}.rows")
            self.values[value] = Rows(name, tail, maps, time, modal)
        return self.values[value]

    def restore(self, value: str) -> None:
        """Makes a value of the old graph readable again where it exists as rows only."""
        if value not in self._gone:
            return
        self._gone.discard(value)
        rows = self.values[value]
        if rows.flat and rows.maps == 1:  # the order (t, m) is that of one plane
            shape = self.integers(f"{value}.flat.shape", (-1, rows.time * rows.modal))
            self._restored("Reshape", [rows.name, shape], value, f"{value}.flat")
            return
        source = self.view(rows, (rows.time, rows.modal, rows.maps))
        if not rows.flat:
            self._restored("Transpose", [source], value, f"{value}.from_rows", perm=FROM_ROWS)
            return
        ordered = self.add("Transpose", [source], f"{value}.from_rows", perm=FROM_ROWS)
        shape = self.integers(f"{value}.from_rows.shape", (-1, rows.maps * rows.time * rows.modal))
        self._restored("Reshape", [ordered, shape], value, f"{value}.flat")

    def _restored(self, op_type: str, inputs: Sequence[str], value: str, name: str, **attributes: Any) -> None:
        self._write(helper.make_node(op_type, list(inputs), [value], name=name, **attributes))

    def keep(self, node: NodeProto, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> None:
        """Writes a node of the old graph, as it is or with other inputs and outputs."""
        copy = NodeProto()
        copy.CopyFrom(node)
        if inputs:
            copy.input[:] = inputs
        if outputs:
            copy.output[:] = outputs
        for value in copy.input:
            self.restore(value)
        self._write(copy)

    def commit(self, model: ModelProto) -> None:
        """Puts the new nodes into the model, with the constants they read and no others."""
        for output in model.graph.output:
            self.restore(output.name)
        read = {value for node in self._nodes for value in node.input} | {o.name for o in model.graph.output}
        kept = [t for t in (*model.graph.initializer, *self._constants) if t.name in read]
        nodes = _named_apart(self._nodes)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(kept)


def _named_apart(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Nodes no two of which have a name in common: what is written may be called like a node that was kept."""
    taken = {""}
    for node in nodes:
        name, i = node.name, 0
        while name and name in taken:
            i += 1
            name = f"{node.name}_{i}"
        node.name = name
        taken.add(name)
    return list(nodes)
