"""A process that has imported the fake TensorRT, as a test sees it, and graphs to give it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto

from sattn_edge.calibration_table import Agreement, LayerChoice, Placement
from sattn_edge.lowering import Target, lower
from sattn_runtime.testing import device
from sattn_runtime.testing.fake_tensorrt import namespace
from tests.helpers_lowering import Layer, Network, build, windows

CLASSIC = ("8.6.1", "10.3.0", "10.7.0", "10.13.3.9", "11.0.0.114", "11.4.0.106")
RTX = "1.7.1.116"
RELEASES = (*(("tensorrt", version) for version in CLASSIC), ("tensorrt_rtx", RTX))
NETWORK = Network((Layer(8), Layer(16), Layer(8)), series=32, modal=3)
_NONE = Agreement(0, 0, 0.0, 0.0, 0.0)
_LAYERS = tuple(LayerChoice(f"conv{i}", True, low=0.0, high=6.0) for i in (1, 2))
PLACEMENT = Placement("tensorrt", "s8", _LAYERS, _NONE, _NONE, True)


def api() -> Path:
    """The names of every release, as the real bindings list them."""
    return Path(__file__).resolve().parents[2] / "data" / "tensorrt_api.json"


def graph(form: str = "gemm", precision: str = "fp32", *, typed: bool = True, free: bool = False) -> ModelProto:
    """NETWORK, lowered. free: with a free batch axis."""
    placement = PLACEMENT if precision == "int8" else None
    if free:
        return lower(build(NETWORK, np.float32), Target("onnxruntime", "reference", "fp32")).model
    target = Target("tensorrt", form, precision, placement=placement, typed=typed)
    return lower(build(NETWORK, np.float32), target).model


def window(batch: int = 1) -> np.ndarray:
    """float32 [batch, 1, series, modal]."""
    return windows(NETWORK, batch).astype(np.float32)


def expected(model: ModelProto, x: np.ndarray) -> np.ndarray:
    """ONNX Runtime's logits."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"window": x})[0]


class Process:
    """One import of the fake: `trt` is the module, `messages` what its logger was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: str = "tensorrt", **config: Any) -> None:
        monkeypatch.setenv(device.VARIABLE, json.dumps(config))
        device.reset()
        self.trt: Any = SimpleNamespace(**namespace(module))
        self.messages: list[tuple[str, str]] = []
        self.log = self.new_log(self.messages)
        self.device = device.current()

    def new_log(self, messages: list[tuple[str, str]]) -> Any:
        """Another logger."""

        class Log(self.trt.ILogger):  # type: ignore[misc]
            def log(self, severity: Any, msg: str) -> None:
                messages.append((severity.name, msg))

        return Log()

    def said(self, severity: str = "ERROR") -> str:
        return "\n".join(text for name, text in self.messages if name == severity)

    def flags(self) -> int:
        """As production code makes them: strongly typed where there is such a thing."""
        flags = self.trt.NetworkDefinitionCreationFlag
        return 1 << int(getattr(flags, "STRONGLY_TYPED", None) or flags.EXPLICIT_BATCH)

    def parse(self, model: ModelProto | bytes, flags: int | None = None) -> tuple[Any, Any, bool]:
        """Network, parser, and what parse said."""
        network = self.trt.Builder(self.log).create_network(self.flags() if flags is None else flags)
        parser = self.trt.OnnxParser(network, self.log)
        data = model if isinstance(model, bytes) else model.SerializeToString()
        return network, parser, parser.parse(data)

    def config(self, *flags: str, tf32: bool = False) -> Any:
        config = self.trt.Builder(self.log).create_builder_config()
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        if not tf32:
            config.clear_flag(self.trt.BuilderFlag.TF32)
        for name in flags:
            config.set_flag(getattr(self.trt.BuilderFlag, name))
        if hasattr(config, "num_compute_capabilities"):
            config.num_compute_capabilities = 1
            config.set_compute_capability(self.trt.ComputeCapability.CURRENT, 0)
        return config

    def plan(self, model: ModelProto, config: Any = None, flags: int | None = None) -> bytes | None:
        """Builds; None where the builder gave None."""
        network, _, done = self.parse(model, flags)
        assert done, self.said()
        made = self.trt.Builder(self.log).build_serialized_network(network, config or self.config())
        return None if made is None else bytes(made)

    def engine(self, plan: bytes | None) -> Any:
        assert plan is not None, self.said()
        return self.trt.Runtime(self.log).deserialize_cuda_engine(plan)

    def layers(self, engine: Any) -> list[Any]:
        """As the inspector's JSON has them."""
        text = engine.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON)
        return json.loads(text)["Layers"]

    def infer(self, engine: Any, x: np.ndarray) -> np.ndarray:
        """Executes once on memory of its own."""
        context = engine.create_execution_context()
        assert context.set_input_shape("window", x.shape), self.said()
        out = np.empty(tuple(context.get_tensor_shape("logits")), np.float32)
        source, target = (self.device.allocate(a.nbytes, "device") for a in (x, out))
        self.write(source.pointer, x)
        assert context.set_tensor_address("window", source.pointer)
        assert context.set_tensor_address("logits", target.pointer)
        assert context.execute_async_v3(0), self.said()
        return self.read(target.pointer, out.shape)

    def write(self, pointer: int, x: np.ndarray) -> None:
        self.device.memory.on_device(pointer, x.nbytes)[:] = x.tobytes()

    def read(self, pointer: int, shape: tuple[int, ...]) -> np.ndarray:
        nbytes = 4 * int(np.prod(shape))
        return np.frombuffer(bytes(self.device.memory.on_device(pointer, nbytes)), np.float32).reshape(shape)
