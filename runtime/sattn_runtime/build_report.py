"""What `sattn-build` chose, for a person and for a program."""

from __future__ import annotations

from typing import Any

import msgspec

from sattn_edge.engine_manifest import Acceptance, Candidate, IncrementalChoice, Manifest
from sattn_edge.text import count, fields, figure, table
from sattn_runtime.build import Built, default_form
from sattn_runtime.verify import FLIP_MARGIN


def as_data(built: Built) -> dict[str, Any]:
    """Plain dicts, lists and numbers: the manifest, with ratios to FP32's form `reference` in the same run."""
    manifest: dict[str, Any] = msgspec.to_builtins(built.manifest)
    for row, candidate in zip(manifest["candidates"], built.manifest.candidates, strict=True):
        row["ratio"] = _ratio(candidate, built.manifest)
    return {
        "model": built.model,
        "path": str(built.path),
        "remembered": built.remembered,
        "notes": list(built.notes),
        **manifest,
    }


def as_text(built: Built) -> list[str]:
    """The report a person reads."""
    manifest, request = built.manifest, built.manifest.subject.request
    platform = manifest.subject.platform
    lines = [
        f"{built.model} on {request.backend} {platform.runtime}, {request.precision}, "
        f"{count(request.threads, 'thread')}: {manifest.form}",
        "",
        *_table(manifest),
        *[f"{_name(c)}: {c.note}" for c in manifest.candidates if c.note],
        *_plans(manifest.incremental),
        "",
        *fields(
            [
                ("kept", f"{manifest.form}, {manifest.reason}"),
                ("windows", _plan(manifest.incremental)),
                ("speed", _speed(manifest)),
                ("judged", _judged(manifest)),
                ("against", _basis(manifest)),
                ("labels", _flips(manifest)),
                ("measured", _measured(manifest)),
                ("device", f"{platform.cpu}, {platform.architecture}"),
                ("chosen", when(built)),
                ("store", str(built.path)),
            ]
        ),
    ]
    return [*lines, *[f"note: {note}" for note in built.notes]]


def _plans(found: IncrementalChoice | None) -> list[str]:
    """The plans for overlapping windows beside the whole one, where there are any."""
    if found is None or all(row.median_us is None for row in found.times):
        return []
    whole = found.times[0].median_us
    rows = [
        (
            row.plan,
            "-" if row.median_us is None else f"{row.median_us:,.0f}",
            "-" if row.median_us is None or not whole else f"{row.median_us / whole:.2f}",
            "-" if row.rounds_won is None else str(row.rounds_won),
            figure(row.difference, ".1e") if row.difference is not None else "-",
            "kept" if row.plan == found.plan else row.note,
        )
        for row in found.times
    ]
    header = (f"windows every {found.hop}", "median us", "ratio", "rounds won", "difference", "")
    return ["", *table(rows, header=header, indent=0)]


def _plan(found: IncrementalChoice | None) -> str | None:
    return None if found is None else f"{found.plan} (every {found.hop} samples), {found.reason}"


_HEADER = ("form", "precision", "median us", "ratio", "rounds won", "difference", "")


def _table(manifest: Manifest) -> list[str]:
    rows: list[tuple[str, ...]] = [_row(c, manifest) for c in manifest.candidates]
    header: tuple[str, ...] = _HEADER
    if manifest.subject.request.precision == "fp32":  # nothing else in it
        rows, header = [(row[0], *row[2:]) for row in rows], (header[0], *header[2:])
    return table(rows, header=header, indent=0)


def _row(candidate: Candidate, manifest: Manifest) -> tuple[str, ...]:
    ratio, judged = _ratio(candidate, manifest), candidate.acceptance
    kept = (candidate.form, candidate.precision) == (manifest.form, manifest.subject.request.precision)
    return (
        candidate.form,
        candidate.precision,
        "-" if candidate.median_us is None else f"{candidate.median_us:,.0f}",
        "-" if ratio is None else f"{ratio:.2f}",
        "-" if candidate.rounds_won is None else str(candidate.rounds_won),
        "-" if judged is None else figure(judged.difference, ".1e"),
        "kept" if kept else _verdict(candidate),
    )


def _verdict(candidate: Candidate) -> str:
    if candidate.acceptance is None:
        return candidate.left_out
    return "" if candidate.acceptance.accepted else "NOT accepted"


def _name(candidate: Candidate) -> str:
    return candidate.form if candidate.precision == "fp32" else f"{candidate.form}, {candidate.precision}"


def _plain(manifest: Manifest) -> float | None:
    """The median of FP32's form `reference`."""
    rows = [c.median_us for c in manifest.candidates if (c.form, c.precision) == ("reference", "fp32")]
    return rows[0] if rows else None


def _ratio(candidate: Candidate, manifest: Manifest) -> float | None:
    plain = _plain(manifest)
    return None if not plain or candidate.median_us is None else round(candidate.median_us / plain, 4)


def _speed(manifest: Manifest) -> str | None:
    """INT8 beside FP32, from the one run."""
    precision = manifest.subject.request.precision
    kept = _kept(manifest)
    if precision == "fp32" or not kept.median_us:
        return None
    rows = [c for c in manifest.candidates if c.precision == "fp32" and c.median_us]
    parts = [f"{(c.median_us or 0.0) / kept.median_us:.2f} times as fast as FP32 in form {c.form}" for c in rows]
    return ", ".join(parts) or None


def _judged(manifest: Manifest) -> str | None:
    found = _kept(manifest).acceptance
    return None if found is None else judged_text(found)


def judged_text(found: Acceptance) -> str:
    """What something was judged on and how far it may be off."""
    kind = "synthetic" if found.synthetic else "real"
    return f"{count(found.windows, 'golden window')} ({kind}), at most {found.tolerance:g} of the logit scale"


def _basis(manifest: Manifest) -> str | None:
    found = _kept(manifest).acceptance
    return None if found is None or manifest.subject.request.precision == "fp32" else found.basis


def _flips(manifest: Manifest) -> str | None:
    """Where labels may differ, and how many did in the form that was kept."""
    precision = manifest.subject.request.precision
    if precision not in FLIP_MARGIN:
        return None
    found = _kept(manifest).acceptance
    told = "none differs" if found is None or not found.flips else f"{found.flips} differ"
    return f"{told}; they may at margins up to {FLIP_MARGIN[precision]:g}"


def _kept(manifest: Manifest) -> Candidate:
    precision = manifest.subject.request.precision
    return next(c for c in manifest.candidates if (c.form, c.precision) == (manifest.form, precision))


def _measured(manifest: Manifest) -> str:
    how, usual = manifest.measurement, default_form(manifest.subject.request.precision)
    return f"{how.calls} calls each, {how.rounds} rounds in shuffled order; won against {usual}"


def when(built: Built) -> str:
    """When it was measured, and whether that is remembered."""
    then = f"{built.manifest.created[:19].replace('T', ' ')} UTC"
    return f"{then}, remembered; --retune measures again" if built.remembered else f"{then}, now"
