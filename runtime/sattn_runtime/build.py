"""Which form of the attention blocks is fastest on this device: measured, judged, remembered.

    lower in every form -> judge on the golden windows -> time in turns -> keep one -> engine store

A form that is remembered is kept until it is asked for again (`retune`): a restart never flips a choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import cast

import msgspec

from sattn_edge.calibration_table import placement_of, read_table
from sattn_edge.engine import AUTO, DEFAULT_BACKEND, Engine, EngineOptions, open_engine
from sattn_edge.engine_manifest import Acceptance, Candidate, Form, Manifest, Measurement, Subject, subject_of
from sattn_edge.engine_onnxruntime import VERSION, check_precision, request_of
from sattn_edge.engine_store import EngineStore, default_store
from sattn_edge.errors import QualityError, UsageError
from sattn_edge.lowering import FORMS, Lowered, Target, check_target, lower
from sattn_edge.model_file import ModelFile
from sattn_edge.text import figure
from sattn_runtime.choice import Times
from sattn_runtime.plan_build import measure_plans
from sattn_runtime.timing import CALLS, ROUNDS, WARM_UP, time_in_turns
from sattn_runtime.verify import verify_engine


@dataclass(frozen=True)
class BuildOptions:
    """What to build. engine.attention: `auto` measures every form; rounds: of CALLS calls for each form.

    hop: of the streams that plans are measured for, None for the contract's.
    """

    backend: str = DEFAULT_BACKEND
    engine: EngineOptions = EngineOptions()  # noqa: RUF009 - frozen
    retune: bool = False
    rounds: int = ROUNDS
    hop: int | None = None


@dataclass(frozen=True)
class Built:
    """The manifest, where it lies, whether it was there already, and what to know of it."""

    model: str
    manifest: Manifest
    path: Path
    remembered: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Tried:
    """A candidate and, where it was accepted, its engine."""

    candidate: Candidate
    engine: Engine | None


def build(
    model: ModelFile,
    options: BuildOptions,
    store: EngineStore | None = None,
    waiting: Callable[[], None] | None = None,
) -> Built:
    """Chooses the form for a model file on this device, or tells what was chosen before.

    waiting: called once where another build is going on, whose end has to be waited for.

    Raises:
        UsageError: no such form, or one that changes no block of this network.
        ModelFileError, DigestError: int8 without a calibration table that fits.
        QualityError: no form reproduces the golden windows.
        UnavailableError: the precision or the backend is missing, or the store can't be written.
    """
    store = store or default_store()
    _check(options)
    store.prepare()  # before minutes are spent on what could not be kept
    subject = subject_of(model, request_of(options.engine), VERSION)
    before = store.look_up(subject).manifest
    again = options.retune or (before is not None and not _covers(before, options))
    if before is not None and not again:
        return _remembered(model, store, before)
    with store.building(waiting):
        # Somebody else may have measured the same while this process waited for its turn.
        found = store.look_up(subject)
        if found.manifest is not None and not (again and found.manifest == before):
            return _remembered(model, store, found.manifest)
        manifest = _measure(model, options, subject)
        notes = () if found.note is None else (found.note,)
        return Built(model.name, manifest, store.remember(manifest), remembered=False, notes=notes)


def _covers(manifest: Manifest, options: BuildOptions) -> bool:
    """Whether it holds what is asked for: plans are measured for one hop."""
    found = manifest.incremental
    return found is not None and options.hop in (None, found.hop)


def now() -> str:
    """The time in UTC, as manifests hold it: to the microsecond, so that one of before is told from one of after."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _remembered(model: ModelFile, store: EngineStore, manifest: Manifest) -> Built:
    path = store.path(manifest.subject)
    if path is None:
        raise RuntimeError("a manifest was found in a store without a place")
    return Built(model.name, manifest, path, remembered=True, notes=())


def _measure(model: ModelFile, options: BuildOptions, subject: Subject) -> Manifest:
    """Tries the forms asked for and keeps one."""
    tried = _try_forms(model, options)
    timed, form, reason = _time_and_choose([*_plain(model, options), *tried], model, options)
    engine = next(t.engine for t in tried if t.engine is not None and t.candidate.form == form)
    hop = model.contract.hop if options.hop is None else options.hop
    return Manifest(
        subject=subject,
        form=cast("Form", form),
        reason=reason,
        candidates=tuple(timed),
        measurement=Measurement(CALLS * options.rounds, options.rounds, WARM_UP),
        created=now(),
        model=model.name,
        precision=options.engine.precision,
        incremental=measure_plans(model, engine, hop, options.rounds),
    )


def _check(options: BuildOptions) -> None:
    engine = options.engine
    if engine.threads < 1:
        raise UsageError("threads", f"got {engine.threads}", "1 or more")
    if options.hop is not None and options.hop < 1:
        raise UsageError("--hop", f"got {options.hop}", "a number of samples, 1 or more")
    if options.rounds < 1:
        raise UsageError("rounds", f"got {options.rounds}", "1 or more")
    check_precision(engine.precision)
    if engine.attention != AUTO:
        check_target(Target("onnxruntime", engine.attention))


def default_form(precision: str) -> str:
    """The form that stays unless another is faster."""
    return Target("onnxruntime", precision=precision).form


