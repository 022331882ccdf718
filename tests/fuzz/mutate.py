"""Mutators for ONNX files: each takes bytes and a generator of random numbers, and gives changed bytes.

The blind ones change bytes without knowing what they mean. The others parse the model, change one thing
that a parser accepts, and write it again: these get past a parser, which is why most crashes are theirs. A
mutant is fully determined by the model, the seed and its number.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from onnx import ModelProto

from tests.fuzz.mutate_bytes import BLIND, flip_bits
from tests.fuzz.mutate_exotic import exotic_operator
from tests.fuzz.mutate_graph import GRAPH_CHANGES
from tests.fuzz.mutate_nodes import NODE_CHANGES

Mutator = Callable[[bytes, random.Random], bytes]
Change = Callable[[ModelProto, random.Random], None]

CHANGES: tuple[Change, ...] = (*NODE_CHANGES, *GRAPH_CHANGES, exotic_operator)


def two_changes(model: ModelProto, rng: random.Random) -> None:
    for change in rng.sample(CHANGES, 2):
        change(model, rng)


def structural(change: Change) -> Mutator:
    """A mutator out of a change to the parsed model."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        model = ModelProto.FromString(data)
        change(model, rng)
        return model.SerializeToString()

    mutate.__name__ = change.__name__
    return mutate


MUTATORS: dict[str, Mutator] = {m.__name__: m for m in (*BLIND, *map(structural, (*CHANGES, two_changes)))}


def mutator_of(number: int, only: str = "") -> str:
    """Which mutator makes the mutant of that number; every one has its turn."""
    return only or list(MUTATORS)[number % len(MUTATORS)]


def mutant(data: bytes, seed: int, number: int, only: str = "") -> tuple[str, bytes]:
    """The mutant of that number, with the name of its mutator."""
    name = mutator_of(number, only)
    rng = random.Random(f"{seed}/{number}")
    try:
        return name, MUTATORS[name](data, rng)
    except (IndexError, ValueError, TypeError, UnicodeError):
        # Two changes may leave nothing for the second; blind damage stands in for them.
        return name, flip_bits(data, rng)
