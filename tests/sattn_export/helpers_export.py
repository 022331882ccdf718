"""Contracts, networks and graphs that the export stage's tests are made of. Nothing here loads torch by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.contract import Contract, contract_from_dict
from sattn_edge.errors import SattnEdgeError

if TYPE_CHECKING:
    from sattn_edge.network import SpatialAttentionNeuralNetwork
    from sattn_export import ExportResult

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A reference network, as small as its shape allows."""

    window: int = 32
    modal: int = 3
    classes: int = 4
    widths: tuple[int, ...] = (4, 6)
    kernel: int = 3
    stride: int = 2
    pooling: str = "mean"
    attention: tuple[int, int] = (3, 1)

    def __str__(self) -> str:
        kt, km = self.attention
        return (
            f"w{self.window}-m{self.modal}-d{len(self.widths)}-k{self.kernel}-s{self.stride}-{self.pooling}-a{kt}x{km}"
        )


def contract_dict(case: Case, **changes: Any) -> dict[str, Any]:
    """The contract of a case: every channel in a unit, mean and std of its own."""
    rows = [
        {"name": f"ch{i}", "unit": "g", "mean": 0.5 * i - 1.0, "std": 0.25 * (i + 1), "min": -50.0, "max": 50.0}
        for i in range(case.modal)
    ]
    made: dict[str, Any] = {
        "rate_hz": 50.0,
        "window": case.window,
        "hop": max(1, case.window // 2),
        "labels": [f"class {i}" for i in range(case.classes)],
        "channel": rows,
        "network": {"stride": case.stride, "pooling": case.pooling},
    }
    return {**made, **changes}


def make_contract(case: Case, **changes: Any) -> Contract:
    return contract_from_dict(contract_dict(case, **changes), "test contract")


def write_toml(path: Path, table: dict[str, Any]) -> Path:
    """Just the TOML that a contract needs; None leaves a key out."""
    lines = [f"{k} = {_toml(v)}" for k, v in table.items() if not isinstance(v, dict) and k != "channel"]
    for row in table.get("channel", []):
        lines += ["[[channel]]", *(f"{k} = {_toml(v)}" for k, v in row.items() if v is not None)]
    for name, rows in table.items():
        if isinstance(rows, dict):
            lines += [f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in rows.items() if v is not None)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def make_network(case: Case, seed: int = 0) -> SpatialAttentionNeuralNetwork:
    """Random weights; BatchNorm scales, shifts and statistics far from their defaults of 1, 0, 0, 1."""
    import torch

    from sattn_edge.network import SpatialAttentionNeuralNetwork

    torch.manual_seed(seed)
    network = SpatialAttentionNeuralNetwork(
        (1, 1, case.window, case.modal),
        case.classes,
        case.widths,
        kernel=case.kernel,
        stride=case.stride,
        pooling=case.pooling,  # type: ignore[arg-type]
        attention_kernel=case.attention,
    )
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, -2.0, 3.0)
                torch.nn.init.normal_(module.bias, 0.0, 2.0)
                torch.nn.init.normal_(module.running_mean, 0.0, 2.0)
                torch.nn.init.uniform_(module.running_var, 0.05, 9.0)
            if isinstance(module, torch.nn.Conv2d) and module.out_channels == 1:
                torch.nn.init.normal_(module.weight, 0.0, 2.0)  # gates that really open and close
    return network.eval()


@dataclass(frozen=True)
class Bench:
    """A folder with a checkpoint and its contract, ready to export."""

    folder: Path
    case: Case
    checkpoint: str
    contract: Path

    @property
    def output(self) -> Path:
        return self.folder / "out.onnx"

    def export(self, checkpoint: str | Path | None = None, **options: Any) -> ExportResult:
        from sattn_export import ExportOptions, export

        options.setdefault("contract", self.contract)
        options.setdefault("output", self.output)
        return export(ExportOptions(str(checkpoint or self.checkpoint), **options))

    def recontract(self, **changes: Any) -> Path:
        return write_toml(self.folder / "changed.toml", contract_dict(self.case, **changes))

    def leftovers(self) -> list[str]:
        """Model files and half-written files in the folder."""
        return sorted(p.name for p in self.folder.iterdir() if p.name == "out.onnx" or p.name.endswith(".part"))


def make_bench(folder: Path, case: Case | None = None, seed: int = 0) -> Bench:
    import torch

    case = case or Case()
    torch.save(make_network(case, seed).state_dict(), folder / "net.pt")
    return Bench(folder, case, str(folder / "net.pt"), write_toml(folder / "contract.toml", contract_dict(case)))


def draw_windows(case: Case, count: int, seed: int = 1) -> Array:
    """Windows [count, 1, series, modal] in the contract's units."""
    rng = np.random.default_rng(seed)
    contract = make_contract(case)
    x = rng.normal(size=(count, 1, case.window, case.modal)) * contract.stds + np.asarray(contract.means)
    return x.astype(np.float32)


def normalise(x: Array, contract: Contract) -> Array:
    """In float64, so that the graph's own arithmetic has something better to be held against."""
    return ((x.astype(np.float64) - contract.means) / np.asarray(contract.stds)).astype(np.float32)


def torch_logits(module: Any, x: Array) -> Array:
    import torch

    with torch.no_grad():
        logits: Array = module(torch.from_numpy(x)).numpy()
    return logits


def onnx_logits(data: bytes, x: Array) -> Array:
    """Plain ONNX Runtime, none of our own code."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    logits: Array = session.run(None, {session.get_inputs()[0].name: x})[0]
    return logits


def relative(ours: Array, theirs: Array) -> float:
    """The largest difference as a part of the largest reference logit."""
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()
    return float(difference / np.abs(theirs).max())


def graph_model(
    nodes: list[NodeProto],
    arrays: dict[str, NDArray[Any]] | None = None,
    *,
    x: tuple[str, list[Any]] = ("x", ["batch", 4, 8, 3]),
    y: tuple[str, list[Any] | None] = ("y", None),
    opset: int = 17,
    ir: int = 8,
) -> ModelProto:
    """A checked graph of one input and one output."""
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in (arrays or {}).items()]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(x[0], TensorProto.FLOAT, x[1])],
        [helper.make_tensor_value_info(y[0], TensorProto.FLOAT, y[1])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    if y[1] is None:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        model.graph.ClearField("value_info")
    onnx.checker.check_model(model)
    return model


def run_model(model: ModelProto, x: Array) -> Array:
    return onnx_logits(model.SerializeToString(), x)


def op_types(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def refused(bench: Bench, kind: type[SattnEdgeError], text: str, checkpoint: Any = None, **options: Any) -> str:
    """Exporting raises this kind of error with this text, and leaves no file. Returns the whole message."""
    bench.output.unlink(missing_ok=True)
    with pytest.raises(kind, match=text) as caught:
        bench.export(checkpoint, **options)
    assert type(caught.value) is kind
    assert bench.leftovers() == []
    return str(caught.value)
