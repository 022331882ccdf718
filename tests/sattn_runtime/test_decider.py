from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import UsageError
from sattn_runtime import DecisionOptions, Stream, StreamOptions
from sattn_runtime.decider import Decider
from sattn_runtime.decision import LOW_SCORE, SETTLING
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract


def logits(*scores: float) -> list[float]:
    """Logits whose softmax is these scores."""
    return [math.log(s / sum(scores)) for s in scores]


def labels(options: DecisionOptions, rows: list[list[float]], hop: int = 10, rate_hz: float = 10.0) -> list:
    decider = Decider(options, hop, rate_hz)
    return [decider.decide(row)[0] for row in rows]


def test_hysteresis_keeps_a_label_against_one_that_leads_by_little():
    rows = [logits(0.9, 0.1), logits(0.45, 0.55), logits(0.3, 0.7), logits(0.45, 0.55), logits(0.55, 0.45)]
    assert labels(DecisionOptions(), rows) == [0, 1, 1, 1, 0]
    assert labels(DecisionOptions(hysteresis=0.2), rows) == [0, 0, 1, 1, 1]


def test_the_score_is_that_of_the_label_given():
    decider = Decider(DecisionOptions(hysteresis=0.5), 1, 1.0)
    decider.decide(logits(0.9, 0.1))
    index, score, _ = decider.decide(logits(0.4, 0.6))
    assert (index, score) == (0, pytest.approx(0.4))


def test_no_label_below_a_score():
    decider = Decider(DecisionOptions(abstain_below=0.6), 1, 1.0)
    verdicts = [decider.decide(logits(a, 1 - a)) for a in (0.7, 0.55, 0.45, 0.35)]
    assert [v[0] for v in verdicts] == [0, None, None, 1]
    assert [v[2] for v in verdicts] == [None, LOW_SCORE, LOW_SCORE, None]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 5))
def test_no_label_shorter_than_the_dwell_is_taken_on(rows, dwell):
    """An independent count: the label is the last class that led `dwell` windows in a row."""
    given_rows = [logits(*[0.9 if k == row else 0.05 for k in range(3)]) for row in rows]
    found = labels(DecisionOptions(dwell_s=float(dwell)), given_rows)
    state = None
    for at, row in enumerate(rows):
        if at + 1 >= dwell and set(rows[at + 1 - dwell : at + 1]) == {row}:
            state = row
        assert found[at] == state


def test_the_delays_add_up():
    engine = FakeEngine(make_contract(window=9, hop=4, rate_hz=8.0))
    options = StreamOptions(decision=DecisionOptions(smooth=3, dwell_s=1.5))
    assert Stream(engine, options=options).delay_samples == 4 + 4 + 2 * 4


def states_of(values: list[int], **options: float) -> tuple[list, list]:
    """A stream over windows of one sample each of these values: its labels, and (kind, label, sample) of its states."""
    engine = FakeEngine(make_contract(window=1, hop=1, rate_hz=1.0))
    stream = Stream(engine, options=StreamOptions(decision=DecisionOptions(**options)))  # type: ignore[arg-type]
    decisions = stream.push(np.repeat(np.array(values, np.float32)[:, None], 2, 1))
    list(stream.finish())
    return [d.label for d in decisions], [(e.kind[6:], e.label, e.sample) for e in stream.log.fetch()]


def test_states_begin_and_end():
    found, events = states_of([0, 0, 1, 1, 1], dwell_s=0.0)
    assert found == ["rest"] * 2 + ["walk"] * 3
    assert events == [("start", "rest", 0), ("end", "rest", 1), ("start", "walk", 2), ("end", "walk", 4)]


def test_a_state_begins_with_the_first_window_that_led_to_it():
    found, events = states_of([0, 0, 0, 1, 0, 1, 1, 1], dwell_s=3.0)
    assert found == [None, None, "rest", "rest", "rest", "rest", "rest", "walk"]
    assert events == [("start", "rest", 0), ("end", "rest", 6), ("start", "walk", 5), ("end", "walk", 7)]


def test_before_any_label_has_held_there_is_none():
    decider = Decider(DecisionOptions(dwell_s=2.0), 1, 1.0)
    assert decider.decide(logits(0.9, 0.1)) == (None, None, SETTLING)
    assert decider.decide(logits(0.9, 0.1))[0] == 0


def test_a_gap_ends_a_state_and_forgets():
    engine = FakeEngine(make_contract(window=1, hop=1, rate_hz=1.0))
    stream = Stream(engine, options=StreamOptions(decision=DecisionOptions(dwell_s=2.0)))
    stamps = np.array([0, 1, 2, 50, 51, 52.0])
    decisions = stream.push(np.zeros((6, 2)), stamps)
    assert [d.label for d in decisions] == [None, "rest", "rest", None, "rest", "rest"]
    told = [(e.kind, e.sample) for e in stream.log.fetch() if hasattr(e, "kind")]
    assert told == [("state_start", 0), ("state_end", 2), ("state_start", 3)]


def test_without_a_dwell_no_states_are_told():
    engine = FakeEngine(make_contract(window=1, hop=1))
    stream = Stream(engine)
    stream.push(np.zeros((6, 2)))
    assert not stream.log.fetch()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hysteresis": -0.1}, "hysteresis: got -0.1; a score, 0 to 1"),
        ({"hysteresis": 1.5}, "hysteresis: got 1.5; a score, 0 to 1"),
        ({"abstain_below": math.nan}, "abstain below: got nan; a score, 0 to 1"),
        ({"dwell_s": -1.0}, "dwell: got -1.0; seconds, 0 or more"),
        ({"dwell_s": math.inf}, "dwell: got inf; seconds, 0 or more"),
    ],
)
def test_what_can_not_be_is_refused(options, text):
    with pytest.raises(UsageError, match=text):
        Stream(FakeEngine(make_contract()), options=StreamOptions(decision=DecisionOptions(**options)))
