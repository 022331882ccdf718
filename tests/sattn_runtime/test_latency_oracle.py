"""Reported latency against an oracle that knows nothing of the runtime, under twenty ways to stall."""

from __future__ import annotations

import ast
import math
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.contract import Contract
from sattn_runtime.decision import Decision
from sattn_runtime.latency import ROWS, Latency
from sattn_runtime.observer import Observer
from sattn_runtime.run import RunOptions, run
from sattn_runtime.run_result import RunResult
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import ROOT
from tests.helpers_engine import BACKEND, FakeClock, add_backend
from tests.helpers_model import save_model

RATE, WINDOW, HOP, COUNT = 1000.0, 16, 8, 3000
HOP_S = HOP / RATE
USUAL_S = 0.0004
WITHIN = 0.01
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def usual() -> np.ndarray:
    return np.full(COUNT, USUAL_S)


def one(at: int, seconds: float) -> np.ndarray:
    found = usual()
    found[at] = seconds
    return found


def every(step: int, seconds: float) -> np.ndarray:
    found = usual()
    found[::step] = seconds
    return found


def between(first: int, last: int, seconds: float) -> np.ndarray:
    found = usual()
    found[first:last] = seconds
    return found


def drawn(draw: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
    return draw(np.random.default_rng(7))


PATTERNS: dict[str, np.ndarray] = {
    "none": usual(),
    "one second in the middle": one(1500, 1.0),
    "one second at once": one(0, 1.0),
    "one second at the end": one(COUNT - 1, 1.0),
    "ten seconds": one(800, 10.0),
    "a tenth of a second": one(2000, 0.1),
    "as long as a hop": every(10, HOP_S),
    "a little longer than a hop": every(10, HOP_S * 1.01),
    "twice, one behind the other": one(1000, 0.5) + one(1010, 0.5) - usual(),
    "a collector every hundred windows": every(100, 0.03),
    "a collector every seven windows": every(7, 0.02),
    "never fast enough": np.full(COUNT, HOP_S * 1.02),
    "just fast enough": np.full(COUNT, HOP_S * 0.999),
    "hot, and slow for a while": between(1000, 1600, HOP_S * 1.3),
    "slower and slower": np.linspace(USUAL_S, HOP_S * 1.2, COUNT),
    "a sawtooth": USUAL_S + HOP_S * 2 * (np.arange(COUNT) % 50) / 50 * 0.9,
    "exponential": drawn(lambda rng: rng.exponential(HOP_S * 0.7, COUNT)),
    "lognormal": drawn(lambda rng: rng.lognormal(math.log(0.001), 1.2, COUNT)),
    "heavy tail": drawn(lambda rng: np.minimum(0.001 * (1 + rng.pareto(1.3, COUNT)), 3.0)),
    "now and then a disk": drawn(
        lambda rng: np.where(rng.random(COUNT) < 0.004, rng.uniform(0.05, 0.4, COUNT), USUAL_S)
    ),
}


class Stalling(FakeEngine):
    """Sleeps as long as the pattern says for the window at hand."""

    def __init__(self, contract: Contract, service_s: np.ndarray, clock: FakeClock) -> None:
        super().__init__(contract)
        self._service_s, self._clock = service_s, clock

    def infer_stamped(self, x: np.ndarray, stamps: list[int]) -> np.ndarray:
        number = round(float(x[0, 0, 0, 0])) // HOP  # the samples count themselves
        stamps[0] = self._clock.monotonic_ns()
        self._clock.sleep(float(self._service_s[number]))
        stamps[1] = stamps[2] = self._clock.monotonic_ns()
        return super()._run(x)


def reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service_s: np.ndarray) -> dict[str, Any]:
    clock = FakeClock(monkeypatch)
    add_backend(monkeypatch, lambda contract: Stalling(contract, service_s, clock))
    model, data = save_model(tmp_path, window=WINDOW, hop=HOP, rate_hz=RATE), tmp_path / "r.npz"
    samples = WINDOW + HOP * (COUNT - 1)
    np.savez(data, signal=np.arange(samples, dtype=np.float32)[:, None].repeat(2, 1), channels=["c0", "c1"])
    options = RunOptions(str(model), f"replay:{data}", speed=1.0, backend=BACKEND)
    return run(options, tell=lambda _: None, stop=Stop()).latency.summary()


def oracle(service_s: np.ndarray) -> list[float]:
    """How long each sample block's answer took, when one clerk serves a line of customers who come on time."""
    took, free_at = [], 0.0
    for number, service in enumerate(service_s):
        came = (WINDOW + HOP * number) / RATE
        free_at = max(free_at, came) + float(service)
        took.append(free_at - came)
    return took


def quantile(values: list[float], q: float) -> float:
    """The smallest value that a part `q` of all do not exceed."""
    ordered = sorted(values)
    return next(v for i, v in enumerate(ordered, 1) if i >= q * len(ordered) - 1e-9)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_report_is_within_a_percent_of_the_truth(tmp_path, monkeypatch, name):
    service_s = PATTERNS[name]
    found, truth = reported(tmp_path, monkeypatch, service_s), oracle(service_s)
    assert found["windows"] == COUNT
    for label, q in QUANTILES.items():
        assert found["total_us"][label] == pytest.approx(quantile(truth, q) * 1e6, rel=WITHIN), label
    assert found["misses"] == pytest.approx(sum(t > HOP_S + 1e-9 for t in truth), abs=1)
    done = [(WINDOW + HOP * i) / RATE + t for i, t in enumerate(truth)]
    longest = max(b - a for a, b in pairwise(done))
    assert found["longest_stall_us"] == pytest.approx(max(0.0, longest - HOP_S) * 1e6, rel=WITHIN, abs=1)
    steps = [abs(b - a) for a, b in pairwise(truth)]
    assert found["jitter_us"] == pytest.approx(sum(steps) / len(steps) * 1e6, rel=WITHIN, abs=0.1)


