"""Things timed beside each other: in turns, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import Engine

CALLS = 5  # of one engine in a round, back to back
ROUNDS = 40
WARM_UP = 10


def time_in_turns(engines: Sequence[Engine], window: NDArray[np.float32], rounds: int = ROUNDS) -> NDArray[np.float64]:
    """Times calls on windows [b, 1, series, modal]; returns us float64 [engines, rounds, CALLS].

    A turn begins with a call that is not counted: it finds what the engine before it left in the caches.
    """
    return time_calls([partial(engine.infer, window) for engine in engines], rounds)


def in_turns(count: int, rounds: int, turn: Callable[[int], list[float]]) -> NDArray[np.float64]:
    """Gives each of `count` candidates its turn in every round; returns float64 [count, rounds, CALLS].

    The order is drawn anew in each round, so that none always follows the same one. turn: makes and times CALLS calls.
    """
    times = np.empty((count, rounds, CALLS))
    rng = np.random.default_rng(0)
    for i in range(rounds):
        for place in rng.permutation(count):
            times[place, i] = turn(int(place))
    return times


def time_calls(calls: Sequence[Callable[[], object]], rounds: int = ROUNDS) -> NDArray[np.float64]:
    """Times calls beside each other, warm; returns us float64 [calls, rounds, CALLS]."""
    for call in calls:
        for _ in range(WARM_UP):
            call()
    return in_turns(len(calls), rounds, lambda i: timed(calls[i]))


def timed(call: Callable[[], object]) -> list[float]:
    """Times CALLS calls, in us, behind one that is not counted."""
    call()
    spent = []
    for _ in range(CALLS):
        began = perf_counter_ns()
        call()
        spent.append((perf_counter_ns() - began) / 1000)
    return spent
