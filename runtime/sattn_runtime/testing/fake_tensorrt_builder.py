"""The builder of the fake: refuses what real ones refuse, and leaves behind what real ones leave behind.

A build that ended with None poisons the next one in its process, which then gives an engine that computes something
else. Seen with TensorRT-RTX 1.7; it is why a build belongs into a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from onnx import ModelProto, TensorProto

from sattn_runtime.testing.fake_tensorrt_base import IHostMemory, Native, host_memory
from sattn_runtime.testing.fake_tensorrt_config import IBuilderConfig, IOptimizationProfile
from sattn_runtime.testing.fake_tensorrt_inspector import build_log
from sattn_runtime.testing.fake_tensorrt_layers import Layer, Layers
from sattn_runtime.testing.fake_tensorrt_network import INetworkDefinition
from sattn_runtime.testing.fake_tensorrt_plan import FIRST_WITH_TF32, Header, Shape, as_built, encode
from sattn_runtime.testing.fake_tensorrt_session import Session

WORKSPACE_NEEDED = 2**20
"""Bytes of workspace without which no build ends well."""
_HANG_S = 0.05
_BY_FLAG = ("FP16", "INT8", "BF16")
_STEPS = 4
_Ranges = dict[str, tuple[Shape, Shape, Shape]]


class _RefusedError(Exception):
    """The build ends with None and this message."""


class Builder(Native):
    """Makes networks, configs, profiles, and engines of them."""

    def __init__(self, logger: object) -> None:
        self._world.register(logger, "InferBuilder")
        self._world.call("Builder")
        if not self._world.release.rtx and not self._world.device.config.visible:
            self._world.say("ERROR", "CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def platform_has_fast_fp16(self) -> bool:
        """As on every GPU this fake may be."""
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        """As above."""
        return True

    @property
    def platform_has_tf32(self) -> bool:
        """From compute capability 8.0 on."""
        return float(self._world.device.config.compute_capability) >= FIRST_WITH_TF32

    def create_network(self, flags: int = 0) -> INetworkDefinition | None:
        """An empty network; None for a flag that the release does not have."""
        known = self._world.types["NetworkDefinitionCreationFlag"].__members__.values()
        most = max((int(flag) for flag in known), default=-1)
        if int(flags) >> (most + 1):
            self._world.say("ERROR", "IBuilder::createNetworkV2: Error Code 3: API Usage Error (unknown flag)")
            return None
        network = self._world.make(INetworkDefinition)
        network._flags, network._onnx = int(flags), b""
        network._inputs, network._outputs, network._nodes = (), (), ()
        return network

    def create_builder_config(self) -> IBuilderConfig:
        """With the library's defaults."""
        config = self._world.make(IBuilderConfig)
        config._start()
        return config

    def create_optimization_profile(self) -> IOptimizationProfile:
        """An empty one."""
        profile = self._world.make(IOptimizationProfile)
        profile._shapes = {}
        return profile

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        """An engine, None where there can be none: the logger knows why."""
        self._world.check(network, "INetworkDefinition")
        self._world.check(config, "IBuilderConfig")
        self._world.call("Builder.build_serialized_network")
        try:
            plan = _Build(self, network, config).run()
        except _RefusedError as error:
            self._world.poisoned = True
            self._world.say("ERROR", f"IBuilder::buildSerializedNetwork: {error}")
            return None
        self._world.poisoned = False
        if config._cache is not None:
            config._cache._learn(network._onnx)
        return host_memory(self._world, plan)


