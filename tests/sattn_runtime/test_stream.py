from __future__ import annotations

import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import UsageError
from sattn_edge.recording import Recording
from sattn_edge.windows import cut
from sattn_runtime import Stream
from sattn_runtime.decision import NON_FINITE
from sattn_runtime.latency import STAGES
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract

RATE = 50.0


def signal_of(n: int) -> np.ndarray:
    return np.arange(n * 2, dtype=np.float32).reshape(n, 2)


def pieces(total: int, sizes: list[int]) -> list[slice]:
    """Slices of these sizes, and one more for the rest."""
    ends = np.minimum(np.cumsum([0, *sizes]), total).tolist()
    return [slice(a, b) for a, b in zip([*ends, ends[-1]], [*ends[1:], ends[-1], total], strict=False)]


@settings(deadline=None, max_examples=100)
@given(data=st.data(), n=st.integers(1, 80), window=st.integers(1, 12), hop=st.integers(1, 20))
def test_windows_around_gaps_are_those_of_cut(data, n, window, hop):
    contract = make_contract(rate_hz=RATE, window=window, hop=hop)
    breaks = data.draw(st.sets(st.integers(1, max(1, n - 1)), max_size=4)) if n > 1 else set()
    steps = [data.draw(st.sampled_from([5.0, 0.05, -3.0])) if i in breaks else 0.02 for i in range(1, n)]
    stamps, signal = np.cumsum([100.0, *steps]), signal_of(n)
    wanted, _, starts = cut(Recording("r", signal, None, stamps, None), contract)
    engine = FakeEngine(contract, record=True)
    stream, decisions = Stream(engine), []
    for piece in pieces(n, data.draw(st.lists(st.integers(0, 30), max_size=6))):
        decisions += stream.push(signal[piece], stamps[piece])
    assert [d.first_sample for d in decisions] == starts.tolist()
    assert [d.last_sample for d in decisions] == (starts + window - 1).tolist()
    assert [d.window for d in decisions] == list(range(len(starts)))
    assert [w.tobytes() for w in engine.windows] == [w.tobytes() for w in np.ascontiguousarray(wanted)]
    assert [g.sample for g in stream.gaps] == sorted(breaks)
    np.testing.assert_allclose([g.seconds for g in stream.gaps], [steps[i - 1] for i in sorted(breaks)], atol=1e-9)
    assert sum(g.dropped for g in stream.gaps) == stream.ring.dropped


def test_without_stamps_the_same_samples_have_no_gap():
    """The control: what makes the gap is the time, not the samples."""
    contract, stamps = make_contract(), np.where(np.arange(16) < 6, 0.0, 9.0) + np.arange(16) / RATE
    assert [d.first_sample for d in Stream(FakeEngine(contract)).push(signal_of(16))] == [0, 4, 8]
    assert [d.first_sample for d in Stream(FakeEngine(contract)).push(signal_of(16), stamps)] == [6]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), sizes=st.lists(st.integers(0, 30), max_size=8))
