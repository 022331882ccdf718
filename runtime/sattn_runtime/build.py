"""Which form of the attention blocks is fastest on this device: measured, judged, remembered.

    lower in every form -> judge on the golden windows -> time in turns -> keep one -> engine store

A form that is remembered is kept until it is asked for again (`retune`): a restart never flips a choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from sattn_edge.calibration_table import placement_for, read_table
from sattn_edge.engine import AUTO, DEFAULT_BACKEND, Engine, EngineOptions, open_engine
from sattn_edge.engine_onnxruntime import VERSION, check_precision, request_of
from sattn_edge.engine_store import (
    Acceptance,
    Candidate,
    EngineStore,
    Form,
    Manifest,
    Measurement,
    default_store,
    subject_of,
)
from sattn_edge.errors import QualityError, UsageError
from sattn_edge.lowering import FORMS, Lowered, Target, check_target, lower
from sattn_edge.model_file import ModelFile
from sattn_runtime.timing import CALLS, ROUNDS, WARM_UP, time_in_turns
from sattn_runtime.verify import verify_engine

LEAST_GAIN = 0.03
"""A form must be faster than the usual one by more than this part of its time: medians of one run wander by less."""
LEAST_ROUNDS = 0.75
"""And in this part of the rounds: a burst of something else on the machine hits a few of them."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build. engine.attention: `auto` measures every form; rounds: of CALLS calls for each form."""

    backend: str = DEFAULT_BACKEND
    engine: EngineOptions = EngineOptions()  # noqa: RUF009 - frozen
    retune: bool = False
    rounds: int = ROUNDS


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


def build(model: ModelFile, options: BuildOptions, store: EngineStore | None = None) -> Built:
    """Chooses the form for a model file on this device, or tells what was chosen before.

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
    found, path = store.look_up(subject), store.path(subject)
    if found.manifest is not None and path is not None and not options.retune:
        return Built(model.name, found.manifest, path, remembered=True, notes=())
    tried = _try_forms(model, options)
    timed = _time([*_plain(model, options), *tried], model, options.rounds)
    form, reason = _choose([c for c in timed if c.precision == options.engine.precision], options)
    manifest = Manifest(
        subject=subject,
        form=cast("Form", form),
        reason=reason,
        candidates=tuple(timed),
        measurement=Measurement(CALLS * options.rounds, options.rounds, WARM_UP),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    notes = () if found.note is None else (found.note,)
    return Built(model.name, manifest, store.remember(manifest), remembered=False, notes=notes)


def _check(options: BuildOptions) -> None:
    engine = options.engine
    if engine.threads < 1:
        raise UsageError("threads", f"got {engine.threads}", "1 or more")
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
    return ", ".join(f"{c.form} {c.acceptance.difference:.2g}" for c in rows if c.acceptance is not None)


def _lower(model: ModelFile, form: str, precision: str) -> Lowered:
    placement = None
    if precision == "int8":
        table = read_table(model.calibration, model.name, model.graph_digest)
        placement = placement_for(table, "onnxruntime", model.name)
    return lower(model.proto, Target("onnxruntime", form, precision, placement=placement))


def _over_budget(model: ModelFile, form: str, precision: str) -> str:
    """Why calibration speaks against a form, "" if it does not: golden windows are few, its windows were many.

    The integer convolution quantises its outputs too, so the same ranges can be right in one form and wrong in another.
    """
    if precision != "int8" or form == default_form(precision):
        return ""
    table = read_table(model.calibration, model.name, model.graph_digest)
    found = placement_for(table, "onnxruntime", model.name).forms.get(form)
    if found is None:
        return "calibration did not judge it"
    if found.within(table.budget):
        return ""
    return f"calibration: {found.points:.2g} % of the labels differ (largest margin {found.worst_margin:.2g})"


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
        difference=found.relative,
        tolerance=found.tolerance,
        flips=found.flips,
        worst_margin=found.worst_margin,
        accepted=found.passed,
    )
    notes = "; ".join(text for text in (note, *engine.info.notes) if text)
    return _Tried(Candidate(form, precision, note=notes, acceptance=acceptance), engine if found.passed else None)


def _time(tried: Sequence[_Tried], model: ModelFile, rounds: int) -> list[Candidate]:
    """The candidates with their times; those without an engine have none."""
    window = model.golden.x[:1]
    running = [t for t in tried if t.engine is not None]
    times = time_in_turns([t.engine for t in running if t.engine is not None], window, rounds)
    # In one round the candidates ran within milliseconds of each other: there they are compared.
    by_round = np.median(times, axis=2)
    usual = _usual([t.candidate for t in running])
    won = {id(t): _won(by_round[i], by_round[usual]) for i, t in enumerate(running) if i != usual}
    median = {id(t): float(np.median(times[i])) for i, t in enumerate(running)}
    return [
        msgspec.structs.replace(t.candidate, median_us=round(median[id(t)], 2), rounds_won=won.get(id(t)))
        if id(t) in median
        else t.candidate
        for t in tried
    ]


def _won(mine: NDArray[np.float64], usual: NDArray[np.float64]) -> int:
    return int((mine < usual).sum())


def _usual(candidates: Sequence[Candidate]) -> int:
    """Where the form stands that the others have to beat: the usual one, else the first of its precision."""
    precision = candidates[-1].precision
    places = [i for i, c in enumerate(candidates) if c.precision == precision]
    return next((i for i in places if candidates[i].form == default_form(precision)), places[0])


def _choose(candidates: Sequence[Candidate], options: BuildOptions) -> tuple[str, str]:
    """The form to keep and why."""
    timed = [c for c in candidates if c.median_us is not None]
    if options.engine.attention != AUTO:
        return options.engine.attention, "asked for"
    usual = timed[_usual(timed)]
    better = [c for c in timed if _is_faster(c, usual, options.rounds)]
    if not better:
        if len(timed) == 1:
            return usual.form, "the only one accepted"
        rounds = f"{math.ceil(LEAST_ROUNDS * options.rounds)} of {options.rounds} rounds"
        return usual.form, f"no other is {100 * LEAST_GAIN:g} % faster, and faster in {rounds}"
    best = min(better, key=lambda c: c.median_us or 0.0)
    ratio = (best.median_us or 0.0) / (usual.median_us or 1.0)
    return best.form, f"{ratio:.2f} of {usual.form}'s time, faster in {best.rounds_won} of {options.rounds} rounds"


def _is_faster(candidate: Candidate, usual: Candidate, rounds: int) -> bool:
    if candidate.median_us is None or usual.median_us is None or candidate.rounds_won is None:
        return False
    enough = candidate.median_us < (1 - LEAST_GAIN) * usual.median_us
    return enough and candidate.rounds_won >= LEAST_ROUNDS * rounds
