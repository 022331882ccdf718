"""The parent's side of a compilation: a child process for each, watched while it works, explained when it dies."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import IO, Protocol

import msgspec
from onnx import ModelProto

from sattn_edge.engine_manifest import RUNTIMES
from sattn_edge.engine_store import BUILDS
from sattn_edge.errors import ModelFileError, QualityError, SattnEdgeError, UnavailableError, UsageError
from sattn_runtime.tensorrt.job import Job, Message, Outcome, Phase, Profile, Step
from sattn_runtime.tensorrt.memory import MIB, available_bytes, oom_kills

HEARTBEAT_S = 10.0
_MAIN = (
    "import sys, os; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from sattn_runtime.tensorrt.compiler import main; main()"
)
_TAIL = 2000
_decode = msgspec.json.Decoder(Message).decode


class Watcher(Protocol):
    """Sees how a build goes on. Each method is called from the thread that asked for the build."""

    def begins(self, what: str) -> None:
        """A compilation begins; `what` says of what."""

    def phase(self, name: str, parent: str, steps: int) -> None:
        """The compiler has begun a phase of so many steps, or ended it (steps 0)."""

    def step(self, name: str, step: int) -> None:
        """A step of a phase is done."""

    def alive(self, what: str, seconds: float) -> None:
        """Called now and then while it lasts."""

    def ends(self, what: str) -> None:
        """It has ended, one way or another."""

    def doing(self, what: str) -> None:
        """Something that is no compilation begins, and lasts until the next thing begins."""


class Unwatched:
    """Nobody looks."""

    def begins(self, what: str) -> None:
        """Nothing."""

    def phase(self, name: str, parent: str, steps: int) -> None:
        """Nothing."""

    def step(self, name: str, step: int) -> None:
        """Nothing."""

    def alive(self, what: str, seconds: float) -> None:
        """Nothing."""

    def ends(self, what: str) -> None:
        """Nothing."""

    def doing(self, what: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class CompileOptions:
    """What a compilation needs to know beside the graph; see `Job`."""

    backend: str
    workspace_bytes: int
    half: bool = False
    int8: bool = False
    tf32: bool = False
    profile: Profile | None = None
    arch: str | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True, eq=False)
class Compiled:
    """An engine's bytes, their digest, the compiler's release, its list of layers, and what it warned of."""

    plan: bytes
    digest: str
    release: str
    layers_text: str
    warnings: tuple[str, ...] = field(default=())


def compile_graph(
    model: ModelProto,
    options: CompileOptions,
    watcher: Watcher | None = None,
    what: str = "",
    folder: Path | None = None,
) -> Compiled:
    """Compiles a lowered graph in a process of its own.

    Args:
        model: a plain ONNX graph, typed for its precision.
        options: how.
        watcher: sees how it goes on.
        what: names the graph to the watcher and in errors, `gemm, fp16`.
        folder: where the parts lie while it works; it must be private, since an engine is code.

    Raises:
        UnavailableError: the bindings are missing, there is no GPU, or memory ran out; exit code 6.
        ModelFileError: the compiler does not take the graph; exit code 3.
        UsageError: the workspace is too small, or it knows no such architecture; exit code 2.
    """
    what = what or "graph"
    with tempfile.TemporaryDirectory(prefix=BUILDS, dir=folder) as parts:
        graph, plan = Path(parts) / "graph.onnx", Path(parts) / "engine.plan"
        graph.write_bytes(model.SerializeToString())
        job = Job(
            backend=options.backend,
            graph=str(graph),
            plan=str(plan),
            workspace_bytes=options.workspace_bytes,
            half=options.half,
            int8=options.int8,
            tf32=options.tf32,
            profile=options.profile,
            arch=options.arch,
            timing_cache=None if options.timing_cache is None else str(options.timing_cache),
            parent=os.getpid(),
        )
        outcome = _Child(job, what, watcher or Unwatched()).run()
        if outcome.error:
            raise _refused(outcome, options, what)
        data = plan.read_bytes()
    return Compiled(data, outcome.plan, outcome.release, outcome.layers, outcome.warnings)


class _Child:
    """One child process, from its start to the line that says how it ended."""

    def __init__(self, job: Job, what: str, watcher: Watcher) -> None:
        self._job, self._what, self._watcher = job, what, watcher
        self._outcome: Outcome | None = None

    def run(self) -> Outcome:
        kills, room = oom_kills(), available_bytes()
        command = [sys.executable, "-c", _MAIN, os.pathsep.join(sys.path)]
        with tempfile.TemporaryFile() as said:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
            self._watcher.begins(self._what)
            try:
                self._follow(child)
                code = child.wait()
            finally:
                child.kill()
                child.wait()
                for pipe in (child.stdin, child.stdout):
                    if pipe is not None:
                        with contextlib.suppress(BrokenPipeError):  # it died before it read the job
                            pipe.close()
                self._watcher.ends(self._what)
            if self._outcome is not None:
                return self._outcome
            raise _died(self._what, code, _tail(said), killed=oom_kills() > kills >= 0, room=room)

    def _follow(self, child: subprocess.Popen[bytes]) -> None:
        """Passes on what the child says until it says no more, and a sign of life in between."""
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("a child without pipes")
        try:
            child.stdin.write(msgspec.json.encode(self._job))
            child.stdin.close()
        except BrokenPipeError:
            return  # it died before it read the job; its exit code says more
        began = monotonic()
        for line in _lines(child.stdout, HEARTBEAT_S):
            if line is None:
                self._watcher.alive(self._what, monotonic() - began)
            else:
                self._take(_decode(line))

    def _take(self, message: Message) -> None:
        if isinstance(message, Outcome):
            self._outcome = message
        elif isinstance(message, Phase):
            self._watcher.phase(message.name, message.parent, message.steps)
        elif isinstance(message, Step):
            self._watcher.step(message.name, message.step)


def _lines(stream: IO[bytes], every_s: float) -> Iterator[bytes | None]:
    """Lines as they come, and None whenever so much time has passed."""
    lines: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, daemon=True).start()
    told = monotonic()
    while True:
        try:
            line = lines.get(timeout=max(0.0, told + every_s - monotonic()))
        except queue.Empty:
            told = monotonic()
            yield None
            continue
        if not line:
            return
        yield line


def _tail(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")[-_TAIL:].strip()


def _died(what: str, code: int, said: str, *, killed: bool, room: int) -> SattnEdgeError:
    """The child ended without saying how."""
    if code == -signal.SIGKILL:
        counted = (
            "the kernel counts one more process ended for want of memory" if killed else "nothing of ours did that"
        )
        return UnavailableError(
            f"building {what}",
            f"out of memory: the kernel ended the compiler ({counted}); {room // MIB:,} MiB were available",
            "the memory of a board is shared with its GPU",
            "close other programs, add swap, or give it less with --workspace MIB",
        )
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    last = said.splitlines()[-1] if said else "it said nothing"
    return UnavailableError(f"building {what}", f"the compiler died ({how}: {last})", todo="run sattn-doctor")


# As TensorRT and TensorRT-RTX write them: by name, or `cudaError 35`, `cudaError 100`.
_NO_GPU = (
    "cudaErrorInsufficientDriver",
    "cudaErrorNoDevice",
    "cudaError 35",
    "cudaError 100",
    "no builder can be made",
)


def _refused(outcome: Outcome, options: CompileOptions, what: str) -> SattnEdgeError:
    """The compiler's own refusal, as an error that says what to do."""
    name, said = RUNTIMES[options.backend], outcome.error
    if not outcome.release:  # the bindings themselves are missing; the text is complete
        return UnavailableError(f"building {what}", said)
    if outcome.kind == "parse":
        where = f" at node '{outcome.node}'" if outcome.node else ""
        return ModelFileError(
            what, f"{name}'s parser refuses the graph{where} ({said})", todo="try another --attention"
        )
    if outcome.kind == "architecture":
        return UsageError("--arch", f"got '{options.arch}'", f"{name} {outcome.release} compiles for {said}")
    if outcome.kind == "workspace":
        most = f"{options.workspace_bytes // MIB:,} MiB"
        return UsageError(
            f"building {what}", f"no way to run it in a workspace of {most} ({said})", todo="--workspace MIB"
        )
    if any(text in said for text in _NO_GPU):
        return UnavailableError(f"building {what}", f"there is no GPU here ({said})", todo="build on the device")
    return QualityError(
        f"building {what}", f"{name} {outcome.release} makes no engine of it ({said or 'no reason given'})"
    )
