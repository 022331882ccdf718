"""Engines for this device: every exact form built, held against ONNX Runtime, timed on the GPU; the fastest is kept.

    candidates (form x precision) -> CUDA events choose -> shortcuts around the one that was chosen -> engine store

What is remembered is kept until it is asked for again (`retune`) or something it depends on has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import cast

import msgspec

from sattn_edge.engine import AUTO
from sattn_edge.engine_manifest import (
    BEST,
    Form,
    Judged,
    Manifest,
    Measurement,
    Request,
    Subject,
    subject_of,
)
from sattn_edge.engine_store import EngineStore, default_store
from sattn_edge.errors import SattnEdgeError, UnavailableError, UsageError, did_you_mean
from sattn_edge.files import digest
from sattn_edge.lowering import FORMS
from sattn_edge.model_file import ModelFile
from sattn_edge.text import count
from sattn_edge.windows import WindowSet, load_windows
from sattn_runtime.build import Built, now
from sattn_runtime.tensorrt.bindings import TENSORRT, Bindings, load
from sattn_runtime.tensorrt.candidates import (
    PRECISIONS,
    Surroundings,
    Tried,
    forms_of,
    nothing_left,
    try_candidate,
)
from sattn_runtime.tensorrt.choose import Choice, Judging, by_kernels, by_time, time_on_gpu
from sattn_runtime.tensorrt.compile_process import Unwatched, Watcher
from sattn_runtime.tensorrt.device import Device, device_or_reason
from sattn_runtime.tensorrt.memory import available_bytes, workspace
from sattn_runtime.tensorrt.shortcuts import choose_shortcut
from sattn_runtime.timing import CALLS, ROUNDS, WARM_UP

BUDGET_POINTS = 0.5
_MOST_BATCH = 4096


@dataclass(frozen=True)
class TensorRTBuild:
    """What to build. data: windows that `best` is judged on; budget: how many points of labels may differ there."""

    request: Request
    retune: bool = False
    data: str | None = None
    budget: float = BUDGET_POINTS
    rounds: int = ROUNDS


def build(
    model: ModelFile,
    options: TensorRTBuild,
    store: EngineStore | None = None,
    watcher: Watcher | None = None,
    waiting: Callable[[], None] | None = None,
) -> Built:
    """Builds the engine for a model file on this device, or tells what was built before.

    watcher: sees how each compilation goes on. waiting: called once where another build is going on.

    Raises:
        UsageError: options that do not go together; exit code 2.
        ModelFileError, DigestError: int8 without a calibration table that fits, or a graph the parser refuses.
        QualityError: no engine in the precision asked for, or none that gives what ONNX Runtime gives; exit code 4.
        UnavailableError: no bindings, no GPU, memory ran out, or the store can't be written; exit code 6.
    """
    store = store or default_store()
    check(options)
    bindings = load(options.request.backend)
    store.prepare()  # before minutes are spent on what could not be kept
    with ExitStack() as stack:
        found = device_or_reason(options.request.backend)
        device = None if isinstance(found, str) else found
        if device is not None:
            stack.callback(device.cuda.close)
        options = _settled(options, device, "" if not isinstance(found, str) else found)
        windows = None if options.data is None else load_windows(options.data, model.contract)
        subject = subject_of(
            model, options.request, bindings.release, None if options.request.arch or device is None else device.gpu
        )
        return _Build(model, options, bindings, device, store, watcher).run(subject, windows, waiting)


def check(options: TensorRTBuild) -> None:
    """Raises UsageError for options that can't be."""
    request = options.request
    known = (*PRECISIONS, BEST)
    if request.precision not in known:
        raise UsageError("--precision", f"got '{request.precision}'", did_you_mean(request.precision, known))
    if request.attention not in (AUTO, *FORMS):
        raise UsageError("--attention", f"got '{request.attention}'", did_you_mean(request.attention, (AUTO, *FORMS)))
    if request.threads != 1:
        raise UsageError("--threads", f"got {request.threads}", f"{request.backend} runs on the GPU", "leave it out")
    check_batch(request)
    if request.workspace_mib is not None and request.workspace_mib < 1:
        raise UsageError("--workspace", f"got {request.workspace_mib}", "MiB, 1 or more")
    if request.precision == BEST and options.data is None:
        raise UsageError("--precision best", "got no --data", "windows to judge the precisions on", "add --data FILE")
    if request.precision != BEST and options.data is not None:
        raise UsageError("--data", f"got --precision {request.precision}", "windows are what 'best' is judged on")
    if not 0 <= options.budget <= 100:
        raise UsageError("--budget", f"got {options.budget:g}", "points of labels that may differ, 0 to 100")
    if request.arch is not None and request.backend == TENSORRT:
        raise UsageError("--arch", f"got '{request.arch}'", "tensorrt builds for the GPU it runs on", "leave it out")


