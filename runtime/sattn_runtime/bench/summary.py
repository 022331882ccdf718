"""From what lanes counted to what a run reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge._version import __version__
from sattn_edge.engine import BUILT
from sattn_edge.errors import BudgetError
from sattn_edge.model_file import ModelFile
from sattn_runtime.bench.gauges import Track
from sattn_runtime.bench.lane import Lane
from sattn_runtime.bench.options import BenchOptions
from sattn_runtime.bench.power import Power, power_of, rails_of
from sattn_runtime.bench.results import FORMAT, KIND, Bench, Cold, Context, Energy, Measurement, Series, engine_row
from sattn_runtime.bench.stability import judge
from sattn_runtime.doctor.tree import Tree
from sattn_runtime.latency import QUANTILES, STAGES, Histogram

# Nothing is emitted: a benchmark has no journal.
BENCH_STAGES = STAGES[:-1]
_CURVE = 120  # points of a distribution
_MOST_POINTS = 1000  # of a series over time
_Rails = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Setting:
    """What is measured, of which model, on which samples, where."""

    options: BenchOptions
    model: ModelFile
    source: str
    tree: Tree


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that was measured.

    lanes: those that counted a window. cold: by id of the engine. between_s: from context to context. metered: times
    and rails of tegrastats, if it ran. unmeasured: names of lanes that a stop came too early for.
    """

    setting: Setting
    lanes: tuple[Lane, ...]
    cold: dict[int, Cold]
    before: Context
    after: Context
    between_s: float
    track: Track
    metered: tuple[NDArray[np.int64], _Rails]
    started: str
    began_ns: int
    ended_ns: int
    stopped: bool
    unmeasured: tuple[str, ...] = ()


def summarise(run: Run) -> Bench:
    """The report's data."""
    setting, model = run.setting, run.setting.model
    elapsed_s = (run.ended_ns - run.began_ns) / 1e9
    rails = rails_of(run.track)
    at_ns, rails = (run.track.at_ns, rails) if rails else run.metered
    power = power_of(at_ns, rails)
    on_gpu = any(backend in BUILT for backend in setting.options.backends)
    return Bench(
        kind=KIND,
        format=FORMAT,
        version=__version__,
        model=model.name,
        graph_digest=model.graph_digest,
        window_samples=model.contract.window,
        channels=model.contract.modal,
        rate_hz=model.contract.rate_hz,
        speed=setting.options.speed,
        data=setting.source,
        started=run.started,
        elapsed_s=round(elapsed_s, 3),
        stopped=run.stopped,
        stability=judge(run.before, run.after, run.track, run.between_s, on_gpu=on_gpu),
        before=run.before,
        after=run.after,
        measurements=tuple(_measurement(lane, _first(lane, run.lanes), run, power) for lane in run.lanes),
        series=_series(run, power),
        unmeasured=run.unmeasured,
    )


def _first(lane: Lane, lanes: tuple[Lane, ...]) -> Lane:
    """The first configuration in the same mode, which the others are held against."""
    return next(other for other in lanes if other.mode == lane.mode)


def _measurement(lane: Lane, first: Lane, run: Run, power: Power | None) -> Measurement:
    latency = lane.latency
    ratio = ratios(lane, first)
    windows = latency.total.count
    spent_s = sum(turn.ended_ns - turn.began_ns for turn in lane.turns) / 1e9
    return Measurement(
        configuration=lane.configuration.name,
        batch=lane.configuration.batch,
        hop_samples=lane.configuration.hop,
        mode=lane.mode,
        basis="due to done" if lane.mode == "paced" else "service time only",
        engine=engine_row(lane.engine.info),
        cold=run.cold[id(lane.engine)],
        windows=windows,
        rounds=len(lane.turns),
        deadline_us=latency.deadline_ns / 1000,
        misses=latency.misses,
        longest_stall_us=round(latency.longest_stall_ns / 1000, 2),
        jitter_us=round(latency.jitter_us, 2),
        total_us=quantiles_us(latency.total),
        stages_us={name: quantiles_us(latency.stages[name]) for name in BENCH_STAGES},
        percentiles_us=curve(latency.total),
        ratio=ratio[1],
        ratio_low=ratio[0],
        ratio_high=ratio[2],
        windows_per_s=round(windows / spent_s, 2) if spent_s else 0.0,
        energy=_energy(lane, power),
    )


