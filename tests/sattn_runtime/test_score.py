from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_runtime import Decision
from sattn_runtime.score import Score

LABELS = ("a", "b", "c")


def decision(first: int, last: int, index: int | None) -> Decision:
    return Decision(0, first, last, index, None if index is None else LABELS[index], None, None, (), 0)


@settings(deadline=None)
@given(data=st.data(), labels=st.lists(st.integers(-1, 2), min_size=1, max_size=40))
def test_counts_equal_a_loop_over_samples(data, labels):
    score, confusion, unscored = Score(LABELS), np.zeros((3, 3), int), 0
    score.begin(np.array(labels, np.int16))
    for _ in range(10):
        first = data.draw(st.integers(0, len(labels) - 1))
        last = data.draw(st.integers(first, len(labels) - 1))
        given_index = data.draw(st.integers(0, 2))
        inside = set(labels[first : last + 1])
        truth = inside.pop() if len(inside) == 1 else -1
        found = score.add(decision(first, last, given_index))
        assert found == (LABELS[truth] if truth >= 0 else None)
        if truth >= 0:
            confusion[truth, given_index] += 1
        else:
            unscored += 1
    assert score.confusion == confusion.tolist()
    assert score.unscored == unscored


def test_accuracy_and_macro_f1_by_hand():
    score = Score(LABELS)
    score.begin(np.array([0, 0, 0, 0, 1, 1], np.int16))
    for sample, index in enumerate([0, 0, 0, 1, 1, 0]):
        score.add(decision(sample, sample, index))
    summary = score.summary()
    assert summary is not None
    assert summary["accuracy"] == pytest.approx(4 / 6)
    # a: 3 right of 4 true and 4 given; b: 1 right of 2 and 2; c: neither, so it is left out.
    assert summary["macro_f1"] == pytest.approx((0.75 + 0.5) / 2)
    assert summary["confusion"] == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert (summary["windows"], summary["labels"]) == (6, list(LABELS))


def test_unjudged_and_unlabelled_windows_are_no_part_of_the_accuracy():
    score = Score(LABELS)
    score.begin(np.array([2, 2, -1, 2], np.int16))
    assert score.add(decision(0, 1, None)) == "c"
    assert score.add(decision(1, 2, 2)) is None
    assert (score.unjudged, score.unscored, score.summary()) == (1, 1, None)
    assert score.add(decision(3, 3, 2)) == "c"
    summary = score.summary()
    assert summary is not None
    assert (summary["windows"], summary["accuracy"], summary["unjudged"], summary["unscored"]) == (1, 1, 1, 1)


def test_streams_without_labels():
    score = Score(LABELS)
    score.begin(None)
    assert not score.scoring
    assert score.add(decision(0, 5, 1)) is None
    assert score.summary() is None
    score.begin(np.array([1], np.int16))
    assert score.scoring
    assert score.add(decision(0, 0, 1)) == "b"
    score.begin(None)
    assert score.add(decision(0, 0, 1)) is None
    summary = score.summary()
    assert summary is not None
    assert summary["windows"] == 1
