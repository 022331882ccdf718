"""What a stream tells of the numbers of its samples, and which it still needs."""

from __future__ import annotations

import numpy as np

from sattn_runtime.sample_clock import ClockOptions
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stream import Stream
from sattn_runtime.stream_options import StreamOptions
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract
from tests.sattn_runtime.helpers_numbered import numbered


def test_held_back_samples_are_needed():
    stream = Stream(FakeEngine(make_contract(window=8, hop=8)), options=StreamOptions(clock=ClockOptions(reorder=4)))
    list(stream.process(numbered(0, 8)))
    assert (stream.received, stream.needed_from) == (8, 8)
    list(stream.process(numbered(9, 2)))  # 8 is not there yet
    list(stream.process(numbered(11, 1)))
    assert (stream.received, stream.needed_from, stream.samples["held"]) == (11, 8, 3)
    list(stream.process(numbered(8, 1)))
    assert (stream.received, stream.needed_from, stream.samples["held"]) == (12, 8, 0)


def test_a_window_tells_the_number_of_its_first_sample_across_gaps():
    stream = Stream(FakeEngine(make_contract(window=8, hop=8)))
    found = [d for first in (1000, 1016, 1040) for d in stream.process(numbered(first, 16))]
    assert [d.sequence for d in found] == [1000, 1008, 1016, 1024, 1040, 1048]
    assert [(gap.missing, gap.sequence) for gap in stream.gaps] == [(8, 1040)]
    assert [d.first_sample for d in found] == [0, 8, 16, 24, 32, 40]


def test_a_stream_without_numbers_tells_none():
    stream = Stream(FakeEngine(make_contract(window=8, hop=8)))
    (decision,) = stream.process(Chunk(np.ones((8, 2), np.float32), None, timestamp_s=np.arange(8) / 50))
    assert decision.sequence is None
