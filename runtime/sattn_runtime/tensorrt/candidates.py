"""One way to build a model file: a form of the attention blocks in a precision, compiled, checked and made to run.

    lower -> compile (a process of its own) -> look at what the engine holds -> deserialise -> golden windows

On a machine without a GPU it ends after the third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from onnx import ModelProto

from sattn_edge.calibration_table import placement_of
from sattn_edge.engine import AUTO, EngineInfo
from sattn_edge.engine_manifest import BEST, Candidate, Request, Shortcut
from sattn_edge.errors import InputError, QualityError, UsageError
from sattn_edge.lowering import FORMS, Lowered, Target, lower
from sattn_edge.model_file import ModelFile
from sattn_edge.text import figure
from sattn_runtime.tensorrt.accept import accept
from sattn_runtime.tensorrt.bindings import Bindings
from sattn_runtime.tensorrt.compile_process import Compiled, CompileOptions, Watcher, compile_graph
from sattn_runtime.tensorrt.device import Device
from sattn_runtime.tensorrt.engine import TensorRTEngine, deserialise, limits
from sattn_runtime.tensorrt.executor import Executor
from sattn_runtime.tensorrt.held_precision import held_precision
from sattn_runtime.tensorrt.layers import EngineLayer, parse_json, parse_log

PRECISIONS = ("fp32", "fp16", "int8")
USUAL_FORM = Target("tensorrt").form


@dataclass(frozen=True)
class Surroundings:
    """Where and how candidates are built. device: None where there is no GPU; folder: private, for the parts."""

    bindings: Bindings
    device: Device | None
    request: Request
    workspace_bytes: int
    folder: Path | None = None
    timing_cache: Path | None = None
    watcher: Watcher | None = None


@dataclass(frozen=True, eq=False)
class Tried:
    """A candidate and, as far as it came, its graph, its engine's bytes, the engine and a way to call it."""

    candidate: Candidate
    graph: ModelProto | None = None
    compiled: Compiled | None = None
    layers: tuple[EngineLayer, ...] = ()
    engine: Any = None
    executor: Executor | None = field(default=None)


def target_of(model: ModelFile, request: Request, bindings: Bindings, form: str, precision: str) -> Target:
    """What to lower for.

    Raises:
        ModelFileError, DigestError: int8 without a calibration table that fits.
    """
    return Target(
        "tensorrt",
        form,
        precision,
        batch=None if request.batch_range is not None else request.batch or 1,
        placement=placement_of(model, "tensorrt") if precision == "int8" else None,
        typed=bindings.features.strongly_typed,
        free_batch=request.batch_range is not None,
    )


def forms_of(request: Request) -> tuple[str, ...]:
    """The forms to try: all of them, the usual one first, or the one asked for."""
    if request.attention != AUTO:
        return (request.attention,)
    return (USUAL_FORM, *(form for form in FORMS if form != USUAL_FORM))


def compile_options(around: Surroundings, precision: str) -> CompileOptions:
    """How a candidate in a precision is compiled."""
    request = around.request
    flags = not around.bindings.features.strongly_typed
    return CompileOptions(
        backend=request.backend,
        workspace_bytes=around.workspace_bytes,
        # What is not INT8 is float16 where the graph is typed; told by flags it takes both.
        half=flags and precision != "fp32",
        int8=flags and precision == "int8",
        tf32=precision != "fp32",
        profile=None if request.batch_range is None else limits(request),
        arch=request.arch,
        timing_cache=around.timing_cache,
    )


