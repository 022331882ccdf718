"""Boards with meters, and runs on a clock that moves only when somebody sleeps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sattn_edge.contract import Contract
from sattn_runtime.bench.gauges import Sampler
from sattn_runtime.bench.lane import Lane
from sattn_runtime.bench.options import Configuration, Mode
from sattn_runtime.bench.results import Clock, Context
from sattn_runtime.doctor.tree import Tree
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import ROOT
from tests.helpers_engine import FakeClock
from tests.sattn_runtime.doctor.helpers_boards import plant_tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

POWER = ROOT / "tests" / "data" / "board_power"
FAST = ("--windows", "20", "--speed", "500")  # of a run by the command


def board(name: str, folder: Path) -> Tree:
    """A board's files, planted."""
    return Tree(plant_tree(tomllib.loads((POWER / f"{name}.toml").read_text()), folder))


def write(tree: Tree, path: str, text: str) -> None:
    """Changes what a file of a planted board says."""
    Path(tree.host_path(path)).write_text(text)


def sampled(tree: Tree, gauges: list[Any], change: Callable[[], None] | None = None) -> Any:
    """The track of two samples, with a change between them; no thread gets to read in between."""
    with Sampler(tree, gauges, interval_s=3600) as sampler:
        if change is not None:
            change()
    return sampler.track()


def context(**changes: Any) -> Context:
    """A device at rest whose clock is locked."""
    rows: dict[str, Any] = {
        "at": "2026-01-01T00:00:00",
        "machine": None,
        "architecture": "aarch64",
        "cpu": "A CPU",
        "cpus": 4,
        "kernel": "6.1",
        "jetpack": None,
        "power_mode": "15W",
        "cpu_clocks": (Clock("policy0", 1000.0, 1000.0, 1000.0, "performance"),),
        "gpu_clock": None,
        "temperature_c": {"cpu": 40.0},
        "throttled": {},
        "cooling": {},
        "load_1min": 0.1,
        "busy_s": 100.0,
        "stolen_s": 0.0,
        "own_s": 1.0,
    }
    return Context(**{**rows, **changes})


class TimedEngine(FakeEngine):
    """Sleeps as long as a table says for the call at hand; calls beyond it take no time. Knows batches."""

    def __init__(self, contract: Contract, clock: FakeClock) -> None:
        super().__init__(contract, record=True)
        self._clock = clock
        self.service_s: list[float] = []
        self.calls = 0

    def infer_stamped(self, x: np.ndarray, stamps: list[int]) -> np.ndarray:
        stamps[0] = self._clock.monotonic_ns()
        if self.service_s:
            self._clock.sleep(self.service_s.pop(0))
        stamps[1] = stamps[2] = self._clock.monotonic_ns()
        self.calls += 1
        return self._run(x)


def lane_of(engine: FakeEngine, mode: Mode, *, batch: int = 1, hop: int = 4, period_ms: float = 10.0) -> Lane:
    """A lane whose samples count themselves."""
    contract = engine.contract
    samples = np.arange(4000, dtype=np.float32)[:, None].repeat(contract.modal, 1)
    configuration = Configuration("fake", "fp32", batch, hop, 1)
    return Lane(configuration, mode, engine, samples, period_ms * 1e6, round(hop * period_ms * 1e6))
