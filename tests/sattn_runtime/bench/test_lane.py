"""Known service times in, known latencies out: against a queue computed by hand, on a clock of our own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sattn_runtime.bench.lane import Lane
from sattn_runtime.bench.summary import curve, quantiles_us, ratios
from sattn_runtime.stop import Stop
from tests.helpers_data import make_contract
from tests.helpers_engine import FakeClock
from tests.sattn_runtime.bench.helpers_bench import TimedEngine, lane_of

HOP_S = 0.04  # 4 samples of 10 ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


@pytest.fixture
def engine(clock: FakeClock) -> TimedEngine:
    return TimedEngine(make_contract(), clock)


def queue(service_s: np.ndarray) -> np.ndarray:
    """Latency of each window at one server that takes them in order, one due every hop: the oracle."""
    due = HOP_S * (1 + np.arange(len(service_s)))
    found, free = [], 0.0
    for at, service in zip(due, service_s, strict=True):
        free = max(at, free) + service
        found.append(free - at)
    return np.array(found)


def nearest_rank(values: np.ndarray, q: float) -> float:
    return float(np.sort(values)[max(1, math.ceil(q * len(values))) - 1])


def run_turn(lane: Lane, engine: TimedEngine, service_s: np.ndarray) -> None:
    engine.service_s = [0.0, *service_s.tolist()]  # the first hop of a turn is not counted
    lane.turn(hops=len(service_s), seconds=0, stop=Stop())


def test_a_stall_is_counted_for_every_window_behind_it(engine):
    service = np.full(1000, 0.01)
    service[300] = 1.0
    lane = lane_of(engine, "paced")
    run_turn(lane, engine, service)
    wanted = queue(service) * 1e6
    total = quantiles_us(lane.latency.total)
    for name, q in {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}.items():
        assert total[name] == pytest.approx(nearest_rank(wanted, q), rel=0.01)
    assert total["max"] == pytest.approx(1e6, abs=1)
    assert lane.latency.misses == (wanted > HOP_S * 1e6 + 1).sum() > 20
    assert lane.latency.summary()["jitter_us"] == pytest.approx(np.abs(np.diff(wanted)).mean(), rel=0.01)
    done = HOP_S * (1 + np.arange(1000)) + wanted / 1e6
    assert lane.latency.longest_stall_ns / 1e9 == pytest.approx(np.diff(done).max() - HOP_S, abs=1e-6)


def test_back_to_back_sees_one_slow_window_only(engine):
    """The control: the same stall without a schedule."""
    service = np.full(1000, 0.01)
    service[300] = 1.0
    lane = lane_of(engine, "back-to-back")
    run_turn(lane, engine, service)
    total = quantiles_us(lane.latency.total)
    assert total["p99.9"] == pytest.approx(10_000, rel=0.01)
    assert total["max"] == pytest.approx(1e6, abs=1)
    assert lane.latency.misses == 1
    assert lane.latency.stages["wait"].max_ns == 0


def test_the_stages_add_up_and_the_wait_is_one_of_them(engine):
    lane = lane_of(engine, "paced")
    run_turn(lane, engine, np.array([0.1, 0.01, 0.01]))
    stages = lane.latency.stages
    assert stages["wait"].max_ns == pytest.approx(0.06e9, abs=10)
    assert stages["infer"].max_ns == pytest.approx(0.1e9, abs=10)
    assert sum(h.total_ns for h in stages.values()) == lane.latency.total.total_ns


def test_sensors_in_step_go_in_one_call_and_each_window_counts(engine):
    lane = lane_of(engine, "paced", batch=3)
    before = engine.calls
    run_turn(lane, engine, np.full(50, 0.02))
    assert engine.calls - before == 51
    assert lane.latency.total.count == 150
    assert lane.turns[0].windows == 150
    assert lane.latency.total.max_ns == pytest.approx(0.02e9, abs=10)
    last = engine.windows[-3:]
    assert all((w == last[0]).all() for w in last)
    assert (np.diff(last[0][:, 0]) == 1).all()


def test_each_of_a_batch_waits_for_those_decided_before_it(clock, monkeypatch):
    """Decisions are made one after the other: the last one's stage holds all of them."""
    from sattn_runtime.bench import lane as module

    engine = TimedEngine(make_contract(), clock)
    lane = lane_of(engine, "back-to-back", batch=3)

    class Slow(module.Smoother):
        def decide(self, logits):
            clock.sleep(0.001)
            return super().decide(logits)

    lane._streams._smoothers = [Slow(1) for _ in range(3)]
    run_turn(lane, engine, np.zeros(1))
    assert lane.latency.stages["decide"].total_ns == pytest.approx((1 + 2 + 3) * 1e6, abs=10)