class _Build:
    """One build."""

    def __init__(self, builder: Builder, network: INetworkDefinition, config: IBuilderConfig) -> None:
        self._world, self._network, self._config = builder._world, network, config

    def run(self) -> bytes:
        """The engine's bytes; raises _RefusedError."""
        self._check_network()
        with self._phase("Building engine", None, 2) as step:
            self._faults(step)
            self._check_memory()
            header = self._header()
            model = as_built(header, self._network._onnx)
            _check_types(header, model)
            fault = self._world.device.config.fault("precision", self._network._nodes)
            layers = Layers(model, header, single=fault == "fp32").make()
            self._check_architectures(header, layers)
            step(0)
            self._optimise()
            _check_runs(header, self._network._onnx)
            step(1)
        if header.verbosity == "DETAILED":
            self._world.say("VERBOSE", build_log(layers, (self._network._inputs, self._network._outputs), header))
        return encode(header, self._network._onnx)

    def _check_network(self) -> None:
        network, flags = self._network, self._config._flags
        if not network._outputs:
            _refuse("API Usage Error (Network must have at least one output)")
        by_flag = [name for name in _BY_FLAG if name in flags]
        if by_flag and network._has("STRONGLY_TYPED"):
            _refuse(f"API Usage Error (builder flag {by_flag[0]} must not be set for a strongly typed network)")

    def _faults(self, step: Any) -> None:
        fault = self._world.device.config.fault("build", self._network._nodes)
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "raise":
            raise RuntimeError("the build was told to raise")
        if fault == "none":
            _refuse("Internal Error (the build was told to fail)")
        while fault == "hang":
            time.sleep(_HANG_S)
            step(0)

    def _check_memory(self) -> None:
        if self._config._pools["WORKSPACE"] < WORKSPACE_NEEDED:
            _refuse("Tactic Selection: no tactics to implement the operation within workspace limit")

    def _header(self) -> Header:
        world, config = self._world, self._config
        typed = world.release.major > 10 or self._network._has("STRONGLY_TYPED")
        return Header(
            module=world.release.module,
            release=world.release.version,
            gpu="" if world.release.rtx else world.device.config.gpu,
            architectures=self._architectures(),
            flags=tuple(sorted(config._flags)),
            strongly_typed=typed,
            verbosity=config._verbosity.name,
            ranges=self._ranges(),
            onnx_bytes=len(self._network._onnx),
            poisoned=world.poisoned,
        )

    def _architectures(self) -> tuple[str, ...]:
        here = self._world.device.config
        if not self._world.release.rtx:
            return (here.compute_capability,)
        names = [capability.name for capability in self._config._capabilities]
        if "NONE" in names:
            _refuse("API Usage Error (Compute capability cannot be kNONE)")
        if "CURRENT" in names and not here.visible:
            _refuse("Cuda Runtime (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)")
        versions = [here.compute_capability if name == "CURRENT" else f"{name[2:-1]}.{name[-1]}" for name in names]
        return tuple(versions) or ("8.0+",)

    def _ranges(self) -> _Ranges:
        """Of the first profile, checked against the network; a second one is not needed by anybody here."""
        profiles, ranges = self._config._profiles, _Ranges()
        free = [tensor for tensor in self._network._inputs if any(size < 0 for size in tensor.dims)]
        if free and not profiles:
            _refuse("API Usage Error (Network has dynamic inputs, but no optimization profile has been defined)")
        for tensor in self._network._inputs if profiles else ():
            shapes = profiles[0]._shapes.get(tensor.name)
            if shapes is None:
                if tensor in free:
                    _refuse(f"API Usage Error (Dynamic input tensor {tensor.name} is missing dimensions in profile 0)")
                continue
            if not all(_fits(shape, tensor.dims) for shape in shapes):
                _refuse(f"API Usage Error (Dimension mismatch for tensor {tensor.name} and profile 0)")
            ranges[tensor.name] = shapes
        return ranges

    def _check_architectures(self, header: Header, layers: tuple[Layer, ...]) -> None:
        products = [layer for layer in layers if layer.kind != "kgen" and layer.inputs]
        if "7.5" in header.architectures and any(layer.inputs[0].dtype == "Float" for layer in products):
            _refuse(f"Cannot compile operation '{products[0].name}' for Turing (SM75): FP32 GEMM is not supported")

    def _optimise(self) -> None:
        with self._phase("Optimizing graph", "Building engine", _STEPS) as step:
            for i in range(_STEPS):
                step(i)

    @contextlib.contextmanager
    def _phase(self, name: str, parent: str | None, steps: int) -> Iterator[Any]:
        """Tells the monitor; what it raises, or False, ends the build."""
        monitor = self._config._monitor

        def step(number: int) -> None:
            if not _ask(monitor, "step_complete", name, number):
                _refuse("Error Code 7: BuildCanceled (Build canceled by user)")

        _ask(monitor, "phase_start", name, parent, steps)
        try:
            yield step
        finally:
            _ask(monitor, "phase_finish", name)


def _ask(monitor: Any, method: str, *arguments: object) -> bool:
    """Calls a monitor; an exception does not come through native code: it is printed, and means no."""
    if monitor is None:
        return True
    try:
        answer = getattr(monitor, method)(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever a monitor of a program raises
        sys.stderr.write(f"[ERROR] Exception caught in {method}(): {type(error).__name__}: {error}\n")
        return False
    return method != "step_complete" or bool(answer)


def _check_types(header: Header, model: ModelProto) -> None:
    """Where flags tell, a graph must not ask for types that they don't allow."""
    if header.strongly_typed:
        return
    halves = [tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    quantised = [node.name for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for flag, asked in (("FP16", halves), ("INT8", quantised)):
        if asked and flag not in header.flags:
            _refuse(f"API Usage Error ({flag} is asked for by {asked[0]}, but not configured in the builder)")


def _fits(shape: Shape, dims: Shape) -> bool:
    return len(shape) == len(dims) and all(size < 0 or size == wanted for size, wanted in zip(dims, shape, strict=True))


def _check_runs(header: Header, onnx: bytes) -> None:
    """A graph that ONNX Runtime does not take has no engine."""
    try:
        Session(header, onnx)
    except Exception as error:
        raise _RefusedError(f"Internal Error ({error})") from error


def _refuse(text: str) -> NoReturn:
    raise _RefusedError(text)