def try_candidate(model: ModelFile, around: Surroundings, form: str, precision: str) -> Tried:
    """Builds one candidate. What keeps it from being used is in its note, unless it is the only one asked for.

    Raises:
        UsageError: the form asked for changes no block.
        InputError, QualityError: the one asked for can't be compiled.
        UnavailableError: memory ran out, or the GPU failed.
    """
    request = around.request
    lowered = lower(model.proto, target_of(model, request, around.bindings, form, precision))
    note = what_it_leaves(lowered, form)
    if note is None:
        if request.attention != AUTO:
            raise UsageError(f"--attention {form}", f"changes no block of {model.name}", todo="leave it out")
        return Tried(Candidate(form, precision, note="changes no block", left_out="same as reference"))
    what = f"{form}, {precision}"
    try:
        compiled = compile_graph(
            lowered.model, compile_options(around, precision), around.watcher, what, folder=around.folder
        )
    except (InputError, QualityError) as error:
        if request.attention != AUTO and request.precision != BEST:
            raise
        return Tried(Candidate(form, precision, note=str(error), left_out="not compiled"))
    return _looked_at(model, around, Candidate(form, precision, note=note), lowered.model, compiled)


def what_it_leaves(lowered: Lowered, form: str) -> str | None:
    """What a form leaves as it is, "" for nothing; None where it changes nothing at all."""
    report = next((r for r in lowered.reports if r.name == form), None)
    if report is None:
        return ""
    if not report.changed:
        return None
    left = len(report.near_misses)
    why = f" ({report.near_misses[0].reason})" if left else ""
    return f"leaves {left} of {left + report.changed} places as they are{why}" if left else ""


def _looked_at(
    model: ModelFile, around: Surroundings, candidate: Candidate, graph: ModelProto, compiled: Compiled
) -> Tried:
    """Compares what was asked for with what the engine holds, and runs it where there is a GPU."""
    device, bindings = around.device, around.bindings
    engine = executor = None
    if device is not None:
        engine = deserialise(bindings, compiled.plan)
        executor = Executor(bindings, device.cuda, engine, limits(around.request), Shortcut())
        layers = parse_json(executor.inspected())
    else:
        layers = parse_log(compiled.layers_text)
    found = held_precision(graph, layers, candidate.precision, typed=bindings.features.strongly_typed)
    changed = _with(candidate, kernels=len(layers))
    if found.wrong:
        return Tried(_with(changed, note=found.wrong, left_out="other precision"), graph, compiled, layers)
    if not found.told:
        note = "; ".join(part for part in (candidate.note, "it does not tell the precision of its products") if part)
        changed = _with(changed, note=note)
    if engine is None or executor is None:
        return Tried(changed, graph, compiled, layers)
    judged = accept(call_of(model, executor), graph, model.golden, candidate.precision)
    accepted = _with(changed, acceptance=judged)
    return Tried(accepted, graph, compiled, layers, engine, executor if judged.accepted else None)


def call_of(model: ModelFile, executor: Executor) -> TensorRTEngine:
    """An engine around an executor, for measuring: it is never handed out, and closes no device."""
    info = EngineInfo("tensorrt", "", "", "", 1, model.graph_digest)
    return TensorRTEngine(executor, info, model.contract, gates=model.attention)


def nothing_left(model: ModelFile, tried: Sequence[Tried], precision: str) -> QualityError:
    """The error where no candidate can be used."""
    rows = [t.candidate for t in tried]
    other = next((c for c in rows if c.left_out == "other precision"), None)
    if other is not None:
        return QualityError(
            model.name,
            f"no engine holds {other.precision}: {other.note}",
            "an engine in another precision than was asked for is not kept",
            "try another --precision",
        )
    judged = [c for c in rows if c.acceptance is not None]
    if judged:
        said = ", ".join(f"{c.form} {figure(c.acceptance.difference, '.2g')}" for c in judged if c.acceptance)
        return QualityError(
            model.name,
            f"no engine in {precision} gives what ONNX Runtime gives on its graph ({said} of the logit scale)",
            f"at most {next(c.acceptance.tolerance for c in judged if c.acceptance):g}",
            "try another --attention or --precision",
        )
    first = next((c.note for c in rows if c.left_out == "not compiled"), "no form changes it")
    return QualityError(model.name, f"no form can be compiled in {precision} ({first})", todo="try another --precision")


def _with(candidate: Candidate, **changes: Any) -> Candidate:
    return msgspec.structs.replace(candidate, **changes)
