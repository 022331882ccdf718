"""The stand-ins that ship: they obey the protocols they stand in for, and do what their docstrings say."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sattn_edge.engine import Engine
from sattn_edge.errors import UsageError
from sattn_runtime import Stream
from sattn_runtime.sources.base import Signal, Source, StreamStart
from sattn_runtime.testing import FakeEngine, ListSource
from tests.helpers_data import make_contract


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(make_contract(), record=True)


def test_the_class_nearest_to_the_mean_wins(engine):
    checked: Engine = engine
    for k in range(3):
        x = np.full((2, 1, 8, 2), k + 0.3, np.float32)
        logits = checked.infer(x)
        assert (logits.dtype, logits.shape) == (np.float32, (2, 3))
        assert logits.argmax(1).tolist() == [k, k]
    np.testing.assert_allclose(logits[0], [-2.3, -1.3, -0.3], atol=1e-6)


def test_the_example_of_the_module(engine):
    samples = np.random.default_rng(0).normal(2, 0.1, (20, 2)).astype(np.float32)
    decisions = Stream(engine).push(samples)
    assert decisions[0].label == engine.contract.labels[2]
    assert (engine.windows[0] == samples[:8]).all()
    assert len(engine.windows) == len(decisions) == 4


def test_only_what_was_asked_for_is_recorded(engine):
    x = np.zeros((1, 1, 8, 2), np.float32)
    quiet = FakeEngine(engine.contract)
    quiet.infer(x)
    assert quiet.windows == []
    engine.infer(x)
    x += 1
    assert not engine.windows[0].any()  # a copy


def test_own_logits_and_a_delay():
    engine = FakeEngine(make_contract(), lambda window: [window[0, 0], 5.0, 0.0], delay_s=0.01)
    stamps = [0, 0, 0]
    began = time.monotonic_ns()
    logits = engine.infer_stamped(np.full((1, 1, 8, 2), 7, np.float32), stamps)
    assert logits.tolist() == [[7, 5, 0]]
    assert began <= stamps[0] <= stamps[1] - 10_000_000
    assert stamps[1] == stamps[2]


def test_it_checks_its_windows_and_closes(engine):
    with pytest.raises(UsageError, match=r"got shape \[1, 1, 9, 2\]; the contract says float32 \[batch, 1, 8, 2\]"):
        engine.infer(np.zeros((1, 1, 9, 2), np.float32))
    assert not engine.closed
    engine.close()
    assert engine.closed


def test_a_list_source():
    start = StreamStart("s")
    source = ListSource([start, Signal.NOTHING, ValueError("broken")], paced=True)
    checked: Source = source
    assert checked.paced
    assert checked.read(0) is start
    assert checked.read(0) is Signal.NOTHING
    with pytest.raises(ValueError, match="broken"):
        checked.read(0)
    assert [checked.read(0), checked.read(0)] == [Signal.END] * 2
    source.close()
    assert source.closed
    assert not ListSource([]).paced
