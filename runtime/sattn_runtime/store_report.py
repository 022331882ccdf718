"""What lies in the engine store, what of it still fits this device, and what was taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from sattn_edge._version import __version__
from sattn_edge.engine import BUILT
from sattn_edge.engine_manifest import Manifest, Platform, platform_differences, platform_here
from sattn_edge.engine_store import EngineStore, Entry
from sattn_edge.errors import SattnEdgeError
from sattn_edge.text import count, table


@dataclass(frozen=True)
class Row:
    """One entry, and why nothing here can use it, "" where it can."""

    entry: Entry
    stale: str


Here = Callable[[str], Platform | None]
"""What this device is for a backend, None where that can't be told (no GPU, no bindings)."""


def rows(store: EngineStore, here: Here | None = None) -> list[Row]:
    """Every entry, oldest first. Raises UnavailableError where others can write the store."""
    known: dict[str, Platform | None] = {}
    ask = here or platform_for
    found = []
    for entry in store.entries():
        if entry.manifest is None:
            found.append(Row(entry, entry.note or "can't be read"))
            continue
        backend = entry.manifest.subject.request.backend
        if backend not in known:
            known[backend] = ask(backend)
        found.append(Row(entry, _stale(entry.manifest, known[backend], store)))
    return found


def platform_for(backend: str) -> Platform | None:
    """What the store calls this device for a backend, None where it can't be asked."""
    if backend == "onnxruntime":
        from sattn_edge.engine_onnxruntime import VERSION

        return platform_here(VERSION)
    if backend not in BUILT:
        return None
    from sattn_runtime.tensorrt.device import open_device

    try:
        device = open_device(backend)
    except SattnEdgeError:
        return None
    try:
        return platform_here(device.bindings.release, device.gpu)
    finally:
        device.cuda.close()


def _stale(manifest: Manifest, here: Platform | None, store: EngineStore) -> str:
    there = manifest.subject.platform
    if there.version != __version__:
        return f"sattn-edge was {there.version} and is {__version__}"
    if here is not None:
        # What was compiled for another machine says nothing of this one's GPU.
        ours = msgspec.structs.replace(here, gpu=None) if manifest.subject.request.arch is not None else here
        if found := platform_differences(there, ours, manifest.subject.request.backend):
            return ", ".join(found)
    path = store.plan_path(manifest)
    return "its engine file is gone" if path is not None and not path.is_file() else ""


def prune(store: EngineStore, here: Here | None = None, waiting: Callable[[], None] | None = None) -> list[Row]:
    """Takes away what nothing here can use, and what kills left behind. Returns the entries that went.

    Engines of a backend whose device can't be asked (no GPU, no bindings) stay.
    """
    with store.building(waiting):
        gone = [row for row in rows(store, here) if row.stale]
        for row in gone:
            store.forget(row.entry)
        store.sweep()
    return gone


def as_data(store: EngineStore, found: list[Row]) -> dict[str, Any]:
    """Plain data. `state` is accepted, compiled (never ran) or stale."""
    return {"store": None if store.root is None else str(store.root), "entries": [_row_data(row) for row in found]}


def _row_data(row: Row) -> dict[str, Any]:
    entry, manifest = row.entry, row.entry.manifest
    data: dict[str, Any] = {"key": entry.folder.name, "bytes": entry.size, "state": _state(row), "reason": row.stale}
    if manifest is None:
        return data
    return {
        **data,
        "model": manifest.model,
        "request": msgspec.to_builtins(manifest.subject.request),
        "platform": msgspec.to_builtins(manifest.subject.platform),
        "form": manifest.form,
        "precision": manifest.precision,
        "created": manifest.created,
        "plan": manifest.plan,
    }


def _state(row: Row) -> str:
    if row.stale or row.entry.manifest is None:
        return "stale"
    return "accepted" if row.entry.manifest.accepted else "compiled"


def as_text(store: EngineStore, found: list[Row], *, gone: bool = False) -> list[str]:
    """The page a person reads. gone: the rows are those that were taken away."""
    size = sum(row.entry.size for row in found)
    what = count(len(found), "entry") if len(found) == 1 else f"{len(found)} entries"
    head = f"{store.root}: {what}{' taken away' if gone else ''}, {size / 1e6:.1f} MB"
    if not found:
        return [f"{store.root}: nothing {'to take away' if gone else 'in it'}"]
    lines = [head, "", *table([_row_text(row) for row in found], header=_HEADER, indent=0)]
    why = [f"{row.entry.folder.name[:8]}: {row.stale}" for row in found if row.stale]
    return [*lines, *(["", *why] if why else [])]


_HEADER = ("key", "model", "backend", "precision", "form", "batch", "MB", "built", "state")


def _row_text(row: Row) -> tuple[str, ...]:
    manifest, size = row.entry.manifest, f"{row.entry.size / 1e6:.1f}"
    key = row.entry.folder.name[:8]
    if manifest is None:
        return (key, "-", "-", "-", "-", "-", size, "-", _state(row))
    request = manifest.subject.request
    return (
        key,
        manifest.model or "-",
        request.backend + (f" {request.arch}" if request.arch else ""),
        request.precision if request.precision == manifest.precision else f"{request.precision}: {manifest.precision}",
        manifest.form,
        batch_text(manifest),
        size,
        manifest.created[:10],
        _state(row),
    )


def batch_text(manifest: Manifest) -> str:
    """`1`, `1-8`, `any`."""
    request = manifest.subject.request
    if request.batch_range is not None:
        return f"{request.batch_range[0]}-{request.batch_range[2]}"
    if request.batch is not None:
        return str(request.batch)
    return "1" if request.backend in BUILT else "any"