def test_only_windows_that_touch_nan_are_unjudged(data, sizes):
    contract, n = make_contract(window=8, hop=3), 60
    signal = signal_of(n)
    bad = data.draw(st.sets(st.integers(0, n - 1), max_size=4))
    for i in bad:
        signal[i, data.draw(st.integers(0, 1))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    stream, clean = Stream(FakeEngine(contract)), Stream(FakeEngine(contract))
    decisions = [d for piece in pieces(n, sizes) for d in stream.push(signal[piece])]
    wanted = clean.push(signal_of(n))
    assert len(decisions) == len(wanted) == 18
    for decision, other in zip(decisions, wanted, strict=True):
        if bad & set(range(decision.first_sample, decision.last_sample + 1)):
            assert (decision.label, decision.index, decision.score, decision.logits) == (None, None, None, None)
            assert decision.reason == NON_FINITE == "non-finite input"
        else:
            assert decision.reason is None
            assert (decision.label, decision.logits) == (other.label, other.logits)
        assert (decision.window, decision.first_sample) == (other.window, other.first_sample)
    assert stream.unjudged == sum(d.label is None for d in decisions)
    assert stream.windows == len(decisions)
    assert clean.unjudged == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("smooth", [1, 3])
def test_logits_that_overflowed_are_no_decision(bad, smooth):
    """A finite input can be too large for the network; neither may the windows behind it suffer."""
    engine = FakeEngine(make_contract(), lambda window: [1.0, 2.0, bad if window[0, 0] == 8 else 0.0])
    decisions = Stream(engine, smooth=smooth).push(signal_of(40))
    assert [d.first_sample for d in decisions if d.label is None] == [4]
    assert all(d.label == "walk" for d in decisions if d.first_sample != 4)


def test_smoothing_ends_at_a_gap():
    contract = make_contract(window=4, hop=4)
    signal = np.repeat([0, 0, 0, 2, 2], 4)[:, None].repeat(2, 1).astype(np.float32)
    stamps = np.arange(20) / RATE
    smooth = Stream(FakeEngine(contract), smooth=5)
    assert [d.index for d in smooth.push(signal, stamps)] == [0, 0, 0, 0, 0]
    broken = Stream(FakeEngine(contract), smooth=5)
    stamps[12:] += 1
    assert [d.index for d in broken.push(signal, stamps)] == [0, 0, 0, 2, 2]


def test_the_algorithmic_delay():
    engine = FakeEngine(make_contract(window=9, hop=4))
    assert Stream(engine).delay_samples == 4
    assert Stream(engine, hop=6, smooth=3).delay_samples == 4 + 6


def test_streams_share_an_engine_and_nothing_else():
    engine = FakeEngine(make_contract())
    one, other = Stream(engine), Stream(engine, hop=8)
    signal = signal_of(24)
    mixed = [one.push(signal[a : a + 5]) + other.push(signal[a : a + 5]) for a in range(0, 24, 5)]
    starts = [d.first_sample for pair in mixed for d in pair]
    assert sorted(starts) == sorted([0, 4, 8, 12, 16, 0, 8, 16])


def test_push_takes_what_numpy_takes_as_float32():
    stream = Stream(FakeEngine(make_contract(), record=True))
    stream.push(np.ones((0, 2)))
    assert len(stream.push(signal_of(8).astype(np.float64))) == 1
    assert stream.engine.windows[0].dtype == np.float32  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("shape", "text"), [((8,), "[8]"), ((8, 3), "[8, 3]"), ((1, 8, 2), "[1, 8, 2]"), ((2, 8), "[2, 8]")]
)
def test_another_shape_is_refused(shape, text):
    with pytest.raises(UsageError, match=re.escape(f"samples: got shape {text}; the contract says [n, 2]")):
        Stream(FakeEngine(make_contract())).push(np.zeros(shape, np.float32))


def test_a_hop_of_zero_is_refused():
    with pytest.raises(UsageError, match="hop: got 0; 1 or more"):
        Stream(FakeEngine(make_contract()), hop=0)


# ------------------------------------------------------------------ stages of a decision's latency


def test_the_wait_counts_from_the_arrival_of_the_windows_own_last_sample():
    """A chunk that lay for 2 s holds two windows, the last sample of the first of them 1 s older."""
    contract = make_contract(window=8, hop=5)
    stream = Stream(FakeEngine(contract))
    arrival = time.monotonic_ns() - 2_000_000_000
    first, second = list(stream.process(Chunk(signal_of(14), arrival, 200_000_000)))
    waits = [d.latency_ns[STAGES.index("wait")] for d in (first, second)]
    # 14 samples: windows end at samples 7 and 12, so 6 and 1 came behind them.
    assert waits[0] == pytest.approx(2e9 + 6 * 2e8, abs=2e8)
    assert waits[1] == pytest.approx(2e9 + 1 * 2e8, abs=2e8)
    assert waits[0] >= 3_200_000_000
    assert waits[1] >= 2_200_000_000


def test_a_gap_in_a_chunk_does_not_move_the_arrivals():
    stream = Stream(FakeEngine(make_contract(window=8, hop=8)))
    stamps = np.arange(16) / RATE + np.where(np.arange(16) >= 8, 1.0, 0.0)
    arrival = time.monotonic_ns() - 2_000_000_000
    decisions = list(stream.process(Chunk(signal_of(16), arrival, 100_000_000, stamps)))
    waits = [d.latency_ns[0] for d in decisions]
    assert [d.first_sample for d in decisions] == [0, 8]
    assert waits[0] == pytest.approx(2.8e9, abs=2e8)
    assert waits[1] == pytest.approx(2.0e9, abs=2e8)


def test_nothing_waits_where_nothing_arrives():
    stream = Stream(FakeEngine(make_contract(), delay_s=0.002))
    for decision in stream.process(Chunk(signal_of(40), None)):
        assert decision.latency_ns[0] == 0
        assert decision.latency_ns[STAGES.index("infer")] >= 2_000_000
        assert len(decision.latency_ns) == len(STAGES) - 1
        assert min(decision.latency_ns) >= 0


def test_the_stages_leave_no_time_out():
    stream = Stream(FakeEngine(make_contract(window=8, hop=8), delay_s=0.001))
    arrival = time.monotonic_ns()
    (decision,) = stream.process(Chunk(signal_of(8), arrival))
    spent = time.monotonic_ns() - arrival
    assert 1_000_000 <= sum(decision.latency_ns) <= spent
    assert spent - sum(decision.latency_ns) < 20_000_000
