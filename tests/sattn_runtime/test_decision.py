from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import UsageError
from sattn_runtime.decision import Smoother, softmax

logits = st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=8)


@settings(deadline=None)
@given(logits)
def test_softmax(values):
    scores = softmax(values)
    wanted = np.exp(np.array(values) - max(values))
    np.testing.assert_allclose(scores, wanted / wanted.sum(), rtol=1e-12, atol=1e-300)
    assert math.isclose(sum(scores), 1)


def test_softmax_of_large_logits_does_not_overflow():
    assert softmax([1e30, 0.0]) == [1.0, 0.0]
    assert softmax([-1e30, -1e30]) == [0.5, 0.5]


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-20, 20)] * 3), min_size=1, max_size=20), st.integers(1, 5))
def test_smoothing_is_the_mean_score_of_the_last_windows(rows, count):
    smoother = Smoother(count)
    scores = [softmax(list(row)) for row in rows]
    for i, row in enumerate(rows):
        index, score = smoother.decide(list(row))
        mean = np.mean(scores[max(0, i + 1 - count) : i + 1], axis=0)
        assert score == pytest.approx(mean.max(), rel=1e-9)
        assert mean[index] == pytest.approx(mean.max(), rel=1e-9)


def test_smoothing_holds_a_single_other_window_down():
    rest, walk = [4.0, 0.0], [0.0, 4.0]
    rows = [rest, rest, walk, rest, rest]
    assert [Smoother(1).decide(row)[0] for row in rows] == [0, 0, 1, 0, 0]
    smoother = Smoother(3)
    assert [smoother.decide(row)[0] for row in rows] == [0] * 5


def test_a_reset_forgets():
    smoother = Smoother(3)
    for _ in range(3):
        smoother.decide([9.0, 0.0])
    assert smoother.decide([0.0, 3.0])[0] == 0
    smoother.reset()
    assert smoother.decide([0.0, 3.0])[0] == 1


def test_the_class_is_told_apart_where_scores_round_to_the_same():
    assert Smoother(1).decide([40.0, 40.000004, -40.0])[0] == 1


def test_its_delay_in_samples():
    assert [Smoother(n).delay_samples(10) for n in (1, 2, 5)] == [0, 5, 20]


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count):
    with pytest.raises(UsageError, match=rf"got {count} windows; 1 or more"):
        Smoother(count)
