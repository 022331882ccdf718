"""Two runs beside each other: only where what they were measured in is alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sattn_edge.errors import QualityError
from sattn_runtime.bench.results import Bench, Compared, Comparison, Context, EngineRow, Measurement

_MOST = 6  # differences that are named


@dataclass(frozen=True)
class Planned:
    """A configuration in one mode, known before it is measured."""

    configuration: str
    mode: str
    batch: int
    hop_samples: int
    engine: EngineRow


@dataclass(frozen=True)
class Plan:
    """What a run measures, on windows of which shape, at which pace."""

    window_samples: int
    channels: int
    rate_hz: float
    speed: float
    rows: tuple[Planned, ...]


def alike(context: Context) -> dict[str, object]:
    """What has to be the same on both sides, of a device."""
    clocks = [(c.name, c.min_mhz, c.max_mhz, c.governor) for c in context.cpu_clocks]
    gpu = context.gpu_clock
    return {
        "machine": context.machine,
        "architecture": context.architecture,
        "cpu": context.cpu,
        "cpus": context.cpus,
        "jetpack": context.jetpack,
        "kernel": context.kernel,
        "power mode": context.power_mode,
        "CPU clock limits": clocks,
        "GPU clock limits": None if gpu is None else (gpu.name, gpu.min_mhz, gpu.max_mhz, gpu.governor),
    }


def check_context(context: Context, other: Bench, name: str) -> None:
    """Whether a run that begins now could be compared at all.

    Raises:
        QualityError: it could not; the message names what differs.
    """
    refuse(_differences(alike(context), alike(other.before)), name)


def check_plan(plan: Plan, other: Bench, name: str) -> None:
    """Whether what is about to be measured could be compared: said before it takes its time.

    Raises:
        QualityError: engines, windows or pace differ, or no configuration is in both.
    """
    refuse(_unlike(plan, _plan_of(other)), name)


def compare(bench: Bench, other: Bench, name: str) -> Comparison:
    """The configurations that both have.

    Raises:
        QualityError: devices, engines, windows or pace differ, or no configuration is in both.
    """
    found = _differences(alike(bench.before), alike(other.before)) + _unlike(_plan_of(bench), _plan_of(other))
    refuse(found, name)
    mine, theirs = ({(row.configuration, row.mode): row for row in run.measurements} for run in (bench, other))
    common = [key for key in mine if key in theirs]
    notes = [
        f"{who} was not stable" for who, run in (("this run", bench), (name, other)) if run.stability.stable is False
    ]
    if bench.graph_digest != other.graph_digest:
        notes.append(f"another network: {bench.model} here, {other.model} there")
    notes += [
        f"{key[0]} ran in form {mine[key].engine.attention} here, {theirs[key].engine.attention} there"
        for key in common
        if mine[key].engine.attention != theirs[key].engine.attention and key[1] == mine[common[0]].mode
    ]
    return Comparison(name, tuple(_row(mine[key], theirs[key]) for key in common), tuple(notes))


def refuse(differences: Sequence[str], name: str) -> None:
    """Raises QualityError where there is any difference."""
    if not differences:
        return
    shown = ", ".join(differences[:_MOST])
    more = f" and {len(differences) - _MOST} more" if len(differences) > _MOST else ""
    raise QualityError(
        f"--compare {name}", f"{shown}{more}", "like with like only", "measure both on one device, set up alike"
    )


def _differences(here: dict[str, object], there: dict[str, object]) -> list[str]:
    return [f"{key} {_said(here[key])} here, {_said(there[key])} there" for key in here if here[key] != there[key]]


def _said(value: object) -> str:
    return "not told" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


def _plan_of(bench: Bench) -> Plan:
    rows = tuple(Planned(r.configuration, r.mode, r.batch, r.hop_samples, r.engine) for r in bench.measurements)
    return Plan(bench.window_samples, bench.channels, bench.rate_hz, bench.speed, rows)


def _unlike(here: Plan, there: Plan) -> list[str]:
    mine, theirs = ({(row.configuration, row.mode): row for row in plan.rows} for plan in (here, there))
    common = [key for key in mine if key in theirs]
    found = _differences(_of_run(here), _of_run(there))
    if not common:
        found += _differences(_asked(here.rows), _asked(there.rows))
        found = found or ["no configuration is in both"]
    for key in common:
        found += _differences(_of_engine(mine[key]), _of_engine(theirs[key]))
    return list(dict.fromkeys(found))


def _of_run(plan: Plan) -> dict[str, object]:
    shape = f"{plan.window_samples} x {plan.channels}"
    return {"window": shape, "rate_hz": plan.rate_hz, "speed": plan.speed}


def _of_engine(row: Planned) -> dict[str, object]:
    return {f"{row.engine.backend} version": row.engine.version, "device": row.engine.device}


def _asked(rows: Sequence[Planned]) -> dict[str, object]:
    """What configurations are made of, as sets in words."""
    return {
        "backend": _set(row.engine.backend for row in rows),
        "precision": _set(row.engine.precision for row in rows),
        "batch": _set(row.batch for row in rows),
        "hop": _set(row.hop_samples for row in rows),
        "threads": _set(row.engine.threads for row in rows),
        "mode": _set(row.mode for row in rows),
    }


def _set(values: object) -> str:
    return ",".join(sorted({str(value) for value in values}))  # type: ignore[attr-defined]


def _row(here: Measurement, there: Measurement) -> Compared:
    p50, other = here.total_us["p50"] or here.total_us["max"], there.total_us["p50"] or there.total_us["max"]
    p99, other_p99 = here.total_us["p99"], there.total_us["p99"]
    tail = round(p99 / other_p99, 4) if p99 is not None and other_p99 else None
    return Compared(
        here.configuration, here.mode, p50 or 0.0, other or 0.0, round((p50 or 0.0) / (other or 1.0), 4), tail
    )
