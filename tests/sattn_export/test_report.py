"""What an export tells: blocks, near misses with their reason, operators, cost, parity, output per class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sattn_export.report import accuracy, as_data, as_text
from tests.sattn_export.helpers_export import Bench, draw_windows, make_bench, make_network, onnx_logits

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("report"))


def test_counts_are_the_networks_own(bench: Bench) -> None:
    result = bench.export()
    data = as_data(result)
    assert json.loads(json.dumps(data)) == data
    network = make_network(bench.case)
    running = sum(b.numel() for n, b in network.named_buffers() if "running" in n)
    normalisation = 2 * bench.case.modal
    assert data["parameters"] == sum(p.numel() for p in network.parameters()) + running + normalisation
    # conv 16x3 x 4 maps x 3 taps, gate 16x3 x 3; conv 8x3 x 6 maps x 12, gate 8x3 x 3; linear 18 x 4
    assert data["multiply_adds"] == 48 * 4 * 3 + 48 * 3 + 24 * 6 * 12 + 24 * 3 + 18 * 4
    assert data["operators"]["Conv"] == 4
    assert data["operators"]["Sigmoid"] == 2
    assert len(data["blocks"]) == 2
    assert data["near_misses"] == []
    assert data["golden"] == {"windows": 32, "synthetic": True, "source": "contract"}
    assert data["parity"]["relative"] <= data["parity"]["tolerance"] == 1e-4
    assert data["bytes"] == bench.output.stat().st_size


def test_output_per_class_on_labelled_data(bench: Bench) -> None:
    x = draw_windows(bench.case, 60)
    labels = np.arange(60) % 5 - 1  # -1: not scored
    np.savez(bench.folder / "w.npz", x=x, y=labels)
    result = bench.export(data=str(bench.folder / "w.npz"))
    given = onnx_logits(bench.output.read_bytes(), x).argmax(1)
    rows = as_data(result)["classes"]
    for i, row in enumerate(rows):
        assert row["given"] == (given == i).sum()
        assert row["labelled"] == (labels == i).sum()
        assert row["right"] == ((given == i) & (labels == i)).sum()
    scored = labels >= 0
    assert accuracy(result) == pytest.approx((given == labels)[scored].mean())
    text = "\n".join(as_text(result))
    assert "output per class, on the data: accuracy" in text
    assert "attention blocks: 2" in text


def test_data_out_of_range_is_warned_about(bench: Bench) -> None:
    x = draw_windows(bench.case, 10)
    x[0, 0, :, 1] = 60.0
    np.savez(bench.folder / "far.npz", x=x)
    result = bench.export(data=str(bench.folder / "far.npz"))
    assert "channel 'ch1': 10.0% of the data lies outside -50 to 50 g" in result.warnings
    assert any(line.startswith("warning: channel 'ch1'") for line in as_text(result))


def test_near_misses_name_node_and_reason(bench: Bench, tmp_path: Path) -> None:
    """Squeeze-and-excitation gates maps, not time."""
    (bench.folder / "my_se.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b, self.fc = nn.Conv2d(1, 4, (3, 1)), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)\n"
        "    def forward(self, x):\n"
        "        x = self.a(x)\n"
        "        x = x * torch.sigmoid(self.b(x.mean((2, 3), keepdim=True)))\n"
        "        return self.fc(x.mean((2, 3)))\n"
    )
    net: Any = torch.nn.Module()
    net.a, net.b, net.fc = torch.nn.Conv2d(1, 4, (3, 1)), torch.nn.Conv2d(4, 4, 1), torch.nn.Linear(4, 4)
    torch.save(net.state_dict(), tmp_path / "se.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(bench.folder)
        result = bench.export("my_se:Net", weights=tmp_path / "se.pt")
    (miss,) = as_data(result)["near_misses"]
    assert miss["reason"] == "the convolution gives 4 maps, a spatial gate is 1 map"
    text = as_text(result)
    assert f"  {miss['node']}: {miss['reason']}" in text
    assert text[-1].startswith("warning: no spatial-attention block was found")