def _plain(model: ModelFile, options: BuildOptions) -> list[_Tried]:
    """What INT8 is compared with in the same run: the model file as it lies, and the form FP32 runs in here."""
    if options.engine.precision == "fp32":
        return []
    here = open_engine(model, options.backend, EngineOptions(threads=options.engine.threads)).info.attention
    return [_judge(model, options, form, precision="fp32") for form in dict.fromkeys(("reference", here))]


def _try_forms(model: ModelFile, options: BuildOptions) -> list[_Tried]:
    """Lowers and judges the forms asked for."""
    precision, asked = options.engine.precision, options.engine.attention
    forms = FORMS if asked == AUTO else tuple(dict.fromkeys((default_form(precision), asked)))
    tried = []
    for form in forms:
        if form != asked and (reason := _over_budget(model, form, precision)):
            tried.append(_Tried(Candidate(form, precision, note=reason, left_out="over the budget"), None))
            continue
        unchanged, note = _what_it_changes(_lower(model, form, precision), form)
        if unchanged and form == asked:
            raise UsageError(f"--attention {form}", f"{note} of {model.name}", todo="leave it out")
        if unchanged:
            tried.append(_Tried(Candidate(form, precision, note=note, left_out="same as reference"), None))
        else:
            tried.append(_judge(model, options, form, precision, note))
    wanted = [t for t in tried if asked in (AUTO, t.candidate.form)]
    if not any(t.engine for t in wanted):
        raise QualityError(
            model.name,
            f"no form in {precision} reproduces its golden windows ({_differences(wanted)} of the logit scale)",
            f"at most {next(t.candidate.acceptance.tolerance for t in wanted if t.candidate.acceptance):g}",
            "export the model again" if precision == "fp32" else "calibrate it again, on data like its golden windows",
        )
    return tried


def _differences(tried: Sequence[_Tried]) -> str:
    rows = [t.candidate for t in tried if t.candidate.acceptance is not None]
    return ", ".join(f"{c.form} {figure(c.acceptance.difference, '.2g')}" for c in rows if c.acceptance is not None)


def _lower(model: ModelFile, form: str, precision: str) -> Lowered:
    placement = placement_of(model, "onnxruntime") if precision == "int8" else None
    return lower(model.proto, Target("onnxruntime", form, precision, placement=placement))


def _over_budget(model: ModelFile, form: str, precision: str) -> str:
    """Why calibration speaks against a form, "" if it does not: golden windows are few, its windows were many.

    The integer convolution quantises its outputs too, so the same ranges can be right in one form and wrong in another.
    """
    if precision != "int8" or form == default_form(precision):
        return ""
    table = read_table(model.calibration, model.name, model.graph_digest)
    found = placement_of(model, "onnxruntime").forms.get(form)
    if found is None:
        return "calibration did not judge it"
    if found.within(table.budget):
        return ""
    return f"calibration: {found.points:.3g} % of the labels differ (largest margin {found.worst_margin:.2g})"


def _what_it_changes(lowered: Lowered, form: str) -> tuple[bool, str]:
    """Whether a form changes nothing, and what it leaves alone with the first reason."""
    report = next((r for r in lowered.reports if r.name == form), None)
    if report is None:
        return False, ""
    why = f" ({report.near_misses[0].reason})" if report.near_misses else ""
    if not report.changed:
        return True, f"changes no block{why}"
    if report.near_misses:
        left = len(report.near_misses)
        return False, f"leaves {left} of {left + report.changed} places as they are{why}"
    return False, ""


def _judge(model: ModelFile, options: BuildOptions, form: str, precision: str, note: str = "") -> _Tried:
    """Opens a form as an engine and compares it with the golden logits."""
    engine = open_engine(model, options.backend, replace(options.engine, precision=precision, attention=form))
    found = verify_engine(model, engine)
    acceptance = Acceptance(
        windows=found.windows,
        synthetic=found.synthetic,
        basis=found.basis,
        difference=found.relative if math.isfinite(found.relative) else None,
        tolerance=found.tolerance,
        flips=found.flips,
        worst_margin=found.worst_margin,
        accepted=found.passed,
    )
    notes = "; ".join(text for text in (note, *engine.info.notes) if text)
    return _Tried(Candidate(form, precision, note=notes, acceptance=acceptance), engine if found.passed else None)


def _time_and_choose(
    tried: Sequence[_Tried], model: ModelFile, options: BuildOptions
) -> tuple[list[Candidate], str, str]:
    """The candidates with their times (those without an engine have none), the form to keep and why."""
    running = [t for t in tried if t.engine is not None]
    engines = [t.engine for t in running if t.engine is not None]
    times = Times(time_in_turns(engines, model.golden.x[:1], options.rounds))
    mine = [i for i, t in enumerate(running) if t.candidate.precision == options.engine.precision]
    usual = next((i for i in mine if running[i].candidate.form == default_form(options.engine.precision)), mine[0])
    figures = {
        id(t): (round(times.median_us(i), 2), times.rounds_won(i, usual) if i != usual else None)
        for i, t in enumerate(running)
    }
    timed = []
    for t in tried:
        median, won = figures.get(id(t), (None, None))
        timed.append(msgspec.structs.replace(t.candidate, median_us=median, rounds_won=won))
    if options.engine.attention != AUTO:
        return timed, options.engine.attention, "asked for"
    kept = times.best(mine, usual)
    reason = times.why(kept, usual, running[usual].candidate.form, len(mine) - 1)
    return timed, running[kept].candidate.form, reason
