"""Checkpoints that were trained elsewhere, on their own test windows, against a network written for this test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from sattn_edge.contract import load_contract
from tests.helpers_data import ROOT
from tests.helpers_nets import NETS, SHARED, Net, load_net
from tests.sattn_export.helpers_export import Array, onnx_logits, relative

pytestmark = pytest.mark.torch

MOST_WINDOWS, MOST_VALUES = 400, 250_000  # long windows are fewer, so that the nine take half a minute
TOLERANCE = 1e-4  # of the logit scale
DEMO = ROOT / "sattn_edge" / "demo_data" / "watch.safetensors"


def independent_logits(state: dict[str, Any], x: Array) -> Array:
    """The network as its definition says, in functions of torch alone."""
    import torch
    from torch.nn import functional as F

    w, out = state, torch.from_numpy(x)
    for i in sorted(int(m[1]) for k in w if (m := re.fullmatch(r"layer\.(\d+)\.weight", k)) and w[k].ndim == 4):
        main, gate = w[f"layer.{i}.weight"], w[f"layer.{i + 1}.att_fc.0.weight"]
        out = F.conv2d(out, main, w[f"layer.{i}.bias"], stride=(2, 1), padding=(main.shape[2] // 2, 0))
        pooled = out.mean(1, keepdim=True)
        level = F.conv2d(pooled, gate, w[f"layer.{i + 1}.att_fc.0.bias"], padding=(gate.shape[2] // 2, 0))
        norm = [w[f"layer.{i + 2}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        out = F.relu(F.batch_norm(out / (1 + torch.exp(-level)), *norm, training=False, eps=1e-5))
    return (out.mean(2).flatten(1) @ w["fc.weight"].T + w["fc.bias"]).numpy()


@dataclass(frozen=True)
class Exported:
    net: Net
    result: Any
    data: bytes
    x: Array
    y: np.ndarray


@pytest.fixture(scope="session", params=NETS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name = request.param
    if not (SHARED / f"{name}_net.pt").exists():
        pytest.skip(f"no {name}_net.pt in {SHARED}")
    from sattn_export import ExportOptions, export

    net = load_net(name)
    folder = tmp_path_factory.mktemp(name)
    (folder / "c.toml").write_text(net.contract)
    most = min(len(net.x), MOST_WINDOWS, MOST_VALUES // net.x[0].size)
    keep = np.linspace(0, len(net.x) - 1, most).round().astype(int)
    x, y = np.ascontiguousarray(net.x[keep], np.float32), net.y[keep]
    np.savez(folder / "windows.npz", x=x, y=y.astype(np.int64))
    options = ExportOptions(str(net.weights), folder / "c.toml", folder / "net.onnx", data=str(folder / "windows.npz"))
    result = export(options)
    return Exported(net, result, (folder / "net.onnx").read_bytes(), x, y)


def test_foreign_checkpoint_parity(exported: Exported) -> None:
    import torch

    contract = exported.result.model.contract
    state = torch.load(exported.net.weights, map_location="cpu", weights_only=True)
    normal = ((exported.x - np.float64(contract.means)) / np.float64(contract.stds)).astype(np.float32)
    theirs = np.concatenate([independent_logits(state, normal[i : i + 50]) for i in range(0, len(normal), 50)])
    ours = np.concatenate([onnx_logits(exported.data, exported.x[i : i + 50]) for i in range(0, len(normal), 50)])
    assert relative(ours, theirs) <= TOLERANCE
    assert (ours.argmax(1) == theirs.argmax(1)).all()


def test_foreign_checkpoint_report(exported: Exported) -> None:
    result = exported.result
    assert result.lowered.attention.changed == 4
    assert result.lowered.attention.near_misses == ()
    assert all(d.endswith(": mean, kernel 3x1") for d in result.lowered.attention.details)
    assert list(result.model.contract.labels) == _card_labels(exported.net)
    assert not result.model.golden.synthetic
    assert result.data_parity is not None
    assert result.data_parity.flips == 0
    assert result.data_parity.windows == len(exported.x)
    accuracy = float((result.predictions == exported.y)[exported.y >= 0].mean())
    assert accuracy > 1.2 / len(result.model.contract.labels)  # it was trained, and the channels are in order


def _card_labels(net: Net) -> list[str]:
    import json

    labels = json.loads((SHARED / f"{net.name}_net.json").read_text())["classes"]
    return [str(label) for label in labels]


def test_demo_checkpoint_parity(tmp_path: Path) -> None:
    contracts = sorted(DEMO.parent.glob("*.toml"))
    if not DEMO.exists() or not contracts:
        pytest.skip("the demo's checkpoint and contract are not in sattn_edge/demo_data")
    import safetensors.torch

    from sattn_export import ExportOptions, export
    from sattn_export.golden import draw_golden

    result = export(ExportOptions(str(DEMO), contracts[0], tmp_path / "demo.onnx"))
    contract = load_contract(contracts[0])
    x = draw_golden(contract)
    normal = ((x - np.float64(contract.means)) / np.float64(contract.stds)).astype(np.float32)
    state = safetensors.torch.load_file(DEMO)
    theirs = independent_logits(state, normal)
    ours = onnx_logits((tmp_path / "demo.onnx").read_bytes(), x)
    assert relative(ours, theirs) <= TOLERANCE
    assert (ours.argmax(1) == theirs.argmax(1)).all()
    assert result.lowered.attention.changed == sum(k.endswith("att_fc.0.weight") for k in state)
