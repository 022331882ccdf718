"""A run as text for a person and as plain data for a program."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sattn_edge.engine import BUILT, EngineInfo
from sattn_edge.text import count, fields, microseconds, table
from sattn_runtime.latency import QUANTILES
from sattn_runtime.run_result import RunResult

_COLUMNS = (*QUANTILES, "max")


def as_data(result: RunResult) -> dict[str, Any]:
    """Plain dicts, lists and numbers."""
    return {
        "model": result.options.model,
        "source": ", ".join(result.options.sources),
        "batch": result.batch,
        "engine": asdict(result.engine.info),
        "fell_back": result.fell_back,
        "plan": {"kept": result.plan, "reason": result.plan_reason},
        "window_samples": result.contract.window,
        "hop_samples": result.hop,
        "rate_hz": result.contract.rate_hz,
        "paced": result.paced,
        "streams": result.streams,
        "windows": result.windows,
        "unjudged": result.unjudged,
        "unjudged_reasons": dict(result.reasons),
        "gaps": result.gaps,
        "missing_samples": result.missing,
        "events": dict(result.events),
        "source_counters": result.counters,
        "samples": result.samples,
        "algorithmic_delay_samples": result.delay_samples,
        "algorithmic_delay_s": result.delay_samples / result.contract.rate_hz,
        "disorder_delay_samples": result.disorder_samples,
        "cold": {"load_ms": round(result.load_ms, 3), "first_infer_ms": round(result.first_infer_ms, 3)},
        "latency": {"basis": _basis(result), **result.latency.summary()},
        "score": result.score.summary(),
        "elapsed_s": round(result.elapsed_s, 3),
        "stopped": result.stopped,
        "peak_rss_mb": round(result.peak_rss_mb, 1),
        "realtime": asdict(result.granted),
        "journal": result.options.journal,
        "journal_lines": _journal_lines(result),
    }


def _journal_lines(result: RunResult) -> dict[str, Any] | None:
    journal = result.recorder.journal
    if journal is None:
        return None
    return {
        "given": journal.lines,
        "missing": journal.missing,
        "suspensions": journal.suspensions,
        "rotated": journal.rotated,
        "deleted_files": journal.deleted,
        "fsync_s": result.options.keep.fsync_s,
        "windows_already_there": result.recorder.already,
    }


def _journal(result: RunResult) -> str | None:
    """Where lines went and, of them, what a person should know."""
    journal, options = result.recorder.journal, result.options
    if journal is None or options.journal is None:
        return options.journal
    parts = [options.journal, count(journal.lines, "line")]
    if options.journal != "-":
        parts.append(f"synced every {options.keep.fsync_s:g} s" if options.keep.fsync_s else "synced after every write")
    if journal.rotated:
        parts.append(f"rotated {count(journal.rotated, 'time')}, {count(journal.deleted, 'old file')} deleted")
    if result.recorder.already:
        parts.append(f"{count(result.recorder.already, 'window')} there already")
    if journal.suspensions:
        lost = count(journal.missing, "line")
        parts.append(f"{count(journal.suspensions, 'time')} the disk took nothing: {lost} MISSING")
    return "; ".join(parts)


def _basis(result: RunResult) -> str:
    return "due to done" if result.paced else "service time only"


def as_text(result: RunResult) -> list[str]:
    """The report a person reads."""
    contract, info, samples = result.contract, result.engine.info, result.samples
    delay_s = result.delay_samples / contract.rate_hz
    lines = fields(
        [
            ("model", result.options.model),
            ("engine", _engine(info)),
            ("FELL BACK", _fell_back(result)),
            ("plan", f"{result.plan}, {result.plan_reason}" if result.plan_reason else result.plan),
            ("source", _sources(result)),
            ("windows", _windows(result)),
            ("samples", f"{samples['in']:,} in: " + ", ".join(_sample_parts(samples))),
            ("gaps", _gaps(result)),
            ("events", _events(result)),
            ("source counted", _counted(result.counters)),
            ("unjudged", _unjudged(result)),
            (
                "algorithmic delay",
                f"{result.delay_samples:g} samples ({delay_s:.2f} s), middle of a window to its end"
                + _disorder(result),
            ),
            ("cold start", f"load {result.load_ms:.0f} ms, first inference {result.first_infer_ms:.2f} ms"),
            ("real time", _realtime(result)),
            ("memory", f"{result.peak_rss_mb:.0f} MB resident at most"),
            ("journal", _journal(result)),
            ("stopped", "by a signal, drained" if result.stopped else None),
        ]
    )
    return [*lines, "", *_latency_text(result), *_score_text(result)]


def _engine(info: EngineInfo) -> str:
    where = info.device if info.backend in BUILT else count(info.threads, "thread")
    return f"{info.backend} {info.version}, {info.precision}, form {info.attention}, {where}"


def _realtime(result: RunResult) -> str | None:
    granted = result.granted
    parts = [f"{what} {how}" for what, how in granted.given.items()]
    parts += [f"{what} REFUSED ({why})" for what, why in granted.refused.items()]
    return "; ".join(parts) or None


def _fell_back(result: RunResult) -> str | None:
    if result.fell_back is None:
        return None
    return f"to the CPU, from {result.options.backend} in {result.options.engine.precision}: {result.fell_back}"


def _windows(result: RunResult) -> str:
    contract = result.contract
    shape = f"{contract.window} x {contract.modal} every {result.hop} samples ({result.hop / contract.rate_hz:g} s)"
    rate = result.windows / result.elapsed_s if result.elapsed_s else 0
    return f"{result.windows:,} of {shape}; {rate:,.0f} a second"


def _gaps(result: RunResult) -> str | None:
    if not result.gaps:
        return None
    causes = {name.removeprefix("gap_"): n for name, n in result.events.items() if name.startswith("gap_")}
    of_them = "".join(f", {n:,} by {name}" for name, n in sorted(causes.items()))
    return f"{result.gaps:,}{of_them}; {result.missing:,} samples known to be missing"


def _events(result: RunResult) -> str | None:
    kinds = {name: n for name, n in result.events.items() if not name.startswith("gap")}
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in sorted(kinds.items())) or None


def _unjudged(result: RunResult) -> str | None:
    if not result.unjudged:
        return None
    return f"{count(result.unjudged, 'window')}: " + ", ".join(f"{n:,} {why}" for why, n in result.reasons.items())


def _disorder(result: RunResult) -> str:
    if not result.disorder_samples:
        return ""
    return f"; up to {result.disorder_samples} samples more where some are missing or out of order"


def _sample_parts(samples: dict[str, int]) -> list[str]:
    kinds = {
        "in_windows": "in windows",
        "skipped": "between windows",
        "dropped": "dropped at gaps",
        "duplicate": "duplicate",
        "late": "late",
        "overload": "dropped by a full queue",
        "waiting": "waiting",
        "held": "held back",
        "undecided": "left undecided at the stop",
    }
    made_up = [f"{samples['filled']:,} made up"] if samples.get("filled") else []
    if samples.get("resampled"):
        made_up.append(f"{samples['resampled']:+,} by resampling")
    return made_up + [
        f"{samples.get(kind, 0):,} {words}"
        for kind, words in kinds.items()
        if samples.get(kind) or kind == "in_windows"
    ]


def _sources(result: RunResult) -> str:
    """What was read, and how many windows were inferred together where there were several sources."""
    parts = [", ".join(result.options.sources), count(result.streams, "stream")]
    if result.batch > 1:
        parts.append(f"up to {result.batch} windows inferred together")
    return "; ".join(parts) if result.options.more_sources else ", ".join(parts)


def _counted(counters: dict[str, int]) -> str | None:
    """`3 bad lines, 1 reconnects`, or None where there was nothing."""
    return ", ".join(f"{many:,} {what.replace('_', ' ')}" for what, many in counters.items() if many) or None


def _latency_text(result: RunResult) -> list[str]:
    latency = result.latency
    title = "latency, arrival of a window's last sample to decision handed over"
    if not result.paced:
        title = "latency, service time only (replay at full speed: nothing arrives, so nothing waits)"
    rows = [(name, *_cells(h.summary_us())) for name, h in latency.stages.items()]
    rows.append(("total", *_cells(latency.total.summary_us())))
    lines = [f"{title}, us", *table(rows, header=("", *_COLUMNS))]
    if result.paced:
        stall, jitter = microseconds(latency.longest_stall_ns / 1000), microseconds(latency.jitter_us)
        deadline = microseconds(latency.deadline_ns / 1000)
        lines.append(f"  deadline {deadline}: {latency.misses:,} missed; longest stall {stall}; jitter {jitter}")
    return lines


def _cells(summary: dict[str, float]) -> list[str]:
    return [f"{summary[name]:,.0f}" if summary[name] >= 10 else f"{summary[name]:.1f}" for name in _COLUMNS]


def _score_text(result: RunResult) -> list[str]:
    score = result.score.summary()
    if score is None:
        return []
    labels, matrix = score["labels"], score["confusion"]
    rows = [
        (label, *row, f"{row[i] / sum(row):.1%}" if sum(row) else "-")
        for i, (label, row) in enumerate(zip(labels, matrix, strict=True))
    ]
    scored, unscored = count(score["windows"], "labelled window"), f"{score['unscored']:,}"
    return [
        "",
        f"accuracy {score['accuracy']:.1%}, macro F1 {score['macro_f1']:.3f} on {scored} "
        f"({unscored} without one label throughout)",
        *table(rows, header=("truth \\ given", *labels, "recall")),
    ]
