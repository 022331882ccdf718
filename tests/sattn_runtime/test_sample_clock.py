from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import UsageError
from sattn_runtime import ClockOptions, Stream, StreamOptions
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract, shared_data

WINDOW, HOP = 8, 4


def stream_of(rate_hz: float = 50.0, **clock: float) -> Stream:
    contract = make_contract(rate_hz=rate_hz, window=WINDOW, hop=HOP)
    return Stream(FakeEngine(contract, record=True), options=StreamOptions(clock=ClockOptions(**clock)))  # type: ignore[arg-type]


def rows_of(numbers: np.ndarray) -> np.ndarray:
    """Samples that are told apart."""
    return np.stack([numbers, -numbers], axis=1).astype(np.float32)


def feed(stream: Stream, stamps: np.ndarray, sizes: int, rows: np.ndarray | None = None) -> list:
    rows = rows_of(np.arange(len(stamps))) if rows is None else rows
    return [
        d
        for at in range(0, len(stamps), sizes)
        for d in stream.process(Chunk(rows[at : at + sizes], None, 0, stamps[at : at + sizes]))
    ]


def starts(n: int) -> list[int]:
    return list(range(0, n - WINDOW + 1, HOP))


# ------------------------------------------------------------------ stamps that are not a sample's own


@pytest.mark.parametrize("size", [1, 7, 50, 333])
@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_packets_that_share_a_stamp_have_no_gap(size, jitter):
    """Packets of 50 samples with one stamp, each late by up to half a packet, in chunks of any size."""
    packet, period = 50, 1 / 50
    rng = np.random.default_rng(size)
    times = (np.arange(40) + rng.uniform(0, jitter, 40)) * packet * period
    stream = stream_of()
    decisions = feed(stream, np.repeat(1e5 + times, packet), size)
    assert [d.first_sample for d in decisions] == starts(2000)
    assert not stream.gaps
    assert stream.log.counts["jitter"] == 1
    assert not stream.reasons  # a stamp says nothing of its packet's later samples: the rate is right
    assert stream.samples["duplicate"] == stream.samples["late"] == 0


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("lost", [1, 3])
def test_packets_that_are_missing_are_a_gap_of_their_length(size, lost):
    """The control: the same packets with some left out."""
    numbers = np.delete(np.arange(40), range(20, 20 + lost))
    stream = stream_of()
    decisions = feed(stream, np.repeat(1e5 + numbers.astype(float), 50), size)
    assert [(gap.sample, gap.missing) for gap in stream.gaps] == [(1000, 50 * lost)]
    assert [d.first_sample for d in decisions] == starts(1000) + [1000 + a for a in starts(len(numbers) * 50 - 1000)]


