"""Two runs beside each other: only where what they were measured in is alike."""

from __future__ import annotations

from collections.abc import Sequence

from sattn_edge.errors import QualityError
from sattn_runtime.bench.results import Bench, Compared, Comparison, Context, Measurement

_MOST = 6  # differences that are named


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


def compare(bench: Bench, other: Bench, name: str) -> Comparison:
    """The configurations that both have.

    Raises:
        QualityError: devices, engines, windows or pace differ, or no configuration is in both.
    """
    mine, theirs = _by_key(bench.measurements), _by_key(other.measurements)
    common = [key for key in mine if key in theirs]
    found = _differences(_of_run(bench), _of_run(other))
    if not common:
        found += _differences(_asked(bench.measurements), _asked(other.measurements))
        found = found or ["no configuration is in both"]
    for key in common:
        found += _differences(_of_engine(mine[key]), _of_engine(theirs[key]))
    refuse(list(dict.fromkeys(found)), name)
    notes = [
        f"{who} was not stable" for who, run in (("this run", bench), (name, other)) if run.stability.stable is False
    ]
    if bench.graph_digest != other.graph_digest:
        notes.append(f"another network: {bench.model} here, {other.model} there")
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


def _of_run(bench: Bench) -> dict[str, object]:
    shape = f"{bench.window_samples} x {bench.channels}"
    return {**alike(bench.before), "window": shape, "rate_hz": bench.rate_hz, "speed": bench.speed}


def _of_engine(row: Measurement) -> dict[str, object]:
    return {f"{row.engine.backend} version": row.engine.version, "device": row.engine.device}


def _asked(rows: Sequence[Measurement]) -> dict[str, object]:
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


def _by_key(rows: Sequence[Measurement]) -> dict[tuple[str, str], Measurement]:
    return {(row.configuration, row.mode): row for row in rows}


def _row(here: Measurement, there: Measurement) -> Compared:
    p50, other = here.total_us["p50"] or here.total_us["max"], there.total_us["p50"] or there.total_us["max"]
    p99, other_p99 = here.total_us["p99"], there.total_us["p99"]
    tail = round(p99 / other_p99, 4) if p99 is not None and other_p99 else None
    return Compared(
        here.configuration, here.mode, p50 or 0.0, other or 0.0, round((p50 or 0.0) / (other or 1.0), 4), tail
    )
