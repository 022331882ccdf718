"""Other runtimes on the same network and windows, for `incremental.py --others`: those that are installed.

None is installed by this project; a row says how. All run on one thread and from the same weights:

- PyTorch as it is, and through torch.compile, which needs a C++ compiler;
- OpenVINO on the plain export with its functions inlined; LiteRT and ncnn through the converters of their projects;
- continual-inference, the nearest idea: the same layers sample by sample, each with its own past, in Python. It is
  another function: no column sees the padding at its window's ends, since no window begins or ends, and what it gives
  is late by half of what a column sees. Its `error` says how far that is from the whole window's logits.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from sattn_edge.lowering import Target, lower

Infer = Callable[[NDArray[np.float32]], NDArray[np.float32] | None]  # [1, 1, window, modal] to [1, classes]
_EPSILON = 1e-5  # of BatchNormalization


@dataclass(frozen=True, eq=False)
class Other:
    """A runtime. infer: None where it is not installed or can't run the network, which `note` says."""

    name: str
    infer: Infer | None
    note: str = ""


def others(model: ModelProto, hop: int) -> Iterator[Other]:
    """All of them. model: a reference network, as `tests.helpers_lowering` builds one."""
    for name, needs, make, note in (
        ("torch", "torch", _eager, "eager"),
        ("torch.compile", "torch", _compiled, ""),
        ("openvino", "openvino", _openvino, ""),
        ("litert", "litert-torch", _litert, ""),
        ("ncnn", "torch ncnn pnnx", _ncnn, ""),
        ("continual-inference", "continual-inference", _continual, "other logits: its windows have no ends; in Python"),
    ):
        try:
            # Converters print what they do, some past Python's own streams; JSON goes to the real ones.
            with _quiet():
                infer = make(model, hop)
        except ImportError:
            yield Other(name, None, f"not installed: pip install {needs}")
        except (RuntimeError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            lines = str(error).strip().splitlines()
            yield Other(name, None, f"failed: {type(error).__name__}: {lines[0][:100] if lines else ''}")
        else:
            yield Other(name, infer, note)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on stdout or stderr, of compiled code neither."""
    kept = [os.dup(number) for number in (1, 2)]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(io.StringIO()):
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)


def _arrays(model: ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _module(model: ModelProto) -> Any:
    """The network in PyTorch, from its window in physical units."""
    import torch
    from torch import nn

    from sattn_edge.network import SpatialAttentionNeuralNetwork

    arrays = _arrays(model)
    depth = sum(name.startswith("gamma") for name in arrays)
    widths = [len(arrays[f"w{i}"]) for i in range(depth)]
    network = SpatialAttentionNeuralNetwork(arrays["mean"].shape, len(arrays["fc.bias"]), widths)
    state = {"fc.weight": arrays["fc.weight"], "fc.bias": arrays["fc.bias"]}
    for i in range(depth):
        state |= {f"layer.{4 * i}.weight": arrays[f"w{i}"], f"layer.{4 * i}.bias": arrays[f"b{i}"]}
        gate, norm = f"layer.{4 * i + 1}.att_fc.0", f"layer.{4 * i + 2}"
        state |= {f"{gate}.weight": arrays[f"aw{i}"], f"{gate}.bias": arrays[f"ab{i}"]}
        names = ("weight", "gamma"), ("bias", "beta"), ("running_mean", "mu"), ("running_var", "var")
        state |= {f"{norm}.{ours}": arrays[f"{theirs}{i}"] for ours, theirs in names}
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()}, strict=False)

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.mean, self.std = (nn.Buffer(torch.from_numpy(arrays[name].copy())) for name in ("mean", "std"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network((x - self.mean) / self.std)

    torch.set_num_threads(1)
    return Normalised().eval()


def _shape(model: ModelProto) -> tuple[int, int, int, int]:
    _, _, series, modal = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    return 1, 1, series, modal


def _eager(model: ModelProto, _: int) -> Infer:
    return _run(_module(model))


def _compiled(model: ModelProto, _: int) -> Infer:
    import torch

    torch.compiler.reset()  # or the next window length would get code for any
    infer = _run(torch.compile(_module(model), mode="max-autotune-no-cudagraphs", dynamic=False))
    infer(np.zeros(_shape(model), np.float32))
    return infer


def _run(module: Any) -> Infer:
    import torch

    def infer(window: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(torch.from_numpy(window)).numpy()
        return logits

    return infer


def _openvino(model: ModelProto, _: int) -> Infer:
    import openvino

    inlined = lower(model, Target("onnxruntime", "reference", batch=1)).model
    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    request = core.compile_model(core.read_model(inlined.SerializeToString()), "CPU", options).create_infer_request()

    def infer(window: NDArray[np.float32]) -> NDArray[np.float32]:
        request.infer([window], share_inputs=True, share_outputs=True)
        logits: NDArray[np.float32] = request.get_output_tensor(0).data
        return logits

    return infer


def _litert(model: ModelProto, _: int) -> Infer:
    import litert_torch
    import torch
    from ai_edge_litert.interpreter import Interpreter

    made = litert_torch.convert(_module(model), (torch.zeros(_shape(model)),))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        made.export(str(path))
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def infer(window: NDArray[np.float32]) -> NDArray[np.float32]:
        interpreter.set_tensor(source, window)
        interpreter.invoke()
        logits: NDArray[np.float32] = interpreter.get_tensor(target)
        return logits

    return infer


def _ncnn(model: ModelProto, _: int) -> Infer:
    import ncnn
    import pnnx
    import torch

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    with tempfile.TemporaryDirectory() as folder:
        pnnx.export(_module(model), f"{folder}/network.pt", (torch.zeros(_shape(model)),), fp16=False)
        net.load_param(f"{folder}/network.ncnn.param")
        net.load_model(f"{folder}/network.ncnn.bin")

    def infer(window: NDArray[np.float32]) -> NDArray[np.float32]:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(window[0]))
            _, logits = extractor.extract("out0")
        return np.array(logits, np.float32).reshape(1, -1)

    return infer


def _continual(model: ModelProto, hop: int) -> Infer:
    import continual as co
    import torch

    source, series = _module(model), _shape(model)[2]
    layers, columns = source.network.layer, series
    rows: list[Any] = []
    for conv, gate, norm, relu in (layers[i : i + 4] for i in range(0, len(layers), 4)):
        columns = (columns - 1) // conv.stride[0] + 1
        rows += [_as_continual(co, conv), _continual_gate(co, gate), norm, relu]
    net = co.Sequential(*rows, co.AvgPool2d((columns, 1), stride=1)).eval()
    fc = source.network.fc

    begun = False

    def infer(window: NDArray[np.float32]) -> NDArray[np.float32] | None:
        nonlocal begun
        new = torch.from_numpy(window[:, :, -hop:] if begun else window)
        begun = True
        with torch.inference_mode():
            pooled = net.forward_steps((new - source.mean) / source.std)
            if not isinstance(pooled, torch.Tensor) or not pooled.shape[2]:
                return None
            logits: NDArray[np.float32] = fc(pooled[:, :, -1].flatten(1)).numpy()
        return logits

    return infer


def _as_continual(co: Any, conv: Any) -> Any:
    """The same convolution, its past in the place of padding."""
    made = co.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    made.load_state_dict(conv.state_dict())
    return made


def _continual_gate(co: Any, gate: Any) -> Any:
    import torch

    mean = co.Lambda(lambda x: x.mean(dim=1, keepdim=True))
    conv = gate.att_fc[0]
    weigh = co.Sequential(mean, _as_continual(co, conv), co.Lambda(torch.sigmoid))
    return co.BroadcastReduce(co.Delay(conv.padding[0]), weigh, reduce="mul", auto_delay=False)
