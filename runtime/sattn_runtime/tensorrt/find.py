"""Which engine of the store is the one to run, and, where there is none, why, and how to get it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import msgspec

from sattn_edge.engine import AUTO, EngineOptions
from sattn_edge.engine_manifest import BEST, RUNTIMES, Gpu, Manifest, Request, Subject, differences, subject_of
from sattn_edge.engine_store import EngineStore
from sattn_edge.errors import UnavailableError
from sattn_edge.model_file import ModelFile
from sattn_runtime.tensorrt.bindings import Bindings

# What an engine may have been asked for on top of what a run asks for.
_FREE = {"batch": None, "batch_range": None, "workspace_mib": None}


def find(store: EngineStore, model: ModelFile, options: EngineOptions, bindings: Bindings, gpu: Gpu) -> Manifest:
    """The manifest of the engine to run: of the plain request, else the newest of another batch or workspace.

    Raises:
        UnavailableError: none fits, with what there is instead and the `sattn-build` line; exit code 6.
    """
    request = Request(bindings.backend, options.precision, options.attention)
    subject = subject_of(model, request, bindings.release, gpu)
    found = store.look_up(subject)
    if found.manifest is not None and found.manifest.accepted:
        return found.manifest
    there = [e.manifest for e in store.entries() if e.manifest is not None]
    fits = [m for m in there if m.accepted and _plain(m.subject) == subject]
    if fits:
        return fits[-1]
    near = nearest(there, model, subject)
    raise UnavailableError(
        f"engine for {model.name}",
        _reason(near, subject, found.note),
        f"{RUNTIMES[bindings.backend]} runs what was built for this very device and release",
        f"build it: {build_line(model, _again(request, near))}",
    )


def _plain(subject: Subject) -> Subject:
    return msgspec.structs.replace(subject, request=msgspec.structs.replace(subject.request, **_FREE))


@dataclass(frozen=True)
class Near:
    """An entry that is nearly the one, and in plain words what keeps it from being it ("" for nothing)."""

    manifest: Manifest
    why: tuple[str, ...]


def nearest(there: list[Manifest], model: ModelFile, subject: Subject) -> Near | None:
    """The entry for this model on this backend with the fewest differences, the newest of several."""
    mine = [
        Near(m, differences(_plain(m.subject), subject))
        for m in there
        if m.subject.request.backend == subject.request.backend
        and (m.subject.graph == subject.graph or m.model == model.name)
    ]

    def far(near: Near) -> tuple[bool, int]:
        return near.manifest.subject.request.precision != subject.request.precision, len(near.why)

    return min(reversed(mine), key=far, default=None)


def _again(request: Request, near: Near | None) -> Request:
    """What to build: as the one that is nearly right was built, where it is of the same precision."""
    if near is None or near.manifest.subject.request.precision != request.precision:
        return request
    was = near.manifest.subject.request
    return msgspec.structs.replace(
        request, batch=was.batch, batch_range=was.batch_range, workspace_mib=was.workspace_mib
    )


def _reason(near: Near | None, subject: Subject, note: str | None) -> str:
    if note is not None:  # it is there and can't be used: that tells more than what else there is
        return note
    if near is None:
        return f"none was built in {subject.request.precision}"
    if not near.why:
        return "the one in the store was compiled where nothing could run it, and never accepted"
    other = near.manifest.subject.request.precision
    if other != subject.request.precision:
        return f"none was built in {subject.request.precision}, only in {other}"
    when = near.manifest.created[:10]
    return f"the one built on {when} does not fit: {', '.join(near.why)}"


def build_line(model: ModelFile, request: Request) -> str:
    """The command that builds what a request asks for."""
    path = model.name if model.path is None else str(model.path)
    words = ["sattn-build", path, "--backend", request.backend, "--precision", request.precision]
    if request.attention != AUTO:
        words += ["--attention", request.attention]
    if request.batch is not None:
        words += ["--batch", str(request.batch)]
    if request.batch_range is not None:
        words += ["--batch-range", ",".join(map(str, request.batch_range))]
    if request.workspace_mib is not None:
        words += ["--workspace", str(request.workspace_mib)]
    if request.precision == BEST:
        words += ["--data", "windows.npz"]
    return shlex.join(words)
