"""What `sattn-build` made for TensorRT, for a person and for a program."""

from __future__ import annotations

from typing import Any

import msgspec

from sattn_edge.engine_manifest import BEST, RUNTIMES, Candidate, Manifest, ShortcutTime
from sattn_edge.text import count, fields, figure, table
from sattn_runtime.build import Built
from sattn_runtime.build_report import judged_text, when
from sattn_runtime.store_report import batch_text


def as_data(built: Built) -> dict[str, Any]:
    """Plain dicts, lists and numbers: the manifest, whether it may be run, and where it lies."""
    manifest: dict[str, Any] = msgspec.to_builtins(built.manifest)
    return {
        "model": built.model,
        "path": str(built.path),
        "remembered": built.remembered,
        "accepted": built.manifest.accepted,
        **manifest,
        "notes": list(built.notes),
    }


def as_text(built: Built) -> list[str]:
    """The report a person reads."""
    manifest = built.manifest
    request, platform = manifest.subject.request, manifest.subject.platform
    head = f"{built.model} on {RUNTIMES[request.backend]} {platform.runtime}, {manifest.precision}: {manifest.form}"
    lines = [head, "", *_table(manifest)]
    lines += [f"{c.form}, {c.precision}: {c.note}" for c in manifest.candidates if c.note]
    lines += _calls(manifest)
    lines += [
        "",
        *fields(
            [
                ("kept", f"{manifest.form} in {manifest.precision}, {manifest.reason}"),
                ("batch", batch_text(manifest)),
                ("accepted", _accepted(manifest)),
                ("judged", _judged(manifest)),
                ("measured", _measured(manifest)),
                ("device", _device(manifest)),
                ("engine", f"{(manifest.plan_bytes or 0) / 1e6:.1f} MB, {manifest.plan}"),
                ("built", when(built)),
                ("store", str(built.path)),
            ]
        ),
    ]
    return [*lines, *[f"note: {note}" for note in built.notes]]


_HEADER = ("form", "precision", "kernels", "median us", "rounds won", "difference", "")


def _table(manifest: Manifest) -> list[str]:
    rows = [_row(c, manifest) for c in manifest.candidates]
    empty = [i for i in range(len(_HEADER) - 1) if all(row[i] == "-" for row in rows)]
    kept = [i for i in range(len(_HEADER)) if i not in empty]
    return table([[row[i] for i in kept] for row in rows], header=[_HEADER[i] for i in kept], indent=0)


def _row(candidate: Candidate, manifest: Manifest) -> tuple[str, ...]:
    judged = candidate.acceptance
    return (
        candidate.form,
        candidate.precision,
        "-" if candidate.kernels is None else str(candidate.kernels),
        "-" if candidate.median_us is None else f"{candidate.median_us:,.1f}",
        "-" if candidate.rounds_won is None else str(candidate.rounds_won),
        "-" if judged is None else figure(judged.difference, ".1e"),
        "kept" if candidate is manifest.kept else _verdict(candidate),
    )


def _verdict(candidate: Candidate) -> str:
    if candidate.left_out:
        return candidate.left_out
    return "NOT accepted" if candidate.acceptance is not None and not candidate.acceptance.accepted else ""


def _calls(manifest: Manifest) -> list[str]:
    """How the engine may be called, and what was kept: times from windows in host memory to logits there."""
    if not manifest.shortcuts:
        return []
    rows = [_call(row, kept=row.shortcut == manifest.shortcut) for row in manifest.shortcuts]
    return ["", *table(rows, header=("windows in, logits out", "median us", "rounds won", ""), indent=0)]


def _call(row: ShortcutTime, *, kept: bool) -> tuple[str, ...]:
    return (
        row.shortcut.text,
        "-" if row.median_us is None else f"{row.median_us:,.1f}",
        "-" if row.rounds_won is None else str(row.rounds_won),
        "kept" if kept else row.note,
    )


def _accepted(manifest: Manifest) -> str:
    kept = manifest.kept
    if kept is None or kept.acceptance is None:
        return "NO: nothing here can run it; sattn-run takes what was accepted on its own device"
    found = kept.acceptance
    return f"{figure(found.difference, '.1e')}; {judged_text(found)}, beside {found.basis}"


def _judged(manifest: Manifest) -> str | None:
    if manifest.subject.request.precision != BEST or manifest.judged is None:
        return None
    rows = [c for c in manifest.candidates if c.agreement is not None]
    said = ", ".join(f"{c.precision} {c.agreement.points:.3g} %" for c in rows if c.agreement is not None)
    judged = manifest.judged
    return f"{count(judged.windows, 'window')}, labels that differ from FP32's: {said} (at most {judged.budget:g} %)"


def _measured(manifest: Manifest) -> str | None:
    how = manifest.measurement
    if not how.calls:
        return None
    return f"{how.calls} calls each, {how.rounds} rounds in shuffled order, {how.clock}"


def _device(manifest: Manifest) -> str:
    gpu, request = manifest.subject.platform.gpu, manifest.subject.request
    if gpu is None:
        return f"none: compiled for {request.arch}"
    driver = f"driver {gpu.driver}, CUDA {gpu.cuda}"
    l4t = f", L4T {gpu.l4t}" if gpu.l4t else ""
    return f"{gpu.name}, compute capability {gpu.compute_capability}, {driver}{l4t}"
