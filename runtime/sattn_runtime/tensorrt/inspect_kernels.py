"""`sattn-inspect --kernels`: what NVIDIA's compiler makes of a model file, on any machine."""

from __future__ import annotations

from sattn_edge.engine import AUTO, BUILT, check_backend
from sattn_edge.engine_manifest import Request
from sattn_edge.errors import SattnEdgeError, UsageError, did_you_mean
from sattn_edge.lowering import FORMS, Lowered, lower
from sattn_edge.model_file import ModelFile
from sattn_runtime.tensorrt.bindings import RTX, load
from sattn_runtime.tensorrt.candidates import PRECISIONS, Surroundings, compile_options, forms_of, target_of
from sattn_runtime.tensorrt.compile_process import Watcher, compile_graph
from sattn_runtime.tensorrt.kernels_report import CompiledFor, KernelsReport, make
from sattn_runtime.tensorrt.layers import EngineLayer, parse_layers
from sattn_runtime.tensorrt.memory import available_bytes, workspace


def inspect_kernels(model: ModelFile, request: Request, watcher: Watcher | None = None) -> KernelsReport:
    """Compiles a model file and reads its kernels from the compiler's log. With form `auto`, the one of fewest kernels.

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
        layers = parse_layers(compiled.layers_text)
        if best is None or len(layers) < len(best[1]):
            best = lowered, layers
    if best is None:
        raise refused or RuntimeError("no form was tried")
    batch = request.batch_range or request.batch or 1
    return make(model, *best, CompiledFor(request.backend, bindings.release, request.arch, batch))


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