def check_batch(request: Request) -> None:
    """Raises UsageError for a batch or a range of batches that can't be."""
    if request.batch is not None and request.batch_range is not None:
        raise UsageError("--batch", "got --batch-range too", "one of the two")
    if request.batch is not None and not 1 <= request.batch <= _MOST_BATCH:
        raise UsageError("--batch", f"got {request.batch}", f"1 to {_MOST_BATCH}")
    if request.batch_range is not None:
        least, usual, most = request.batch_range
        if not 1 <= least <= usual <= most <= _MOST_BATCH:
            found = ",".join(map(str, request.batch_range))
            raise UsageError(
                "--batch-range", f"got {found}", f"MIN,OPT,MAX, each at least the one before, 1 to {_MOST_BATCH}"
            )


def _settled(options: TensorRTBuild, device: Device | None, reason: str) -> TensorRTBuild:
    """What depends on the device: an architecture that is this one's is no other. reason: why there is no device."""
    request = options.request
    if device is not None and request.arch is not None and request.arch.lower() == device.arch:
        return replace(options, request=msgspec.structs.replace(request, arch=None))
    nowhere = device is None or request.arch is not None
    if nowhere and request.arch is None:
        other = "" if request.backend == TENSORRT else ", or name an architecture to compile for: --arch sm86"
        raise UnavailableError(
            f"backend '{request.backend}'",
            f"there is no GPU to build for ({reason})",
            "engines are built on the device they run on",
            f"run sattn-doctor{other}",
        )
    if nowhere and request.precision == BEST:
        raise UnavailableError("--precision best", "nothing here can run that engine", "it has to be measured")
    if request.arch is not None:
        lower_case = msgspec.structs.replace(request, arch=request.arch.lower())
        return replace(options, request=lower_case)
    return options


