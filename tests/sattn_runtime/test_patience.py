"""Waiting for samples whose numbers are missing, of a source that loses none on the way."""

from __future__ import annotations

import numpy as np

from sattn_runtime import ClockOptions, Stream, StreamOptions
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract

WINDOW, HOP = 8, 4
SECOND = 1_000_000_000


def patient() -> Stream:
    contract = make_contract(rate_hz=50.0, window=WINDOW, hop=HOP)
    return Stream(FakeEngine(contract), options=StreamOptions(clock=ClockOptions(patience_s=5.0)))


def numbered_at(first: int, count: int, arrival_s: float) -> Chunk:
    numbers = np.arange(first, first + count)
    return Chunk(np.ones((count, 2), np.float32), round(arrival_s * SECOND), sequence=numbers)


def test_a_source_that_loses_nothing_is_waited_for():
    """Thousands of newer samples pass by what a sender kept while it was away."""
    stream = patient()
    decided = [d for first in (0, 1000, 3000, 2000) for d in stream.process(numbered_at(first, 1000, first / 1000))]
    assert [d.sequence for d in decided] == list(range(0, 4000 - WINDOW + 1, stream.ring.hop))
    assert stream.log.counts["gap"] == 0
    assert sum(v for k, v in stream.samples.items() if k != "in") == 4000


def test_but_only_for_so_long():
    stream = patient()
    for first, arrival_s in ((0, 0.0), (200, 1.0), (210, 5.9)):
        list(stream.process(numbered_at(first, 10, arrival_s)))
    assert (stream.log.counts["gap"], stream.samples["held"]) == (0, 20)
    list(stream.process(numbered_at(220, 10, 6.1)))
    assert (stream.log.counts["gap"], stream.samples["held"]) == (1, 0)
    assert stream.gaps[0].missing == 190


def test_nor_for_ever_where_nothing_arrives_in_time():
    stream = patient()
    list(stream.process(numbered_at(0, 10, 0.0)))
    list(stream.process(numbered_at(11, 16_384, 0.0)))
    assert stream.log.counts["gap"] == 0
    list(stream.process(numbered_at(20_000, 1, 0.0)))
    assert (stream.log.counts["gap"], stream.gaps[0].missing) == (1, 1)


def test_stamps_are_not_waited_for():
    """A clock that was set is no sample that is late."""
    stream = patient()
    for begin_s in (0.0, 100.0):
        stamps = begin_s + np.arange(10) / 50
        list(stream.process(Chunk(np.ones((10, 2), np.float32), 0, timestamp_s=stamps)))
    assert (stream.log.counts["gap"], stream.samples["held"]) == (1, 0)
