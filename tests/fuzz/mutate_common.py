"""What the mutators share: nasty numbers and names, and choices among what a model has."""

from __future__ import annotations

import random

from onnx import AttributeProto, ModelProto, NodeProto, defs

NASTY_INTS = (
    -(2**63),
    -(2**31),
    -65536,
    -2,
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    65535,
    65536,
    2**20,
    2**31 - 1,
    2**31,
    2**62,
)
NASTY_FLOATS = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
NASTY_NAMES = ("", "input", "logits", "nobody", "x" * 5000, "\x00", "../../etc/passwd", "\x1b[2J")


def all_nodes(model: ModelProto) -> list[NodeProto]:
    return [*model.graph.node, *(n for f in model.functions for n in f.node)]


def all_attributes(model: ModelProto) -> list[AttributeProto]:
    return [a for n in all_nodes(model) for a in n.attribute]


def some_int(rng: random.Random) -> int:
    return rng.choice((rng.choice(NASTY_INTS), rng.randrange(-4, 12)))


def some_name(model: ModelProto, rng: random.Random) -> str:
    known = [name for n in model.graph.node for name in (*n.input, *n.output)]
    return rng.choice((rng.choice(NASTY_NAMES), rng.choice(known or [""]), rng.choice(known or [""])))


def fitting_operators(match: NodeProto | None = None) -> list[str]:
    """Operators of ONNX; with `match`, those that take as many inputs and outputs."""
    return sorted(
        s.name
        for s in defs.get_all_schemas()
        if not s.domain
        and (match is None or s.min_input <= len(match.input) <= s.max_input)
        and (match is None or s.min_output <= len(match.output) <= s.max_output)
    )


def change_one(values: list[int], rng: random.Random) -> None:
    if values:
        values[rng.randrange(len(values))] = some_int(rng)


def resize(values: list[int], rng: random.Random) -> None:
    if rng.random() < 0.5 and values:
        values.pop(rng.randrange(len(values)))
    else:
        values.extend([some_int(rng)] * rng.choice((1, 2, 70)))