class _Build:
    """One build: what it is given, and the steps of it."""

    def __init__(
        self,
        model: ModelFile,
        options: TensorRTBuild,
        bindings: Bindings,
        device: Device | None,
        store: EngineStore,
        watcher: Watcher | None,
    ) -> None:
        self._model, self._options, self._bindings, self._store = model, options, bindings, store
        self._device = None if options.request.arch is not None else device
        self._watcher = watcher or Unwatched()
        self._notes: list[str] = []

    def run(self, subject: Subject, windows: WindowSet | None, waiting: Callable[[], None] | None) -> Built:
        before = self._remembered(subject, windows)
        if before is not None and not self._options.retune:
            return before
        with self._store.building(waiting):
            # Somebody else may have built the same while this process waited for its turn. Not told by the time in
            # the manifest: a board without a battery for its clock may be in the past of what it built itself.
            found = self._remembered(subject, windows)
            if found is not None and not (self._options.retune and found == before):
                return found
            self._store.sweep()
            manifest, plan = self._make(subject, windows)
            path = self._store.remember(manifest, plan)
        return Built(self._model.name, manifest, path, remembered=False, notes=tuple(self._notes))

    def _remembered(self, subject: Subject, windows: WindowSet | None) -> Built | None:
        """What is in the store, where it is whole and was judged on the same windows."""
        found, path = self._store.look_up(subject), self._store.path(subject)
        self._notes = [] if found.note is None else [found.note]
        manifest = found.manifest
        if manifest is None or path is None:
            return None
        if windows is not None and manifest.judged != self._judged(windows):
            self._notes.append("it was judged on other windows or by another budget before: measured again")
            return None
        try:
            self._store.read_plan(manifest)
        except SattnEdgeError as error:
            self._notes.append(f"the engine that was there is not used, and built anew ({error.found})")
            return None
        return Built(self._model.name, manifest, path, remembered=True, notes=())

    def _judged(self, windows: WindowSet) -> Judged:
        return Judged(windows.digest, len(windows.x), self._options.budget)

    def _make(self, subject: Subject, windows: WindowSet | None) -> tuple[Manifest, bytes]:
        around = self._surroundings()
        tried = [
            try_candidate(self._model, around, form, precision)
            for precision in self._precisions()
            for form in forms_of(self._options.request)
        ]
        choice = self._choose(tried, windows)
        kept, candidate = tried[choice.kept], tried[choice.kept].candidate
        if kept.compiled is None:
            raise RuntimeError("a candidate without an engine was chosen")
        if self._device is not None:
            self._watcher.doing("timing the ways to call it")
        shortcut, shortcuts = choose_shortcut(self._model, around, kept, self._options.rounds)
        rounds = self._options.rounds if self._device is not None else 0
        manifest = Manifest(
            subject=subject,
            form=cast("Form", candidate.form),
            reason=choice.reason,
            candidates=choice.candidates,
            measurement=Measurement(CALLS * rounds, rounds, WARM_UP if rounds else 0, "CUDA events"),
            created=now(),
            plan=kept.compiled.digest,
            plan_bytes=len(kept.compiled.plan),
            model=self._model.name,
            precision=candidate.precision,
            shortcut=shortcut,
            shortcuts=shortcuts,
            judged=None if windows is None else self._judged(windows),
        )
        return manifest, kept.compiled.plan

    def _choose(self, tried: Sequence[Tried], windows: WindowSet | None) -> Choice:
        asked = self._options.request
        if self._device is None:
            return by_kernels(self._model, tried, asked)
        running = [t for t in tried if t.executor is not None]
        if not running:
            raise nothing_left(self._model, tried, asked.precision)
        self._watcher.doing(f"timing {count(len(running), 'engine')} on the GPU")
        return by_time(self._model, tried, asked, time_on_gpu(running, self._options.rounds), self._judging(windows))

    def _judging(self, windows: WindowSet | None) -> Judging | None:
        return None if windows is None else Judging(windows.x, self._options.budget)

    def _surroundings(self) -> Surroundings:
        request = self._options.request
        cuda = None if self._device is None else self._device.cuda
        free = None if cuda is None or cuda.info.integrated else cuda.free_bytes()
        room = workspace(request.workspace_mib, free, available_bytes())
        if room.note:
            self._notes.append(room.note)
        root = self._store.prepare()
        gpu = None if self._device is None else self._device.gpu
        about = digest(msgspec.json.encode((request.backend, self._bindings.release, gpu))).partition(":")[2][:16]
        return Surroundings(
            bindings=self._bindings,
            device=self._device,
            request=request,
            workspace_bytes=room.bytes,
            folder=root,
            timing_cache=root / f"timing-{about}.cache",
            watcher=self._watcher,
        )

    def _precisions(self) -> tuple[str, ...]:
        asked = self._options.request.precision
        if asked != BEST:
            return (asked,)
        if self._model.calibration is None:
            self._notes.append("int8 was not tried: the model file carries no calibration table (sattn-calibrate)")
            return ("fp32", "fp16")
        return PRECISIONS
