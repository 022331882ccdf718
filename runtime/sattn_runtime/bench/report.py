"""A benchmark as a page of text for a person."""

from __future__ import annotations

from sattn_edge.text import count, fields, microseconds, table
from sattn_runtime.bench.results import Bench, Clock, Comparison, Context, Measurement, Stability
from sattn_runtime.bench.summary import BENCH_STAGES
from sattn_runtime.latency import QUANTILES

COLUMNS = (*QUANTILES, "max")
MODE_TITLES = {
    "paced": "paced at the sensor's rate, arrival of a window's last sample to its decision",
    "back-to-back": "back to back, service time only: nothing arrives, so nothing waits",
}
VERDICTS = {True: "stable", False: "NOT STABLE", None: "not known to be stable"}
STAGE_WORDS = {name: name.replace("_", " ") for name in BENCH_STAGES}


def as_text(bench: Bench) -> list[str]:
    """The report a person reads."""
    lines = fields(
        [
            ("model", f"{bench.model}, windows of {bench.window_samples} x {bench.channels}"),
            ("data", f"{bench.data}, at {pace(bench)}"),
            ("device", device(bench.before)),
            ("power mode", bench.before.power_mode),
            ("clocks", clocks(bench)),
            ("temperature", temperatures(bench)),
            ("run", verdict(bench.stability)),
            ("stopped", "by a signal: fewer windows than asked for" if bench.stopped else None),
        ]
    )
    lines += [f"  because {reason}" for reason in bench.stability.reasons]
    for mode, title in MODE_TITLES.items():
        rows = [row for row in bench.measurements if row.mode == mode]
        if rows:
            lines += ["", f"{title}, us", *_latencies(rows), *_paced(rows, mode), "", *_stages(rows)]
    lines += ["", *_cold(bench)]
    if any(row.energy for row in bench.measurements):
        lines += ["", *_energy(bench)]
    return lines if bench.comparison is None else [*lines, "", *_comparison(bench.comparison)]


def pace(bench: Bench) -> str:
    """`50 Hz`, or `100 Hz (2 times the sensor's 50)`."""
    if bench.speed == 1:
        return f"{bench.rate_hz:g} Hz"
    return f"{bench.rate_hz * bench.speed:g} Hz ({bench.speed:g} times the sensor's {bench.rate_hz:g})"


def device(context: Context) -> str:
    """What machine it is, in a line."""
    names = dict.fromkeys(name for name in (context.machine, context.cpu) if name)
    parts = [*names, context.architecture, count(context.cpus, "core")]
    if context.jetpack:
        parts.append(f"JetPack {context.jetpack}")
    return ", ".join(parts)


def verdict(stability: Stability) -> str:
    """`stable`, or why that can't be said."""
    said = VERDICTS[stability.stable]
    if stability.not_told:
        said += f": this device does not tell {', '.join(stability.not_told)}"
    return said


def clocks(bench: Bench) -> str | None:
    """Limits and governors of the clocks that scale, and what they were before and after; alike ones once."""
    rows = {name: _clock_text(before, after) for name, before, after in clock_pairs(bench)}
    alike = [(text, [name for name, other in rows.items() if other == text]) for text in dict.fromkeys(rows.values())]
    return "; ".join(f"{', '.join(names)} {text}" for text, names in alike) or None


def clock_pairs(bench: Bench) -> list[tuple[str, Clock, Clock | None]]:
    """(name, before, after) of every clock that scales, the GPU's last."""
    sides = [
        {clock.name: clock for clock in (*context.cpu_clocks, context.gpu_clock) if clock is not None}
        for context in (bench.before, bench.after)
    ]
    return [(name, clock, sides[1].get(name)) for name, clock in sides[0].items()]


def _clock_text(before: Clock, after: Clock | None) -> str:
    now = " then ".join(_mhz(c.now_mhz) for c in (before, after) if c is not None)
    governor = f" ({before.governor})" if before.governor else ""
    return f"{now} of {_mhz(before.min_mhz)} to {_mhz(before.max_mhz)} MHz{governor}"


def _mhz(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


def temperatures(bench: Bench) -> str | None:
    """Before and after, in degrees Celsius."""
    after = bench.after.temperature_c
    rows = [f"{name} {was:.1f} to {after.get(name, was):.1f} C" for name, was in bench.before.temperature_c.items()]
    return ", ".join(rows) or None


def cell(value: float | None) -> str:
    """Microseconds in a table."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def ratio_text(row: Measurement) -> str:
    """`2.130 (2.101 to 2.160)`: of the medians, and over the middle half of the rounds."""
    if row.ratio is None:
        return "-"
    return f"{row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})"


def _latencies(rows: list[Measurement]) -> list[str]:
    body = [(row.configuration, *(cell(row.total_us[c]) for c in COLUMNS), f"{row.windows:,}") for row in rows]
    lines = table(body, header=("", *COLUMNS, "windows"))
    if any(row.total_us[name] is None for row in rows for name in QUANTILES):
        lines.append("  -: fewer windows than that quantile needs (100 for p99, 1,000 for p99.9)")
    if len(rows) > 1:
        told = [(row.configuration, ratio_text(row)) for row in rows]
        lines += ["  median over the first one's, round by round (middle half of the rounds):", *table(told, indent=4)]
    return lines


def _paced(rows: list[Measurement], mode: str) -> list[str]:
    if mode != "paced":
        return []
    body = [
        (
            row.configuration,
            microseconds(row.deadline_us),
            f"{row.misses:,}",
            microseconds(row.longest_stall_us),
            microseconds(row.jitter_us),
        )
        for row in rows
    ]
    return ["", *table(body, header=("", "deadline", "missed", "longest stall", "jitter"))]


def _stages(rows: list[Measurement]) -> list[str]:
    """The median of each stage; that of the whole is not their sum."""
    body = [(row.configuration, *(cell(row.stages_us[s]["p50"]) for s in BENCH_STAGES)) for row in rows]
    return table(body, header=("p50 by stage", *STAGE_WORDS.values()))


def cold_rows(bench: Bench) -> list[tuple[str, str, str]]:
    """(engine, load, first inference), once for each engine."""
    rows = {}
    for row in bench.measurements:
        e = row.engine
        what = f"{e.backend} {e.version}, {e.precision}, form {e.attention}, {count(e.threads, 'thread')}"
        rows[what] = (what, f"{row.cold.load_ms:,.1f} ms", f"{row.cold.first_infer_ms:,.2f} ms")
    return list(rows.values())


def _cold(bench: Bench) -> list[str]:
    return table(cold_rows(bench), header=("cold", "load", "first inference"))


def _energy(bench: Bench) -> list[str]:
    body = [
        (f"{row.configuration}, {row.mode}", f"{e.mean_w:.2f} W", joules(e.joules_per_window), e.basis)
        for row in bench.measurements
        if (e := row.energy) is not None
    ]
    return table(body, header=("energy, idle share included", "mean", "a window", "of"))


def joules(value: float) -> str:
    """`12.3 mJ`, `1.20 J`."""
    return f"{value:.2f} J" if value >= 1 else f"{value * 1000:.3g} mJ"


def _comparison(found: Comparison) -> list[str]:
    body = [
        (row.configuration, row.mode, f"{row.p50_ratio:.3f}", "-" if row.p99_ratio is None else f"{row.p99_ratio:.3f}")
        for row in found.rows
    ]
    title = f"beside {found.other}: this run over that one, below 1 is faster now"
    notes = [f"  note: {note}" for note in found.notes]
    return [title, *table(body, header=("", "mode", "p50", "p99")), *notes]
