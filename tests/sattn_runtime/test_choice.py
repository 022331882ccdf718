"""Who is faster by more than noise: times are given, what follows is worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sattn_runtime.choice import Times


def times(*rows: float | list[float], rounds: int = 8, calls: int = 5) -> Times:
    """One row a candidate: the same time in every round, or a time for each round."""
    return Times(np.stack([np.resize(row, rounds)[:, None].repeat(calls, axis=1) for row in rows]).astype(float))


def test_figures_of_a_candidate():
    found = times([100, 100, 200, 100], 90)
    assert len(found) == 2
    assert found.median_us(0) == 100
    assert found.rounds_won(1, 0) == 8
    assert times(100, [90, 110]).rounds_won(1, 0) == 4


@pytest.mark.parametrize(
    ("other", "beats"),
    [
        (97.1, False),  # 2.9 % faster
        (96.9, True),  # 3.1 %
        ([80] * 6 + [110] * 2, True),  # in 6 of 8 rounds
        ([80] * 5 + [110] * 3, False),  # in 5 of 8
        (100.0, False),
        (120.0, False),
    ],
)
def test_faster_is_more_than_three_percent_and_in_three_quarters_of_the_rounds(other, beats):
    assert times(100, other).beats(1, 0) is beats


def test_a_burst_within_a_round_is_not_a_round_lost():
    rows = np.full((2, 8, 5), 100.0)
    rows[1] = 90.0
    rows[1, :, 0] = 1000.0  # one call of five
    assert Times(rows).beats(1, 0)


def test_the_usual_one_stays_unless_another_beats_it():
    assert times(100, 99, 98).best(range(3), 0) == 0
    assert times(100, 90, 80).best(range(3), 0) == 2
    assert times(100, 90, 80).best((0, 1), 0) == 1  # only of those it is asked of


def test_each_has_to_earn_its_place():
    assert times(100, 90, 89.5).earned() == 1  # the third is no better than the second
    assert times(100, 90, 80).earned() == 2
    assert times(100, 120, 90).earned() == 2
    assert times(100).earned() == 0


def test_reasons():
    found = times(100, 80)
    assert found.why(1, 0, "gemm", 1) == "0.80 of gemm's time, faster in 8 of 8 rounds"
    assert found.why(0, 0, "gemm", 1) == "no other is 3 % faster, and faster in 6 of 8 rounds"
    assert found.why(0, 0, "gemm", 0) == "the only one accepted"
