"""Paced replay against a queue computed by hand, on a clock that moves only when somebody sleeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.contract import Contract
from sattn_runtime.latency import STAGES
from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.sources.base import Chunk, Signal, SourceOptions, StreamStart
from sattn_runtime.sources.replay import open_source
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract
from tests.helpers_engine import BACKEND, FakeClock, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import lines_of

RATE, WINDOW, HOP = 50.0, 16, 8
HOP_S = HOP / RATE
SAMPLES = 16 + 8 * 39  # 40 windows
# Every window takes 10 ms, but the tenth stalls for five hops.
SERVICE_S = np.where(np.arange(40) == 10, 5 * HOP_S, 0.01)


class Stalling(FakeEngine):
    """Sleeps as long as the table says for the window at hand; what the warm-up infers takes no time."""

    def __init__(self, contract: Contract, service_s: np.ndarray, clock: FakeClock) -> None:
        super().__init__(contract)
        self._service_s, self._clock, self._number = service_s, clock, 0

    def infer_stamped(self, x: np.ndarray, stamps: list[int]) -> np.ndarray:
        number = round(float(x[0, 0, 0, 0])) // HOP  # the samples count themselves
        self._clock.sleep(0.0)
        stamps[0] = self._clock.monotonic_ns()
        self._clock.sleep(float(self._service_s[number]))
        stamps[1] = stamps[2] = self._clock.monotonic_ns()
        return super()._run(x)


def queue(due_s: np.ndarray, service_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(wait, latency) of each job at one server that takes them in order: the oracle."""
    waits, free = [], -np.inf
    for due, service in zip(due_s, service_s, strict=True):
        begin = max(due, free)
        waits.append(begin - due)
        free = begin + service
    return np.array(waits), np.array(waits) + service_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def run_stalling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock, **options: Any
) -> tuple[RunResult, np.ndarray, np.ndarray]:
    """(result, wait and total latency of each window in seconds)."""
    add_backend(monkeypatch, lambda contract: Stalling(contract, SERVICE_S, clock))
    model, data, journal = save_model(tmp_path, window=WINDOW, hop=HOP), tmp_path / "r.npz", tmp_path / "j.jsonl"
    np.savez(data, signal=np.arange(SAMPLES, dtype=np.float32)[:, None].repeat(2, 1))
    wanted = RunOptions(model=str(model), source=f"replay:{data}", journal=str(journal), backend=BACKEND, **options)
    result = run(wanted, tell=lambda _: None, stop=Stop())
    rows = [row["latency_us"] for row in lines_of(journal, "window")[-result.windows :]]
    return result, np.array([r["wait"] for r in rows]) / 1e6, np.array([sum(r.values()) for r in rows]) / 1e6


@pytest.mark.parametrize("speed", [1.0, 2.0, 0.5])
def test_a_stall_counts_for_every_window_that_waits_behind_it(tmp_path, monkeypatch, clock, speed):
    result, waits, totals = run_stalling(tmp_path, monkeypatch, clock, speed=speed)
    due_s = (WINDOW + HOP * np.arange(40)) / RATE / speed
    wanted_waits, wanted = queue(due_s, SERVICE_S)
    np.testing.assert_allclose(waits, wanted_waits, atol=1e-6)
    np.testing.assert_allclose(totals, wanted, atol=1e-6)
    assert (wanted_waits > 0).sum() == {1.0: 5, 2.0: 11, 0.5: 2}[speed]
    summary: Any = result.latency.summary()
    for name, q in {"p50": 0.5, "p90": 0.9, "p99": 0.99}.items():
        exact = np.sort(wanted)[int(np.ceil(q * 40)) - 1] * 1e6
        assert summary["total_us"][name] == pytest.approx(exact, rel=0.004)
    assert summary["total_us"]["max"] == pytest.approx(5 * HOP_S * 1e6, abs=1)
    assert summary["stages_us"]["wait"]["max"] == pytest.approx(wanted_waits.max() * 1e6, abs=1)
    assert summary["stages_us"]["infer"]["max"] == pytest.approx(5 * HOP_S * 1e6, abs=1)
    deadline = HOP_S
    assert summary["deadline_us"] == pytest.approx(deadline * 1e6)
    assert summary["misses"] == (wanted > deadline + 1e-9).sum()
    done = due_s + wanted
    assert summary["longest_stall_us"] == pytest.approx((np.diff(done).max() - deadline) * 1e6, abs=1)
    assert summary["jitter_us"] == pytest.approx(np.abs(np.diff(wanted)).mean() * 1e6, abs=1)
    assert result.paced


