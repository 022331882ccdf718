"""Who is faster, and when that is more than noise: how every choice by measurement is made.

Candidates are timed in turns, so that within one round what disturbs the machine disturbs all of them alike: rounds
are compared with rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEAST_GAIN = 0.03
"""What replaces the usual must be faster by more than this part of its time: medians of one run wander by less."""
LEAST_ROUNDS = 0.75
"""And in this part of the rounds: a burst of something else on the machine hits a few of them."""


class Times:
    """Times of candidates in us, float64 [candidates, rounds, calls], as `timing` takes them."""

    def __init__(self, times: NDArray[np.float64]) -> None:
        self.rounds = times.shape[1]
        self._by_round = np.median(times, axis=2)
        self._median = np.median(times, axis=(1, 2))

    def __len__(self) -> int:
        """The number of candidates."""
        return len(self._median)

    def median_us(self, i: int) -> float:
        """Of all calls of a candidate."""
        return float(self._median[i])

    def rounds_won(self, i: int, usual: int) -> int:
        """In how many rounds candidate i was faster than the usual one."""
        return int((self._by_round[i] < self._by_round[usual]).sum())

    def beats(self, i: int, usual: int) -> bool:
        """Whether candidate i is faster by more than noise."""
        enough = self._median[i] < (1 - LEAST_GAIN) * self._median[usual]
        return bool(enough and self.rounds_won(i, usual) >= LEAST_ROUNDS * self.rounds)

    def best(self, among: Sequence[int], usual: int) -> int:
        """The fastest of some candidates, the usual one unless another beats it."""
        better = [i for i in among if i != usual and self.beats(i, usual)]
        return min(better, key=self.median_us) if better else usual

    def earned(self) -> int:
        """The last candidate that beat the one kept so far, from the plainest at 0 on: each has to earn its place."""
        kept = 0
        for i in range(1, len(self)):
            kept = i if self.beats(i, kept) else kept
        return kept

    def why(self, kept: int, usual: int, name: str, others: int) -> str:
        """The reason for what `best` kept. name: of the usual one; others: how many it was compared with."""
        if kept != usual:
            ratio, won = self.median_us(kept) / self.median_us(usual), self.rounds_won(kept, usual)
            return f"{ratio:.2f} of {name}'s time, faster in {won} of {self.rounds} rounds"
        if not others:
            return "the only one accepted"
        rounds = f"{math.ceil(LEAST_ROUNDS * self.rounds)} of {self.rounds} rounds"
        return f"no other is {100 * LEAST_GAIN:g} % faster, and faster in {rounds}"