@pytest.mark.parametrize("size", [20, 50, 200])
def test_the_arrival_jitter_of_a_real_armband_has_no_gap(size):
    """Delays of up to 47 ms at 1 kHz, as they were measured; each row comes so much after its time."""
    with np.load(shared_data("emg_dev.npz")) as z:
        late_ms = np.concatenate([[0], z["dt_ms"][1:60_000].astype(float) - 1])
    stamps = np.maximum.accumulate((np.arange(len(late_ms)) + late_ms) / 1000)
    stream = stream_of(1000.0)
    # Equal rows, as 89 % of them are.
    decisions = feed(stream, stamps, size, np.repeat(rows_of(np.arange(len(stamps) // 10)), 10, axis=0))
    assert late_ms.max() >= 10
    assert not stream.gaps
    assert len(decisions) == len(starts(60_000))
    assert stream.samples["duplicate"] == 0


def test_a_hole_longer_than_the_jitter_is_found_among_it():
    rng = np.random.default_rng(1)
    numbers = np.delete(np.arange(5000), range(2500, 2700))
    stamps = (numbers + rng.uniform(0, 10, len(numbers))) / 1000
    stream = stream_of(1000.0)
    feed(stream, stamps, 50)
    (gap,) = stream.gaps
    assert gap.missing == pytest.approx(200, abs=10)
    assert gap.sample == pytest.approx(2500, abs=1)


def test_stamps_are_exact_again_after_a_while():
    stamps = np.arange(1000) / 50
    stamps[300:310] = stamps[300]
    again = np.delete(stamps, 800)
    stream = stream_of()
    feed(stream, again, 10)
    assert [(gap.sample, gap.missing) for gap in stream.gaps] == [(800, 1)]


@pytest.mark.parametrize("ppm", [-20_000, -3000, 3000, 20_000])
def test_drift_is_told_beyond_its_bound_and_makes_no_gap(ppm):
    stamps = 1e6 + np.arange(3000) / 50 * (1 + ppm * 1e-6)
    stream = stream_of()
    feed(stream, stamps, 25)
    events = [news for news in stream.log.fetch() if news.kind == "drift"]
    assert not stream.gaps
    assert len(events) == (abs(ppm) > 5000)
    assert stream.clock.rate.ppm == pytest.approx(ppm, abs=50)
    assert all(event.value == pytest.approx(ppm, abs=50) for event in events)


def test_twice_the_rate_is_another_rate_and_no_gap():
    stream = stream_of()
    feed(stream, np.arange(2000) / 100, 25)
    assert not stream.gaps
    assert stream.clock.rate.wrong
    assert stream.clock.rate.ppm == pytest.approx(-500_000, rel=0.01)


def test_half_the_rate_is_told_apart_from_loss():
    stream = stream_of()
    feed(stream, np.arange(200) / 25, 25)
    assert stream.log.counts["drift"] == 1
    assert all(gap.missing == 1 for gap in stream.gaps)


@pytest.mark.parametrize("gap", ["hold", "interpolate"])
@pytest.mark.parametrize("times", [2, 3])
def test_a_slow_sensor_is_not_decided_on_where_its_holes_are_filled(gap, times):
    contract = make_contract(window=WINDOW, hop=HOP)
    stream = Stream(FakeEngine(contract), options=StreamOptions(gap, fill_most=4))
    decisions = feed(stream, np.arange(400) * times / contract.rate_hz, 25)
    assert {d.reason for d in decisions if d.first_sample > 40} == {"wrong rate"}


@pytest.mark.parametrize("size", [1, 7, 10, 64])
@pytest.mark.parametrize(("packet", "factor"), [(10, 0.5), (10, 0.8), (50, 0.8), (10, 1.25), (10, 2.0)])
def test_packets_at_another_rate_are_not_decided_on(packet, factor, size):
    stamps = np.repeat(np.arange(6000 // packet) * packet / (50 * factor), packet)
    stream = stream_of()
    decisions = feed(stream, stamps, size)
    assert stream.log.counts["drift"] >= 1
    assert {d.reason for d in decisions if d.first_sample > 5000} == {"wrong rate"}


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("size", [1, 16, 500])
def test_a_clock_that_stands_still_for_good_is_told(size, numbered):
    stamps = 1e5 + np.minimum(np.arange(1500), 700) / 50
    stream = stream_of()
    rows, numbers = rows_of(np.arange(1500)), np.arange(1500)
    for at in range(0, 1500, size):
        cut = slice(at, at + size)
        list(stream.process(Chunk(rows[cut], None, 0, stamps[cut], sequence=numbers[cut] if numbered else None)))
    assert stream.log.counts["frozen"] == 1
    assert stream.log.counts["frozen_over"] == 0
    assert not stream.reasons
    assert not stream.gaps


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("at", [0, 1, 30, 99])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_a_stamp_that_is_no_time_stops_nothing(wrong, at, numbered):
    stamps = 1e5 + np.arange(100) / 50
    stamps[50:] += 3 / 50
    numbers = np.arange(100) + 3 * (np.arange(100) >= 50)
    stamps[at] = wrong
    stream = stream_of()
    rows = rows_of(np.arange(100))
    for cut in (slice(k, k + 10) for k in range(0, 100, 10)):
        list(stream.process(Chunk(rows[cut], None, 0, stamps[cut], sequence=numbers[cut] if numbered else None)))
    assert [(gap.sample, gap.missing) for gap in stream.gaps] == [(50, 3)]
    assert stream.log.counts["no_time"] == 1
    assert stream.samples["in"] == 100


def test_samples_without_stamps_between_others_are_no_gap():
    stamps, rows = np.arange(80) / 50, rows_of(np.arange(80))
    stream = stream_of(reorder=2)
    decisions = []
    for at in range(0, 80, 10):
        decisions += stream.process(Chunk(rows[at : at + 10], None, 0, None if at == 40 else stamps[at : at + 10]))
    assert [d.first_sample for d in decisions] == starts(80)
    assert not stream.gaps


@pytest.mark.parametrize("source", ["stamps", "numbers", "both"])
def test_a_hole_among_what_a_queue_dropped_is_part_of_the_gap(source):
    numbers = np.concatenate([np.arange(60), np.arange(90, 150)])
    stream = stream_of()
    for at in range(0, 120, 10):
        part = numbers[at : at + 10]
        if at in (50, 60):
            stream.lost(10)
            continue
        stamps, sequence = (None if source == other else part for other in ("numbers", "stamps"))
        stamps = None if stamps is None else stamps / 50
        list(stream.process(Chunk(rows_of(part), None, 0, stamps, sequence=sequence)))
    assert [(g.sample, g.missing, g.cause) for g in stream.gaps] == [(70, 50, "overload")]
    assert stream.gaps[0].seconds == pytest.approx(51 / 50)


def test_what_a_queue_dropped_first_is_not_blamed_for_a_later_gap():
    stream = stream_of()
    stream.lost(20)
    for part in (np.arange(20, 60), np.arange(70, 90)):
        list(stream.process(Chunk(rows_of(part), None, sequence=part)))
    assert [(g.missing, g.cause) for g in stream.gaps] == [(10, "gap")]


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("stamped", [False, True])
def test_long_packets_that_come_twice_are_no_restart(size, stamped):
    order = np.concatenate([np.arange(6000), np.arange(3000, 7000)])
    stream = stream_of()
    found = []
    for at in range(0, len(order), size):
        numbers = order[at : at + size]
        found += stream.process(Chunk(rows_of(numbers), None, 0, numbers / 50 if stamped else None, sequence=numbers))
    assert stream.samples["duplicate"] == 3000
    assert [d.first_sample for d in found][:10] == starts(7000)[:10]
    assert len(found) == len(starts(7000))
    assert not stream.gaps


def test_a_chunk_of_any_length_may_come_twice():
    rows = rows_of(np.arange(20_000))
    stream = stream_of()
    for _ in range(2):
        list(stream.process(Chunk(rows, None, sequence=np.arange(20_000))))
    assert stream.samples["duplicate"] == 20_000
    assert stream.windows == len(starts(20_000))


@settings(deadline=None, max_examples=100)
@given(data=st.data(), reorder=st.integers(0, 5))
def test_every_sample_is_accounted_for_whatever_comes(data, reorder):
    """Any numbers at all, in any order: the books are right, and no window holds neighbours that are none."""
    numbers = np.array(data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=80)), np.int64)
    stream = stream_of(reorder=reorder)
    at = 0
    while at < len(numbers):
        size = data.draw(st.integers(1, 20))
        part = numbers[at : at + size]
        list(stream.process(Chunk(rows_of(part), None, sequence=part)))
        at += size
        samples = stream.samples
        assert samples["in"] == min(at, len(numbers)) == sum(v for k, v in samples.items() if k != "in")
        assert samples["held"] <= reorder
    list(stream.finish())
    assert stream.samples["held"] == 0
    for window in stream.engine.windows:  # type: ignore[attr-defined]
        assert (np.diff(window[:, 0]) == 1).all()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_chunks_do_not_matter(data):
    keep = np.array(sorted(data.draw(st.sets(st.integers(0, 120), min_size=20))))
    order = np.array(data.draw(st.permutations(range(len(keep))))) if data.draw(st.booleans()) else np.arange(len(keep))
    numbers = keep[order]
    runs = []
    for size in (1, data.draw(st.integers(2, 30)), 200):
        stream = stream_of(reorder=3)
        for at in range(0, len(numbers), size):
            part = numbers[at : at + size]
            list(stream.process(Chunk(rows_of(part), None, sequence=part)))
        list(stream.finish())
        runs.append(([w.tobytes() for w in stream.engine.windows], [g.missing for g in stream.gaps], stream.samples))  # type: ignore[attr-defined]
    assert runs[0] == runs[1] == runs[2]


def test_a_sample_that_is_held_back_waits_from_its_own_arrival():
    stream = stream_of(reorder=4)
    now = stream_now()
    numbers = [np.arange(0, 6), np.array([7]), np.array([6])]
    decisions = []
    for at, part in enumerate(numbers):
        decisions += stream.process(Chunk(rows_of(part), now - (3 - at) * 1_000_000_000, sequence=part))
    (decision,) = decisions
    # Number 7 is the window's last and came second, 2 s ago.
    assert decision.latency_ns[0] == pytest.approx(2e9, abs=5e8)


def stream_now() -> int:
    from time import monotonic_ns

    return monotonic_ns()


def test_a_clock_that_jumps_against_the_numbers_is_a_break():
    for jump, sign in ((60.0, 1), (-60.0, -1)):
        stamps = np.arange(200) / 50
        stamps[100:] += jump
        stream = stream_of()
        for at in range(0, 200, 20):
            numbers = np.arange(at, at + 20)
            list(stream.process(Chunk(rows_of(numbers), None, 0, stamps[at : at + 20], False, numbers)))
        (gap,) = stream.gaps
        assert (gap.sample, gap.cause, gap.missing) == (100, "clock", None)
        assert gap.seconds == pytest.approx(60 * sign, abs=0.1)


def test_a_restart_is_told_from_what_came_twice():
    first = np.arange(100)
    stream = stream_of()
    for part in (first, first[50:], first[:60] + 1000):
        list(
            stream.process(Chunk(rows_of(part), None, sequence=np.arange(len(part)) + (part[0] if part[0] < 99 else 0)))
        )
    assert stream.samples["duplicate"] == 50
    assert [gap.cause for gap in stream.gaps] == ["restart"]


@pytest.mark.parametrize("key", ["sequence", "timestamp_s"])
def test_as_many_numbers_as_samples(key):
    chunk = Chunk(np.zeros((4, 2), np.float32), None, **{key: np.arange(3)})
    text = f"chunk.{key}: has 3 entries; the chunk has 4 samples"
    with pytest.raises(UsageError, match=re.escape(text)):
        list(stream_of().process(chunk))


def test_a_negative_bound_is_refused():
    with pytest.raises(UsageError, match="reorder: got -1; a number of samples, 0 or more"):
        stream_of(reorder=-1)


# ------------------------------------------------------------------ what is made up


@pytest.mark.parametrize(("policy", "values"), [("hold", [4, 4, 4]), ("interpolate", [5, 6, 7])])
def test_a_short_hole_is_filled_and_said(policy, values):
    contract = make_contract(window=WINDOW, hop=HOP)
    stream = Stream(FakeEngine(contract, record=True), options=StreamOptions(policy, fill_most=3))
    numbers = np.delete(np.arange(20), [5, 6, 7])
    decisions = list(stream.process(Chunk(rows_of(numbers), None, sequence=numbers)))
    assert stream.engine.windows[0][5:8, 0].tolist() == values  # type: ignore[attr-defined]
    assert [d.filled for d in decisions] == [3, 3, 0, 0]
    assert [(g.missing, g.filled, g.dropped) for g in stream.gaps] == [(3, 3, 0)]
    samples = stream.samples
    assert samples["in"] + samples["filled"] == sum(v for k, v in samples.items() if k not in ("in", "filled"))
    # Places are the source's own: number 8 is the sixth sample that came.
    assert [(d.first_sample, d.last_sample) for d in decisions] == [(0, 4), (4, 8), (5, 12), (9, 16)]
    assert stream.disorder_samples == (3 if policy == "interpolate" else 0)


def test_a_longer_hole_is_split():
    contract = make_contract(window=WINDOW, hop=HOP)
    stream = Stream(FakeEngine(contract), options=StreamOptions("hold", fill_most=2))
    numbers = np.delete(np.arange(20), [5, 6, 7])
    decisions = list(stream.process(Chunk(rows_of(numbers), None, sequence=numbers)))
    assert [d.filled for d in decisions] == [0, 0]
    assert [(g.missing, g.filled, g.dropped) for g in stream.gaps] == [(3, 0, 5)]


def test_an_unknown_policy_is_refused():
    with pytest.raises(UsageError, match="gap policy: got 'holt'; did you mean 'hold'"):
        Stream(FakeEngine(make_contract()), options=StreamOptions("holt"))
