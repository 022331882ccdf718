"""Things timed beside each other: in turns, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    for engine in engines:
        for _ in range(WARM_UP):
            engine.infer(window)
    return in_turns(len(engines), rounds, lambda i: _turn(engines[i], window))


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


def _turn(engine: Engine, window: NDArray[np.float32]) -> list[float]:
    return timed(lambda: engine.infer(window))


def timed(call: Callable[[], object]) -> list[float]:
    """Times CALLS calls, in us, behind one that is not counted."""
    call()
    spent = []
    for _ in range(CALLS):
        began = perf_counter_ns()
        call()
        spent.append((perf_counter_ns() - began) / 1000)
    return spent