@pytest.mark.parametrize("hop", [1, 4, 8, 20])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_hop_completes_a_window_of_consecutive_samples(engine, hop, batch):
    lane = lane_of(engine, "paced", hop=hop, batch=batch)
    engine.windows.clear()
    run_turn(lane, engine, np.zeros(30))
    assert lane.latency.total.count == 30 * batch
    windows = engine.windows[::batch]
    assert all((np.diff(w[:, 0]) == 1).all() for w in windows)
    assert set(np.diff([w[0, 0] for w in windows])) == {hop}


def test_a_turn_goes_on_where_the_last_one_stopped_and_the_pause_is_no_stall(engine, clock):
    lane = lane_of(engine, "paced")
    run_turn(lane, engine, np.full(5, 0.01))
    clock.sleep(100)
    run_turn(lane, engine, np.full(5, 0.01))
    assert lane.latency.longest_stall_ns == 0
    assert lane.latency.total.max_ns == pytest.approx(0.01e9, abs=10)
    assert [turn.windows for turn in lane.turns] == [5, 5]
    assert lane.turns[1].began_ns - lane.turns[0].ended_ns >= 100e9


def test_a_turn_of_seconds_ends_with_them_and_has_one_window_at_least(engine):
    lane = lane_of(engine, "back-to-back")
    engine.service_s = [0.0] + [0.1] * 100
    lane.turn(hops=None, seconds=1.0, stop=Stop())
    assert lane.turns[0].windows == 10
    engine.service_s = [0.0, 5.0]
    lane.turn(hops=None, seconds=1.0, stop=Stop())
    assert lane.turns[1].windows == 1


def test_a_stop_ends_a_turn_after_the_hop_at_hand(engine):
    stop = Stop()
    lane = lane_of(engine, "paced")
    stop.ask()
    lane.turn(hops=5, seconds=0, stop=stop)
    assert lane.turns[0].windows == 0


def test_a_stop_does_not_wait_for_a_hop_that_takes_minutes(engine, clock, monkeypatch):
    from sattn_runtime.bench import lane as module

    stop = Stop()
    lane = lane_of(engine, "paced", period_ms=60_000.0)
    slept: list[float] = []

    def nap(seconds: float) -> None:
        slept.append(seconds)
        clock.sleep(seconds)
        if len(slept) == 2000:  # within the third hop of 240 s
            stop.ask()

    monkeypatch.setattr(module, "sleep", nap)
    lane.turn(hops=10, seconds=0, stop=stop)
    assert len(slept) == 2000
    assert max(slept) <= 1
    assert lane.turns[0].windows == 2  # the third's samples never came
    assert lane.latency.total.max_ns == 0


def test_quantiles_of_too_few_windows_are_not_told(engine):
    lane = lane_of(engine, "back-to-back")
    run_turn(lane, engine, np.full(99, 0.01))
    assert quantiles_us(lane.latency.total)["p99"] is None
    run_turn(lane, engine, np.full(1, 0.01))
    assert quantiles_us(lane.latency.total)["p99"] == pytest.approx(10_000, rel=0.01)
    assert quantiles_us(lane.latency.total)["p99.9"] is None


def test_the_curve_rises_from_the_fastest_to_the_slowest(engine):
    lane = lane_of(engine, "back-to-back")
    service = np.linspace(0.01, 0.02, 500)
    run_turn(lane, engine, service)
    points = curve(lane.latency.total)
    parts, values = np.array(points).T
    assert (np.diff(parts) > 0).all()
    assert (np.diff(values) >= 0).all()
    assert points[-1] == (1.0, pytest.approx(20_000, abs=1))
    for part, value in points[:-1]:
        assert value == pytest.approx(nearest_rank(service * 1e6, part), rel=0.01)


def test_ratios_are_of_medians_round_by_round(clock):
    first, second = (lane_of(TimedEngine(make_contract(), clock), "back-to-back") for _ in range(2))
    for base in (0.01, 0.02, 0.04):  # the machine slows down, and both with it
        run_turn(first, first.engine, np.full(5, base))
        run_turn(second, second.engine, np.full(5, 2 * base))
    assert ratios(second, first) == pytest.approx((2.0, 2.0, 2.0), rel=1e-6)
    assert ratios(first, first) == (1.0, 1.0, 1.0)
