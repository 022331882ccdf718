"""The TensorRT engine: what `sattn-build` built and accepted on this very device, run through CUDA.

Nothing is built here. The engine's digest is checked before TensorRT sees a byte of it.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.attention_output import AttentionLayout
from sattn_edge.contract import Contract
from sattn_edge.engine import COPIED_OUT, Attended, EngineInfo, EngineOptions, check_windows
from sattn_edge.engine_manifest import Manifest, Request, Shortcut
from sattn_edge.engine_store import REBUILD, EngineStore, default_store
from sattn_edge.errors import SattnEdgeError, UnavailableError, UsageError
from sattn_edge.model_file import ModelFile
from sattn_runtime.tensorrt.bindings import Bindings, errors_of, logger
from sattn_runtime.tensorrt.device import Device, open_device
from sattn_runtime.tensorrt.executor import Executor
from sattn_runtime.tensorrt.find import build_line, find
from sattn_runtime.tensorrt.job import Profile


class TensorRTEngine:
    """An engine on the GPU. It belongs to the thread that opened it.

    Args:
        executor: calls it.
        info: what it says of itself.
        contract: of the model file it was built from.
        device: closed with the engine, None where somebody else closes it.
        gates: how the gates lie in the output `attention`, None where the model file does not give them.
    """

    def __init__(
        self,
        executor: Executor,
        info: EngineInfo,
        contract: Contract,
        device: Device | None = None,
        gates: AttentionLayout | None = None,
    ) -> None:
        self.info, self.contract, self.gates = info, contract, gates
        self._executor, self._device = executor, device
        self._most = executor.batch.most
        self._check_thread = executor.check_thread

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`[b, 1, series, modal]` in physical units -> logits `[b, classes]`, in as many calls as its batch needs.

        Raises:
            UsageError: another dtype or shape, or a thread other than the one that opened it.
            UnavailableError: the GPU failed; the text has CUDA's name of the error.
        """
        check_windows(x, self.contract)
        self._check_thread()
        most = self._most
        if len(x) <= most:
            return self._executor.run(x)
        return np.concatenate([self._executor.run(x[i : i + most]) for i in range(0, len(x), most)])

    def infer_stamped(self, x: NDArray[np.float32], stamps: list[int]) -> NDArray[np.float32]:
        """Like `infer` without the checks of shape, for up to the engine's largest batch, with the time of each stage.

        Copies that the GPU makes on its stream are part of the inference.
        """
        self._check_thread()
        return self._executor.run(x, stamps)

    def infer_attention(self, x: NDArray[np.float32], stamps: list[int]) -> Attended:
        """Like `infer_stamped`, with the gates float32 [b, values]. Raises UsageError where there are none."""
        self._check_thread()
        logits = self._executor.run(x, stamps)
        gates = self._executor.gates(len(x))
        stamps[COPIED_OUT] = monotonic_ns()
        return logits, gates

    def close(self) -> None:
        """Gives stream, buffers and contexts back."""
        self._executor.close()
        if self._device is not None:
            self._device.cuda.close()


def open_engine(model: ModelFile, options: EngineOptions, backend: str = "tensorrt") -> TensorRTEngine:
    """Opens the engine that was built for a model file on this device.

    Raises:
        UsageError: threads were asked for.
        UnavailableError: no bindings, no GPU, or no engine that fits, with the reason and the line that builds it.
        DigestError: the engine in the store is not the one that was written there.
    """
    if options.threads != 1:
        raise UsageError("--threads", f"got {options.threads}", f"{backend} runs on the GPU", "leave it out")
    device = open_device(backend)
    try:
        return _open(model, options, device, default_store())
    except BaseException:
        device.cuda.close()
        raise


def open_rtx(model: ModelFile, options: EngineOptions) -> TensorRTEngine:
    """`open_engine` for TensorRT-RTX."""
    return open_engine(model, options, "tensorrt-rtx")


def _open(model: ModelFile, options: EngineOptions, device: Device, store: EngineStore) -> TensorRTEngine:
    manifest, plan = _read(model, options, device, store)
    engine = deserialise(device.bindings, plan, build_line(model, manifest.subject.request))
    shortcut = manifest.shortcut or Shortcut()
    executor = Executor(device.bindings, device.cuda, engine, limits(manifest.subject.request), shortcut)
    return TensorRTEngine(executor, info_of(manifest, model, device), model.contract, device, model.attention)


def _read(model: ModelFile, options: EngineOptions, device: Device, store: EngineStore) -> tuple[Manifest, bytes]:
    """Manifest and engine. A build that ends between the two reads takes the old engine away: then once more."""
    manifest = find(store, model, options, device.bindings, device.gpu)
    try:
        return manifest, store.read_plan(manifest)
    except SattnEdgeError as error:
        again = find(store, model, options, device.bindings, device.gpu)
        if again.plan != manifest.plan:
            return again, store.read_plan(again)
        if error.todo != REBUILD:  # a build mends no permissions
            raise
        line = f"build it again: {build_line(model, manifest.subject.request)} --retune"
        raise type(error)(error.subject, error.found, error.allowed, line) from error


def deserialise(bindings: Bindings, plan: bytes, line: str = "") -> Any:
    """An engine from its bytes, whose digest was checked.

    Raises:
        UnavailableError: TensorRT does not take it.
    """
    trt, log = bindings.module, logger(bindings)
    try:
        engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    except TypeError as error:  # what the bindings make of a runtime that could not be made
        raise UnavailableError("engine", f"{bindings.name} can't start ({error})", todo="run sattn-doctor") from error
    if engine is None:
        said = errors_of(log.messages) or "no reason given"
        todo = f"build it again: {line} --retune" if line else ""
        raise UnavailableError("engine", f"{bindings.name} does not take it ({said})", todo=todo)
    return engine


def limits(request: Request) -> Profile:
    """The batches an engine takes."""
    if request.batch_range is not None:
        return Profile(*request.batch_range)
    batch = request.batch or 1
    return Profile(batch, batch, batch)


def info_of(manifest: Manifest, model: ModelFile, device: Device) -> EngineInfo:
    """What the engine says of itself."""
    shortcut = manifest.shortcut or Shortcut()
    return EngineInfo(
        backend=device.bindings.backend,
        version=device.bindings.release,
        precision=manifest.precision,
        device=f"{device.gpu.name}, {shortcut.text}, {device.cuda.info.adapter}",
        threads=1,
        graph_digest=model.graph_digest,
        attention=manifest.form,
    )
