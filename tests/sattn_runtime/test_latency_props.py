from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_runtime.latency import QUANTILES, STAGES, Histogram, Latency

BOUND = 0.004  # what the module promises
# Spread over magnitudes: uniform integers would nearly all be huge.
durations = st.integers(0, 43).flatmap(lambda bits: st.integers(0, 2**bits))


def exact(values: list[int], q: float) -> int:
    """The nearest-rank quantile of the values themselves."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@settings(deadline=None, max_examples=150)
@given(values=st.lists(durations, min_size=1, max_size=100), q=st.sampled_from([*QUANTILES.values(), 0.0, 1.0]))
def test_quantiles_are_within_a_bucket_of_the_exact_ones(values, q):
    histogram, wanted = filled(values), exact(values, q)
    assert abs(histogram.quantile_ns(q) - wanted) <= BOUND * wanted
    assert histogram.quantile_ns(q) <= histogram.max_ns == max(values)
    assert (histogram.count, histogram.total_ns) == (len(values), sum(values))


def test_the_bound_is_not_idle():
    """The control: the neighbouring rank of two values 1 % apart is outside, and so would be half the buckets."""
    values = [1_000_000, 1_010_000]
    assert abs(filled(values).quantile_ns(0.5) - exact(values, 1.0)) > BOUND * exact(values, 1.0)
    worst = max(abs(filled([v, 2**40]).quantile_ns(0.5) - v) / v for v in range(2**20, 2**21, 997))
    assert BOUND / 2 < worst <= BOUND


def test_small_durations_are_exact():
    for value in range(256):
        assert filled([value, 2**40]).quantile_ns(0.5) == value


def test_what_is_beyond_the_buckets_keeps_its_maximum():
    histogram = filled([10, 2**50])
    assert histogram.max_ns == 2**50
    assert histogram.quantile_ns(0.5) == 10
    assert histogram.quantile_ns(1.0) <= 2**50


def test_a_negative_duration_counts_as_none_and_nothing_counts_as_zero():
    histogram = filled([-5])
    assert (histogram.count, histogram.max_ns, histogram.quantile_ns(0.5)) == (1, 0, 0)
    assert Histogram().quantile_ns(0.99) == 0
    assert Histogram().summary_us() == {**dict.fromkeys(QUANTILES, 0.0), "max": 0.0, "mean": 0.0}


def test_a_summary_is_in_microseconds():
    summary = filled([1_000, 2_000, 3_000]).summary_us()
    assert summary["p50"] == pytest.approx(2, rel=BOUND)
    assert (summary["max"], summary["mean"]) == (3, 2)


rows = st.lists(
    st.tuples(st.tuples(*[st.integers(0, 10**9)] * (len(STAGES) - 1)), st.integers(0, 10**6), st.integers(0, 10**9)),
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(streams=st.lists(rows, min_size=1, max_size=3), deadline=st.integers(0, 2 * 10**9))
def test_a_run_equals_the_sums_by_hand(streams, deadline):
    latency, totals, jitter, steps, stall = Latency(deadline), [], 0, 0, 0
    for stream in streams:
        latency.new_stream()
        done, last = 10**12, None
        for stages, emit, pause in stream:
            done += pause
            latency.add(stages, emit, done)
            total = sum(stages) + emit
            totals.append(total)
            if last is not None:
                jitter, steps = jitter + abs(total - last[1]), steps + 1
                stall = max(stall, done - last[0] - deadline)
            last = (done, total)
    summary = latency.summary()
    assert summary["windows"] == len(totals)
    assert summary["misses"] == sum(t > deadline for t in totals)
    assert summary["longest_stall_us"] == pytest.approx(stall / 1000, abs=0.01)
    assert summary["jitter_us"] == pytest.approx(jitter / max(1, steps) / 1000, abs=0.01)
    assert summary["deadline_us"] == deadline / 1000
    total_us, stages_us = summary["total_us"], summary["stages_us"]
    assert isinstance(total_us, dict)
    assert isinstance(stages_us, dict)
    assert total_us["max"] == pytest.approx(max(totals, default=0) / 1000, abs=0.01)
    assert list(stages_us) == list(STAGES)
    every = [stages for stream in streams for stages, _, _ in stream]
    for i, name in enumerate(STAGES[:-1]):
        assert stages_us[name]["max"] == pytest.approx(max((s[i] for s in every), default=0) / 1000, abs=0.01)


def test_summaries_may_be_asked_for_in_between():
    latency = Latency(10**9)
    for i in range(1200):
        latency.add((i, 0, 0, 0, 0, 0), 0, 10**12 + i)
        if i % 100 == 0:
            assert latency.summary()["windows"] == i + 1
    assert latency.summary()["windows"] == 1200
    assert latency.total.max_ns == 1199
