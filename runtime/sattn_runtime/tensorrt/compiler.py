"""One graph compiled into one engine, in a process of its own.

A build that failed spoils the next one in its process, the logger belongs to the process, and memory that a build took
may not come back: so the process ends with the build. It is the first that the kernel ends when memory runs out, and
it ends when its parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sattn_edge.errors import SattnEdgeError
from sattn_edge.files import digest, write_atomic
from sattn_runtime.tensorrt.bindings import Bindings, errors_of, load, logger
from sattn_runtime.tensorrt.job import Job, Kind, Message, Outcome, Phase, Step

LAYERS = "Layers:"
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_FIRST_TO_GO = "1000"
_PR_SET_PDEATHSIG = 1
_MOST_WARNINGS = 20
_PRIVATE = 0o600

Tell = Callable[[Message], None]


class RefusedError(Exception):
    """The compiler did not take the graph; `kind` says at which stage."""

    def __init__(self, kind: Kind, text: str, node: str = "") -> None:
        self.kind: Kind = kind
        self.node = node
        super().__init__(text)


def main() -> None:
    """Reads a job on stdin, tells how it goes on stdout, and exits with 0 if it could tell how it ended."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not a message of ours
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    _be_expendable(job.parent)

    def tell(message: Message) -> None:
        # The parent is gone: PDEATHSIG may be a moment away.
        with contextlib.suppress(BrokenPipeError):
            out.write(msgspec.json.encode(message) + b"\n")
            out.flush()

    tell(compile_job(job, tell))
    out.close()
    # Without the destructors of CUDA and TensorRT, which have nothing left to save and may crash.
    os._exit(0)


def compile_job(job: Job, tell: Tell) -> Outcome:
    """Compiles a job in this process and writes the engine. What the compiler refuses is an outcome, not an error."""
    try:
        bindings = load(job.backend)
    except SattnEdgeError as error:
        return Outcome("", error=str(error), kind="build")
    log = logger(bindings)
    try:
        plan = _compile(bindings, job, tell)
    except RefusedError as error:
        text = "; ".join(part for part in (str(error), errors_of(log.messages)) if part)
        return Outcome(bindings.release, error=text, kind=error.kind, node=error.node)
    write_atomic(Path(job.plan), plan, mode=_PRIVATE)
    return Outcome(
        release=bindings.release,
        plan=digest(plan),
        plan_bytes=len(plan),
        layers=next((text for _, text in reversed(log.messages) if text.startswith(LAYERS)), ""),
        warnings=tuple(dict.fromkeys(t.strip() for s, t in log.messages if s == "WARNING"))[:_MOST_WARNINGS],
    )


def _compile(bindings: Bindings, job: Job, tell: Tell) -> bytes:
    trt, log = bindings.module, logger(bindings)
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # what the bindings make of a builder that could not be made, as without a GPU
        raise RefusedError("build", f"no builder can be made ({error})") from error
    network = builder.create_network(network_flags(bindings))
    _parse(bindings, network, Path(job.graph).read_bytes())
    config = builder.create_builder_config()
    configure(bindings, builder, config, job, str(network.get_input(0).name), tuple(network.get_input(0).shape))
    cache = _open_timing_cache(bindings, config, job.timing_cache)
    if bindings.features.progress:
        config.progress_monitor = _monitor(bindings, tell)
    try:
        plan = builder.build_serialized_network(network, config)
    except Exception as error:
        raise RefusedError("build", " ".join(str(error).split())) from error
    if plan is None:
        said = errors_of(log.messages).lower()
        raise RefusedError("workspace" if "workspace" in said or "memory limit" in said else "build", "")
    if cache is not None and job.timing_cache is not None:
        _save_timing_cache(config, Path(job.timing_cache))
    return bytes(plan)


def network_flags(bindings: Bindings) -> int:
    """Strongly typed where there is such a thing, else with an explicit batch (8.6). Values differ by release."""
    flags = bindings.module.NetworkDefinitionCreationFlag
    flag = flags.STRONGLY_TYPED if bindings.features.strongly_typed else flags.EXPLICIT_BATCH
    return 1 << int(flag)


def _parse(bindings: Bindings, network: Any, data: bytes) -> None:
    """The parser takes garbage for an empty network without complaint, so what came of it is looked at."""
    parser = bindings.module.OnnxParser(network, logger(bindings))
    done = parser.parse(data)
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if errors or not done:
        node = _node_name(errors[0]) if errors else ""
        raise RefusedError("parse", "; ".join(" ".join(str(e.desc()).split()) for e in errors) or "it gave up", node)
    if not network.num_outputs:
        raise RefusedError("parse", "it found no outputs")


def _node_name(error: Any) -> str:
    return str(error.node_name()) if hasattr(error, "node_name") else ""


def configure(bindings: Bindings, builder: Any, config: Any, job: Job, name: str, shape: tuple[int, ...]) -> None:
    """Sets what the job asks for. name, shape: of the network's input."""
    trt, has = bindings.module, bindings.features
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_bytes)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the list of layers, which is checked
    (config.set_flag if job.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if has.precision_flags and not has.strongly_typed:
        for wanted, flag in ((job.half, trt.BuilderFlag.FP16), (job.int8, trt.BuilderFlag.INT8)):
            if wanted:
                config.set_flag(flag)
    if has.architectures:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, job.arch), 0)
    if job.profile is not None:
        profile = builder.create_optimization_profile()
        batches = (job.profile.least, job.profile.usual, job.profile.most)
        profile.set_shape(name, *[(batch, *shape[1:]) for batch in batches])
        config.add_optimization_profile(profile)


def _capability(trt: Any, arch: str | None) -> Any:
    known = architectures(trt)
    if arch is not None and arch.lower() not in known:
        raise RefusedError("architecture", ", ".join(known))
    return getattr(trt.ComputeCapability, "CURRENT" if arch is None else arch.upper())


def architectures(trt: Any) -> list[str]:
    """Those a release compiles for, as users write them: `sm86`, ..."""
    names = [name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name)]
    return sorted((name.lower() for name in names), key=lambda name: int(name[2:]))


def _monitor(bindings: Bindings, tell: Tell) -> Any:
    class Monitor(bindings.module.IProgressMonitor):  # type: ignore[misc, name-defined] # of whatever was imported
        """Passes on how far a build is. TensorRT calls it from several threads."""

        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tell(Phase(phase_name, parent_phase or "", num_steps))

        def phase_finish(self, phase_name: str) -> None:
            tell(Phase(phase_name, "", 0))

        def step_complete(self, phase_name: str, step: int) -> bool:
            tell(Step(phase_name, step))
            return True  # False would end the build

    return Monitor()


def _open_timing_cache(bindings: Bindings, config: Any, path: str | None) -> Any:
    """The cache of builds before this one; one that can't be used is left and made anew."""
    if path is None or not bindings.features.timing_cache:
        return None
    data = b""
    with contextlib.suppress(OSError):
        data = Path(path).read_bytes()
    for content in (data, b""):
        cache = config.create_timing_cache(content)
        # Figures of another device or release are refused here, and would be wrong anyway.
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _save_timing_cache(config: Any, path: Path) -> None:
    with contextlib.suppress(OSError):  # the next build takes longer, no more
        write_atomic(path, bytes(config.get_timing_cache().serialize()), mode=_PRIVATE)


def _be_expendable(parent: int) -> None:
    """First in line when memory runs out, and gone when the parent is."""
    with contextlib.suppress(OSError):
        _OOM_SCORE.write_text(_FIRST_TO_GO)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:  # it went before the signal was asked for
        os._exit(1)