def test_at_full_speed_nothing_waits(tmp_path, monkeypatch, clock):
    """The control: the same stall, no schedule; and what a loop that waits for itself would report."""
    result, waits, totals = run_stalling(tmp_path, monkeypatch, clock)
    assert not result.paced
    assert waits.max() == 0
    np.testing.assert_allclose(totals, SERVICE_S, atol=1e-6)
    summary: Any = result.latency.summary()
    assert summary["stages_us"]["wait"]["max"] == 0
    # One slow window of 40 does not show at p95; with a schedule those behind it do.
    assert summary["total_us"]["p95"] == pytest.approx(10_000, rel=0.004)
    _, paced, _ = run_stalling(tmp_path, monkeypatch, clock, speed=1.0)
    assert np.sort(paced)[37] > 0.1


def test_an_engine_that_never_keeps_up_falls_behind_steadily(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(f"{__name__}.SERVICE_S", np.full(40, 1.5 * HOP_S))
    result, waits, _ = run_stalling(tmp_path, monkeypatch, clock, speed=1.0)
    np.testing.assert_allclose(waits, np.arange(40) * 0.5 * HOP_S, atol=1e-6)
    assert result.latency.summary()["misses"] == 40


def test_a_deadline_of_ones_own(tmp_path, monkeypatch, clock):
    result, _, totals = run_stalling(tmp_path, monkeypatch, clock, speed=1.0, deadline_ms=9.0)
    assert result.latency.summary()["misses"] == 40
    result, _, totals = run_stalling(tmp_path, monkeypatch, clock, speed=1.0, deadline_ms=10.5)
    assert result.latency.summary()["misses"] == (totals > 0.0105).sum() == 6


# ------------------------------------------------------------------ the schedule itself


def schedule(path: Path, clock: FakeClock, late_s: float = 0.0, **options: Any) -> list[tuple[int, float, float]]:
    """(samples, due, handed over) of each chunk, in seconds from the first read; `late_s` is lost at every read."""
    contract = make_contract(("c0", "c1"), rate_hz=RATE)
    source = open_source(str(path), contract, SourceOptions(**options))
    assert isinstance(source.read(1), StreamStart)
    began, found = clock.now_ns, []
    while (item := source.read(0.1)) is not Signal.END:
        if isinstance(item, Chunk):
            assert item.arrival_ns is not None
            found.append((len(item.samples), (item.arrival_ns - began) / 1e9, (clock.now_ns - began) / 1e9))
            clock.sleep(late_s)
    return found


@pytest.mark.parametrize(("window", "hop"), [(16, 8), (16, 5), (5, 16), (8, 8), (500, 3)])
def test_chunks_end_where_windows_end_and_come_on_time(tmp_path, clock, window, hop):
    np.savez(tmp_path / "r.npz", signal=np.zeros((100, 2), np.float32))
    found = schedule(tmp_path / "r.npz", clock, speed=2.0, window=window, hop=hop)
    ends = np.cumsum([n for n, _, _ in found])
    assert ends[-1] == 100
    assert set(range(window, 101, hop)) <= set(ends.tolist())
    for end, (_, due, handed) in zip(ends, found, strict=True):
        assert due == pytest.approx(end / RATE / 2, abs=1e-6)
        assert handed == pytest.approx(due, abs=1e-6)


def test_a_late_reader_does_not_move_the_schedule(tmp_path, clock):
    np.savez(tmp_path / "r.npz", signal=np.zeros((100, 2), np.float32))
    on_time = schedule(tmp_path / "r.npz", clock, speed=1.0, window=8, hop=4)
    late = schedule(tmp_path / "r.npz", clock, late_s=0.2, speed=1.0, window=8, hop=4)
    assert [due for _, due, _ in late] == pytest.approx([due for _, due, _ in on_time])
    assert late[-1][2] > on_time[-1][2] + 1


def test_a_read_waits_no_longer_than_told(tmp_path, clock):
    np.savez(tmp_path / "r.npz", signal=np.zeros((100, 2), np.float32))
    source = open_source(str(tmp_path / "r.npz"), make_contract(("c0", "c1")), SourceOptions(1.0, 50, 50))
    assert isinstance(source.read(0.1), StreamStart)
    began, reads = clock.now_ns, 0
    while (item := source.read(0.1)) is Signal.NOTHING:
        reads += 1
        assert clock.now_ns - began == reads * 100_000_000
    assert isinstance(item, Chunk)
    assert reads in (9, 10)
    assert clock.now_ns - began == 1_000_000_000


@pytest.mark.parametrize(("speed", "handed"), [(1e-320, 1), (1e-9, 1), (float("inf"), 13)])
def test_any_speed_above_zero(tmp_path, clock, speed, handed):
    np.savez(tmp_path / "r.npz", signal=np.zeros((100, 2), np.float32))
    source = open_source(str(tmp_path / "r.npz"), make_contract(("c0", "c1")), SourceOptions(speed, 8, 8))
    items = [source.read(0.1) for _ in range(14)]
    assert sum(item is not Signal.NOTHING for item in items) == handed + (speed > 1)


def test_the_wait_is_a_stage_of_its_own(tmp_path, monkeypatch, clock):
    result, _, _ = run_stalling(tmp_path, monkeypatch, clock, speed=1.0)
    assert tuple(result.latency.stages) == STAGES
