"""What the engine store writes down: what was asked for, where, what was measured, what was kept.

Everything here is plain data. What an entry is bound to is a `Subject`, whose digest names its folder; what was found
out is a `Manifest`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from sattn_edge._version import __version__
from sattn_edge.calibration_table import Agreement
from sattn_edge.cpu import architecture, cpu_features, cpu_name
from sattn_edge.files import digest
from sattn_edge.plan_names import WindowPlan

if TYPE_CHECKING:
    from sattn_edge.model_file import ModelFile

VERSION = 2
BEST = "best"
Form = Literal["reference", "folded", "taps", "mean-conv", "composed", "gemm"]  # those of sattn_edge.lowering
Memory = Literal["pageable", "pinned", "mapped"]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was asked for.

    precision: `best` leaves it to a measurement. attention: `auto` or a form. batch: windows of one call, None is a
    free one on ONNX Runtime and 1 elsewhere; batch_range: least, usual and most, in its place. workspace_mib: None is
    what the device's memory allows. arch: compiled for this architecture on a machine that can't run it.
    """

    backend: str
    precision: str
    attention: str = "auto"
    batch: int | None = None
    threads: int = 1
    batch_range: tuple[int, int, int] | None = None
    workspace_mib: int | None = None
    arch: str | None = None


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The GPU and what drives it. l4t: the release of a Jetson's system, None elsewhere."""

    name: str
    compute_capability: str
    driver: str
    cuda: str
    l4t: str | None = None


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where it was measured. runtime: the backend's version; version: ours; features: of the CPU, that matter."""

    runtime: str
    cpu: str
    architecture: str
    version: str
    features: tuple[str, ...] = ()
    gpu: Gpu | None = None


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a choice is bound to. calibration: the table's digest, where INT8 can come of it."""

    graph: str
    calibration: str | None
    request: Request
    platform: Platform

    @property
    def key(self) -> str:
        """64 hex digits: the name of its folder."""
        return digest(msgspec.json.encode(self, order="sorted")).partition(":")[2]


def subject_of(model: ModelFile, request: Request, runtime: str, gpu: Gpu | None = None) -> Subject:
    """What a choice for this model file on this device is bound to. runtime: the backend's version."""
    calibration = None
    if request.precision in ("int8", BEST) and model.calibration is not None:
        calibration = digest(msgspec.json.encode(model.calibration, order="sorted"))
    return Subject(model.graph_digest, calibration, request, platform_here(runtime, gpu))


def platform_here(runtime: str, gpu: Gpu | None = None) -> Platform:
    """What this device is."""
    return Platform(runtime, cpu_name(), architecture(), __version__, cpu_features(), gpu)


class Acceptance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A form on the golden windows, beside `basis`; flips: labels that differ. All else is of the logit scale.

    difference: None where logits are NaN or infinite.
    """

    windows: int
    synthetic: bool
    basis: str
    difference: float | None
    tolerance: float
    flips: int
    worst_margin: float
    accepted: bool


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One form: how it did, or, in a few words (`left_out`) and in full (`note`), why it was not tried.

    median_us: of one call, None if it was not timed. rounds_won: in how many rounds it was faster than the form that
    stays unless another is faster. kernels: how many the compiler made. agreement: with FP32 on windows of the user's.
    """

    form: str
    precision: str
    note: str = ""
    left_out: str = ""
    acceptance: Acceptance | None = None
    median_us: float | None = None
    rounds_won: int | None = None
    kernels: int | None = None
    agreement: Agreement | None = None


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the candidates were timed: so many calls of one window each, spread over rounds of shuffled order."""

    calls: int
    rounds: int
    warm_up: int
    clock: str = "monotonic"


class Shortcut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How windows reach the GPU and logits leave it. graph: the call is captured once and replayed."""

    memory: Memory = "pageable"
    graph: bool = False

    @property
    def text(self) -> str:
        """`mapped memory, CUDA graph`."""
        return f"{self.memory} memory{', CUDA graph' if self.graph else ''}"


class ShortcutTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to call the engine that was kept: its time from windows to logits in host memory, or why it has none."""

    shortcut: Shortcut
    median_us: float | None = None
    rounds_won: int | None = None
    note: str = ""


class Judged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `best` was judged on: the windows' digest, how many they are, and the budget in points of labels."""

    data: str
    windows: int
    budget: float


class PlanTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to infer the windows of a stream.

    difference: from the whole windows' logits, of the logit scale. note: why it was not timed.
    """

    plan: WindowPlan
    median_us: float | None = None
    rounds_won: int | None = None
    difference: float | None = None
    note: str = ""


class IncrementalChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plan that was kept for windows every `hop` samples, for `reason`."""

    hop: int
    plan: WindowPlan
    reason: str
    times: tuple[PlanTime, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the store remembers. `form` in `precision` was kept, for `reason`.

    model: what the file was called, for people. plan: digest of the engine file beside it, if any.
    """

    subject: Subject
    form: Form
    reason: str
    candidates: tuple[Candidate, ...]
    measurement: Measurement
    created: str
    plan: str | None = None
    plan_bytes: int | None = None
    model: str = ""
    precision: str = ""
    shortcut: Shortcut | None = None
    shortcuts: tuple[ShortcutTime, ...] = ()
    judged: Judged | None = None
    incremental: IncrementalChoice | None = None
    version: int = VERSION

    @property
    def kept(self) -> Candidate | None:
        """The candidate that was kept."""
        precision = self.precision or self.subject.request.precision
        return next((c for c in self.candidates if (c.form, c.precision) == (self.form, precision)), None)

    @property
    def accepted(self) -> bool:
        """Whether what was kept gave the golden logits. False where nothing here could run it."""
        kept = self.kept
        return kept is not None and kept.acceptance is not None and kept.acceptance.accepted


RUNTIMES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def differences(there: Subject, here: Subject) -> tuple[str, ...]:
    """In plain words, what keeps an entry of the store from being the one that is looked for."""
    return tuple(_differences(there, here))


def _differences(there: Subject, here: Subject) -> Iterator[str]:
    if there.graph != here.graph:
        yield "the graph is another one"
    # Only INT8 has one: between two precisions it says nothing new.
    if there.calibration != here.calibration and there.request.precision == here.request.precision:
        yield "the calibration table is another one"
    yield from _changed(there.request, here.request, _REQUEST_WORDS)
    yield from platform_differences(there.platform, here.platform, here.request.backend)


_REQUEST_WORDS = {
    "backend": "the backend",
    "precision": "the precision",
    "attention": "the attention form asked for",
    "batch": "the batch",
    "threads": "the number of threads",
    "batch_range": "the batch range",
    "workspace_mib": "the workspace",
    "arch": "the architecture compiled for",
}


def platform_differences(was: Platform, now: Platform, backend: str) -> tuple[str, ...]:
    """In plain words, how two devices differ for a backend."""
    words = {**_PLATFORM_WORDS, "runtime": RUNTIMES.get(backend, backend)}
    found = _changed(was, now, words)
    if was.gpu is None or now.gpu is None:
        gpus = [_told(gpu and gpu.name) for gpu in (was.gpu, now.gpu)]
        return tuple(found) if was.gpu == now.gpu else (*found, f"the GPU was {gpus[0]} and is {gpus[1]}")
    return (*found, *_changed(was.gpu, now.gpu, _GPU_WORDS))


def _changed(was: object, now: object, words: dict[str, str]) -> list[str]:
    pairs = [(what, getattr(was, name), getattr(now, name)) for name, what in words.items()]
    return [f"{what} was {_told(old)} and is {_told(new)}" for what, old, new in pairs if old != new]


_PLATFORM_WORDS = {
    "runtime": "",
    "version": "sattn-edge",
    "cpu": "the processor",
    "architecture": "the architecture",
    "features": "the processor's instruction set",
}
_GPU_WORDS = {
    "name": "the GPU",
    "compute_capability": "its compute capability",
    "driver": "the CUDA driver",
    "cuda": "CUDA",
    "l4t": "L4T",
}


def _told(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "nothing"
    return str(value)
