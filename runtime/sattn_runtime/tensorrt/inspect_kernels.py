"""`sattn-inspect --kernels`: what NVIDIA's compiler makes of a model file, on any machine."""

from __future__ import annotations

from sattn_edge.engine import AUTO, BUILT, check_backend
from sattn_edge.engine_manifest import Request, Shortcut
from sattn_edge.errors import SattnEdgeError, UsageError, did_you_mean
from sattn_edge.lowering import FORMS, Lowered, lower
from sattn_edge.model_file import ModelFile
from sattn_runtime.tensorrt.bindings import RTX, TENSORRT, Bindings, load
from sattn_runtime.tensorrt.build import check_batch
from sattn_runtime.tensorrt.candidates import PRECISIONS, Surroundings, compile_options, forms_of, target_of
from sattn_runtime.tensorrt.compile_process import Compiled, Watcher, compile_graph
from sattn_runtime.tensorrt.device import open_device
from sattn_runtime.tensorrt.engine import deserialise, limits
from sattn_runtime.tensorrt.executor import Executor
from sattn_runtime.tensorrt.kernels_report import CompiledFor, KernelsReport, make
from sattn_runtime.tensorrt.layers import EngineLayer, parse_layers
from sattn_runtime.tensorrt.memory import available_bytes, workspace


def inspect_kernels(model: ModelFile, request: Request, watcher: Watcher | None = None) -> KernelsReport:
    """Compiles a model file and reads its kernels. With form `auto`, the one of fewest kernels.

    Raises:
        UsageError: no such backend, architecture, precision or form.
        ModelFileError, DigestError: int8 without a calibration table that fits.
        QualityError: the compiler makes no engine of it.
        UnavailableError: the compiler is missing, or needs a GPU that is not there.
    """
    check(request)
    bindings = load(request.backend)
    room = workspace(request.workspace_mib, None, available_bytes())
    around = Surroundings(bindings, None, request, room.bytes, watcher=watcher)
    best: tuple[Lowered, tuple[EngineLayer, ...]] | None = None
    refused: SattnEdgeError | None = None
    for form in forms_of(request):
        lowered = lower(model.proto, target_of(model, request, bindings, form, request.precision))
        what = f"{form}, {request.precision}"
        try:
            compiled = compile_graph(lowered.model, compile_options(around, request.precision), watcher, what)
        except SattnEdgeError as error:
            if request.attention != AUTO or isinstance(error, UsageError):
                raise
            refused = refused or error
            continue
        layers = _layers_of(compiled, bindings, request)
        if best is None or len(layers) < len(best[1]):
            best = lowered, layers
    if best is None:
        raise refused or RuntimeError("no form was tried")
    batch = request.batch_range or request.batch or 1
    return make(model, *best, CompiledFor(request.backend, bindings.release, request.arch, batch))


def _layers_of(compiled: Compiled, bindings: Bindings, request: Request) -> tuple[EngineLayer, ...]:
    """From the compiler's log; TensorRT before 11 lists them elsewhere, so there the engine is asked, on its GPU."""
    if compiled.layers_text or request.arch is not None:
        return parse_layers(compiled.layers_text)
    device = open_device(request.backend)
    try:
        engine = deserialise(bindings, compiled.plan)
        executor = Executor(bindings, device.cuda, engine, limits(request), Shortcut())
        return parse_layers(executor.inspected())
    finally:
        device.cuda.close()


def check(request: Request) -> None:
    """Raises UsageError for a request that can't be."""
    if request.backend not in BUILT:
        raise UsageError("--backend", f"got '{request.backend}'", f"kernels are for {' and '.join(BUILT)}")
    check_backend(request.backend)
    if request.precision not in PRECISIONS:
        raise UsageError("--precision", f"got '{request.precision}'", did_you_mean(request.precision, PRECISIONS))
    if request.attention not in (AUTO, *FORMS):
        raise UsageError("--attention", f"got '{request.attention}'", did_you_mean(request.attention, (AUTO, *FORMS)))
    if request.backend == RTX and request.arch is None:
        raise UsageError("--kernels", "got no --arch", "the architecture to compile for", "add --arch sm86")
    if request.backend == TENSORRT and request.arch is not None:
        raise UsageError("--arch", f"got '{request.arch}'", "tensorrt builds for the GPU it runs on", "leave it out")
    check_batch(request)
