"""A mutator that puts any operator of ONNX into a network, with odd inputs and attributes.

Where the other mutators break a model, this one makes models that are often valid: a checker lets them
pass, and a kernel has to cope.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from onnx import ModelProto, TensorProto, defs, helper

from sattn_edge.gate_operators import OPERATORS
from tests.fuzz.mutate_common import (
    NASTY_FLOATS,
    NASTY_INTS,
    some_name,
)


def exotic_operator(model: ModelProto, rng: random.Random) -> None:
    """Any operator of ONNX with small odd inputs and odd attributes, its output added to the logits."""
    names = rng.choice(([s.name for s in defs.get_all_schemas() if not s.domain], list(OPERATORS)))
    version = next((o.version for o in model.opset_import if not o.domain), 17)
    try:
        schema = defs.get_schema(rng.choice(sorted(names)), max_inclusive_version=version, domain="")
    except defs.SchemaError:
        return
    inputs = [_odd_input(model, p.types, i, rng) for i, p in enumerate(schema.inputs)]
    if rng.random() < 0.5:
        inputs = inputs[: schema.min_input]
    inputs = [name if rng.random() < 0.95 else "" for name in inputs]
    attributes = {
        name: _odd_attribute(str(a.type).rpartition(".")[2], rng)
        for name, a in sorted(schema.attributes.items())
        if a.required or rng.random() < 0.4
    }
    attributes = {name: value for name, value in attributes.items() if value is not None}
    odd = helper.make_node(schema.name, inputs, [f"odd{i}" for i in range(max(1, schema.min_output))], **attributes)
    tail = [
        helper.make_node("Cast", ["odd0"], ["odd.cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["odd.cast"], ["odd.mean"], keepdims=0),
    ]
    last = model.graph.node[-1]
    if "odd0" not in last.input and last.output:
        last.input[0:1] = ["odd.in"]
        tail.append(helper.make_node("Add", [_before_last(model), "odd.mean"], ["odd.in"]))
    for extra in (odd, *tail):
        model.graph.node.insert(len(model.graph.node) - 1, extra)


def _before_last(model: ModelProto) -> str:
    """The value that the node before the last one makes."""
    return next((n.output[0] for n in reversed(model.graph.node[:-1]) if n.output), "input")


def _odd_input(model: ModelProto, types: Sequence[str], at: int, rng: random.Random) -> str:
    """An initializer of one of the types, or a value of the network."""
    if "tensor(float)" in types and rng.random() < 0.4:
        return some_name(model, rng)
    kinds = {
        "tensor(float)": 1,
        "tensor(int64)": 7,
        "tensor(int32)": 6,
        "tensor(bool)": 9,
        "tensor(uint8)": 2,
    }
    kind = rng.choice([k for t, k in kinds.items() if t in types] or [TensorProto.FLOAT])
    shape = [rng.choice((1, 1, 2, 3, 4)) for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 4)))]
    count = 1
    for d in shape:
        count *= d
    odd = (0, 1, 1, 2, 3, -1, 5, 100) if kind != 2 else (0, 1, 2, 255)
    tensor = helper.make_tensor(f"odd.{at}", kind, shape, [rng.choice(odd) if kind != 9 else 1 for _ in range(count)])
    model.graph.initializer.append(tensor)
    return tensor.name


def _odd_attribute(kind: str, rng: random.Random) -> Any:
    small = (-2, -1, 0, 0, 1, 1, 2, 3, 7, 100)
    return {
        "INT": lambda: rng.choice((rng.choice(small), rng.choice(small), rng.choice(NASTY_INTS))),
        "INTS": lambda: [rng.choice(small) for _ in range(rng.randrange(1, 5))],
        "FLOAT": lambda: rng.choice((*NASTY_FLOATS, 0.5, 1.0)),
        "FLOATS": lambda: [rng.choice((0.5, 1.0, *NASTY_FLOATS)) for _ in range(rng.randrange(1, 5))],
        "STRING": lambda: rng.choice(("", "linear", "bilinear", "SAME_UPPER", "NOTSET", "constant", "reflect", "wrap")),
        "TENSOR": lambda: helper.make_tensor("odd.value", TensorProto.FLOAT, [1], [1.0]),
    }.get(kind, lambda: None)()