def quantiles_us(histogram: Histogram) -> dict[str, float | None]:
    """p50 to p99.9, max and mean; None where so few windows were counted that the quantile would be the maximum."""
    rows: dict[str, float | None] = dict(histogram.summary_us())
    for name, q in QUANTILES.items():
        if histogram.count < round(1 / (1 - q)):
            rows[name] = None
    return rows


def curve(histogram: Histogram) -> tuple[tuple[float, float], ...]:
    """(part of the windows, microseconds they do not exceed): even steps up to the half, then ever closer to all."""
    if not histogram.count:
        return ()
    tail = 1 - np.logspace(math.log10(0.5), -math.log10(histogram.count), _CURVE // 2)
    parts = [*np.linspace(0, 0.5, _CURVE // 2, endpoint=False).tolist(), *tail.tolist()]
    points = [(round(part, 9), round(histogram.quantile_ns(part) / 1000, 3)) for part in parts]
    return (*points, (1.0, round(histogram.max_ns / 1000, 3)))


def ratios(lane: Lane, first: Lane) -> tuple[float | None, float | None, float | None]:
    """Medians over the first configuration's, round by round: (lower quartile, median, upper quartile)."""
    pairs = [
        mine.p50_us / other.p50_us
        for mine, other in zip(lane.turns, first.turns, strict=False)
        if mine.windows and other.windows and other.p50_us
    ]
    if not pairs:
        return None, None, None
    low, middle, high = np.quantile(pairs, [0.25, 0.5, 0.75]).tolist()
    return round(low, 4), round(middle, 4), round(high, 4)


def _energy(lane: Lane, power: Power | None) -> Energy | None:
    if power is None:
        return None
    joules, seconds = power.energy([(turn.began_ns, turn.ended_ns) for turn in lane.turns])
    if not seconds:
        return None
    each = joules / lane.latency.total.count
    return Energy(power.basis, round(joules / seconds, 4), float(f"{each:.4g}"), round(seconds, 6))


def _series(run: Run, power: Power | None) -> Series:
    """At most so many points of what was told; power by tegrastats is put at the same moments."""
    track = run.track
    keep = slice(None, None, -(-len(track.at_ns) // _MOST_POINTS))
    at = track.at_ns[keep]

    def of_kind(kind: str) -> dict[str, tuple[float | None, ...]]:
        return {name: _told(values[keep]) for name, values in track.of_kind(kind).items()}

    watts = {}
    if power is not None:
        good = np.isfinite(power.watts)
        watts = {power.basis: _told(np.interp(at, power.at_ns[good], power.watts[good]))} if good.any() else {}
    at_s = tuple(round(float(t), 3) for t in (at - run.began_ns) / 1e9)
    return Series(at_s, of_kind("cpu"), of_kind("gpu"), of_kind("temperature"), watts)


def _told(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(round(v, 3) if math.isfinite(v) else None for v in values.tolist())


def check_budget(bench: Bench, max_p99_ms: float | None) -> None:
    """Raises BudgetError where a 99th percentile is over what the user allowed, or nothing was measured to judge by.

    Of too few windows their maximum is judged.
    """
    if max_p99_ms is None:
        return
    for row in bench.measurements:
        p99_us, what = row.total_us["p99"], "p99"
        if p99_us is None:
            p99_us, what = row.total_us["max"], f"the longest of {row.windows} windows"
        if p99_us is not None and p99_us > max_p99_ms * 1000:
            subject = f"latency of {row.configuration}, {row.mode}"
            raise BudgetError(subject, f"{what} is {p99_us / 1000:.3f} ms", f"--max-p99-ms {max_p99_ms:g}")
    if bench.unmeasured:
        subject, allowed = f"latency of {bench.unmeasured[0]}", f"--max-p99-ms {max_p99_ms:g}"
        raise BudgetError(subject, "stopped before a window of it was measured", allowed, "let it run to its end")