def test_there_are_twenty():
    assert len(PATTERNS) == 20


def test_a_loop_that_times_itself_is_off_a_thousand_times():
    """The control, and why due is the schedule's: service time alone does not see who waited."""
    service_s = PATTERNS["one second in the middle"]
    naive, truth = quantile(service_s.tolist(), 0.99), quantile(oracle(service_s), 0.99)
    assert truth / naive > 1000


def test_one_percent_is_not_idle(tmp_path, monkeypatch):
    """The control: a pattern that is 2 % slower is told from it."""
    service_s = PATTERNS["exponential"]
    found, truth = reported(tmp_path, monkeypatch, service_s), oracle(service_s * 1.02)
    assert found["total_us"]["p99"] != pytest.approx(quantile(truth, 0.99) * 1e6, rel=WITHIN)


# ------------------------------------------------------------------ the recorder itself

ROW = (1000, 2000, 0, 5_500_000, 0, 7)


def traced(add: Callable[[int], object], count: int) -> tuple[int, int]:
    """(bytes kept, most bytes at one time) over so many calls, after as many to warm up."""
    for i in range(count):
        add(i)
    tracemalloc.start()
    tracemalloc.reset_peak()
    for i in range(count):
        add(count + i)
    found = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found


def test_recording_keeps_a_block_at_most():
    latency = Latency(10**6)
    kept, most = traced(lambda i: latency.add(ROW, 900, 10**12 + i * 10**6), 40 * ROWS)
    assert kept < 2_000  # whole blocks, all of them counted
    assert most < ROWS * 200 + 12_000  # a row is a tuple and a number here, 120 bytes


class Kept(Observer):
    """How many rows a run keeps, after each of its windows."""

    def begin(self, result: RunResult) -> None:
        self._latency, self.rows = result.latency, set[int]()

    def window(self, stream: str, decision: Decision, emit_ns: int, done_ns: int) -> None:
        self.rows.add(len(self._latency.rows))


def test_a_run_keeps_a_block_at_most(tmp_path, monkeypatch):
    add_backend(monkeypatch, FakeEngine)
    model, data, kept = save_model(tmp_path, window=WINDOW, hop=HOP, rate_hz=RATE), tmp_path / "r.npz", Kept()
    np.savez(data, signal=np.zeros((WINDOW + HOP * (COUNT - 1), 2), np.float32), channels=["c0", "c1"])
    options = RunOptions(str(model), f"replay:{data}", backend=BACKEND)
    result = run(options, tell=lambda _: None, stop=Stop(), observers=[kept])
    assert kept.rows == set(range(ROWS))  # 0 where they were counted
    assert result.latency.total.count == COUNT > 2 * ROWS


def test_counting_makes_no_array():
    latency, most = Latency(10**6), 0
    for _ in range(2):  # once to warm up
        for i in range(ROWS - 1):
            latency.add(ROW, 900, 10**12 + i * 10**6)
        tracemalloc.start()
        latency.fold()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # What numpy needs to walk one block; an array for each of the eight columns' steps would be far more.
    assert most < 12_000


def test_the_tracer_sees_what_is_kept_and_what_is_made():
    """The controls: a list of latencies; a block's arrays made anew."""
    kept_rows: list[int] = []
    assert traced(lambda i: kept_rows.append(10**12 + i), 20_000)[0] > 100_000
    assert traced(lambda i: np.cumsum(np.zeros(512)) + np.zeros(512), 100)[1] > 12_000 > 2 * 4096


# ------------------------------------------------------------------ the wall clock

RUNTIME = ROOT / "runtime" / "sattn_runtime"
# Where the wall clock may be asked, since a person reads it: when a journal or a build began.
WALL_CLOCK = {"build.py", "run.py", "journal.py", "journal_file.py"}


def wall_clock_calls(text: str) -> list[str]:
    """Every use of the wall clock in a module, by its syntax: a string or a comment is none."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "time.localtime", "time.ctime"):
                found.append(name)
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found += [f"time.{a.name}" for a in node.names if a.name in ("time", "time_ns", "localtime", "ctime")]
    return found


def test_no_latency_is_taken_from_the_wall_clock():
    for path in sorted(RUNTIME.rglob("*.py")):
        found = wall_clock_calls(path.read_text())
        assert not [name for name in found if name.startswith("time.")], path
        if path.parent == RUNTIME and path.name not in WALL_CLOCK:
            assert not found, path


@pytest.mark.parametrize(
    "text", ["import time\nx = time.time()", "from time import time", "from datetime import datetime\ndatetime.now()"]
)
def test_the_wall_clock_would_be_seen(text):
    """The control."""
    assert wall_clock_calls(text)
    assert not wall_clock_calls("import time\ntime.monotonic_ns()\n'time.time()'")


def test_the_clock_that_is_used_is_the_monotonic_one():
    assert time.get_clock_info("monotonic").monotonic
