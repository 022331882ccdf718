"""What a step graph keeps from one step to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from sattn_edge.graph import Graph


@dataclass(frozen=True, eq=False)
class State:
    """A state: its name among the graph's inputs, and what it begins with: zeros, or the level that stands for 0."""

    name: str
    begin: NDArray[np.generic]


def states_of(model: ModelProto) -> tuple[State, ...]:
    """The states of a step graph, in the order of its inputs and outputs."""
    graph, found = Graph(model), []
    for row in list(model.graph.input)[1:]:
        tensor = row.type.tensor_type
        shape = [d.dim_value for d in tensor.shape.dim]
        begin = np.full(shape, _level_of_zero(graph, row.name), helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        found.append(State(row.name, begin))
    return tuple(found)


def _level_of_zero(graph: Graph, state: str) -> int:
    """The zero point of the QuantizeLinear whose values a state keeps, 0 where it keeps numbers."""
    for join in graph.consumers[state]:
        made = graph.producers.get(join.input[1]) if join.op_type == "Concat" else None
        zero = graph.constant(made.input[2]) if made is not None and made.op_type == "QuantizeLinear" else None
        if zero is not None:
            return int(zero.reshape(-1)[0])
    return 0
