"""`--attention-output`: the written file gives the gates of the torch module, and without it nothing has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

pytest.importorskip("torch")

from sattn_edge.attention import WITH_GATE
from sattn_edge.errors import CheckpointError
from sattn_edge.model_file import load_model_file
from sattn_export import ExportOptions, export
from sattn_export.commands import export_main
from tests.helpers_data import ROOT
from tests.helpers_nets import NETS, SHARED, load_net
from tests.sattn_export.helpers_export import (
    Array,
    Bench,
    Case,
    draw_windows,
    make_bench,
    make_contract,
    make_network,
    normalise,
    onnx_logits,
    refused,
)

pytestmark = pytest.mark.torch

TOLERANCE = 1e-5  # of 1; at most 1.5e-7 was seen on nine trained networks
CASES = [
    Case(),
    Case(pooling="max", attention=(5, 1)),
    Case(pooling="mean+max"),
    Case(pooling="mean+max", attention=(3, 3), window=37, stride=3),
    Case(widths=(5,), kernel=5, stride=1),
    Case(widths=(4, 5, 6, 7), window=128, modal=9),
]


def torch_gates(network, x: Array) -> Array:
    """What the sigmoids of the module's own gates give, one block behind another: float32 [n, values]."""
    import torch

    found: list[Array] = []
    gates = [m for m in network.modules() if isinstance(m, torch.nn.Sigmoid)]
    hooks = [gate.register_forward_hook(lambda _m, _x, made: found.append(made.numpy())) for gate in gates]
    with torch.no_grad():
        network(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    return np.concatenate([one.reshape(len(x), -1) for one in found], axis=1)


def file_outputs(path: Path, x: Array) -> list[Array]:
    """Plain ONNX Runtime, none of our own code."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    made: list[Array] = session.run(["logits", "attention"], {"window": x})
    return made


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_file_gives_the_gates_of_the_module(case: Case, tmp_path: Path) -> None:
    bench = make_bench(tmp_path, case, seed=3)
    result = bench.export(attention_output=True)
    x = draw_windows(case, 7)
    gates = file_outputs(bench.output, x)[1]
    theirs = torch_gates(make_network(case, seed=3), normalise(x, make_contract(case)))
    assert gates.shape == theirs.shape
    assert np.abs(gates - theirs).max() <= TOLERANCE
    assert np.ptp(theirs) > 0.5, "the gates really open and close"
    layout = result.model.attention
    assert layout is not None
    assert [block.name for block in layout.blocks] == [
        detail.split(":")[0] for detail in result.lowered.attention.details
    ]
    assert layout == load_model_file(bench.output).attention


def test_control_the_gates_of_another_network_are_others(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, Case(), seed=3)
    bench.export(attention_output=True)
    x = draw_windows(Case(), 7)
    theirs = torch_gates(make_network(Case(), seed=4), normalise(x, make_contract(Case())))
    assert np.abs(file_outputs(bench.output, x)[1] - theirs).max() > 0.1


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))


def without_gates(model: ModelProto) -> ModelProto:
    """The graph of a file with attention, all that the option added taken away again."""
    out = ModelProto()
    out.CopyFrom(model)
    out.ClearField("metadata_props")
    del out.graph.output[1:]
    added = {n.output[0] for n in out.graph.node if n.name == "attention" or n.name.endswith(".gate.flat")}
    kept = [n for n in out.graph.node if n.output[0] not in added]
    del out.graph.node[:]
    out.graph.node.extend(kept)
    for node in out.graph.node:
        if node.op_type.endswith(WITH_GATE):
            node.op_type = node.op_type.removesuffix(WITH_GATE)
            del node.output[1:]
    kept_tensors = [t for t in out.graph.initializer if not t.name.endswith(".gate.flat.shape")]
    del out.graph.initializer[:]
    out.graph.initializer.extend(kept_tensors)
    for function in out.functions:
        function.name = function.name.removesuffix(WITH_GATE)
        del function.output[1:]
    return out


def test_the_option_adds_its_output_and_changes_nothing_else(bench: Bench) -> None:
    bench.export()
    plain = onnx.load(bench.output)
    again = bench.output.read_bytes()
    result = bench.export(attention_output=True)
    given = onnx.load(bench.output)
    assert [o.name for o in plain.graph.output] == ["logits"]
    assert {p.key for p in given.metadata_props} - {p.key for p in plain.metadata_props} == {"sattn_edge.attention"}
    plain_graph = ModelProto()
    plain_graph.CopyFrom(plain)
    plain_graph.ClearField("metadata_props")
    assert without_gates(given) == plain_graph
    x = draw_windows(bench.case, 5)
    np.testing.assert_array_equal(file_outputs(bench.output, x)[0], onnx_logits(again, x))
    assert result.parity.holds
    bench.export()
    assert bench.output.read_bytes() == again, "and without it the file is what it was"


def test_the_report_says_so(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    options = [bench.checkpoint, "--contract", str(bench.contract), "-o", str(bench.output)]
    with pytest.raises(SystemExit) as ended:
        export_main([*options, "--attention-output"])
    assert not ended.value.code
    assert "attention      [batch, 72], the gates: 16 x 3, 8 x 3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        export_main(options)
    assert "[batch, 72]" not in capsys.readouterr().out


def test_a_network_without_blocks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    (tmp_path / "plain_nets.py").write_text(
        "import torch\n"
        "def make(train_shape, category):\n"
        "    inputs = train_shape[2] * train_shape[3]\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, category))\n"
    )
    monkeypatch.chdir(tmp_path)
    case = Case()
    bench = make_bench(tmp_path, case)
    torch.save({"1.weight": torch.zeros(4, 96), "1.bias": torch.zeros(4)}, tmp_path / "plain.pt")
    message = refused(
        bench,
        CheckpointError,
        "no spatial-attention block was found",
        "plain_nets:make",
        weights=tmp_path / "plain.pt",
        attention_output=True,
    )
    assert message == "plain_nets:make: no spatial-attention block was found; leave --attention-output out"
    bench.export("plain_nets:make", weights=tmp_path / "plain.pt")  # the control: without, it exports


def test_a_gate_that_is_no_block_is_missed_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place in the picture would be read as that of all."""
    import torch

    (tmp_path / "two_gates.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Gate(nn.Module):\n"
        "    def __init__(self, dilation):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(1, 1, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))\n"
        "    def forward(self, x):\n"
        "        return x * torch.sigmoid(self.conv(x.mean(1, keepdim=True)))\n"
        "def make(train_shape, category, dilation=2):\n"
        "    modal = train_shape[-1]\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, (3, 1), padding=(1, 0)), Gate(1), nn.ReLU(), Gate(dilation),\n"
        "        nn.AdaptiveAvgPool2d((1, modal)), nn.Flatten(), nn.Linear(4 * modal, category))\n"
        "def same(train_shape, category):\n"
        "    return make(train_shape, category, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import two_gates  # type: ignore[import-not-found]

    case = Case()
    bench = make_bench(tmp_path, case)
    torch.save(two_gates.make((1, 1, case.window, case.modal), 4).state_dict(), tmp_path / "two.pt")
    found = bench.export("two_gates:make", weights=tmp_path / "two.pt", attention_output=True)
    assert found.model.attention is not None
    assert len(found.model.attention.blocks) == 1
    warning = next(w for w in found.warnings if "attention" in w)
    assert warning.startswith("the output 'attention' is without ")
    assert warning.endswith("a stride or a dilation other than 1")
    assert not any("is without" in w for w in bench.export("two_gates:make", weights=tmp_path / "two.pt").warnings)
    whole = bench.export("two_gates:same", weights=tmp_path / "two.pt", attention_output=True)
    assert whole.model.attention is not None
    assert len(whole.model.attention.blocks) == 2
    assert not any("is without" in w for w in whole.warnings)


@pytest.mark.parametrize("name", NETS)
def test_foreign_checkpoints_give_their_gates(name: str, tmp_path: Path) -> None:
    if not (SHARED / f"{name}_net.pt").exists():
        pytest.skip(f"no {name}_net.pt in {SHARED}")
    from sattn_export.reference_network import build_reference
    from sattn_export.state_dict import read_state_dict

    net = load_net(name)
    (tmp_path / "c.toml").write_text(net.contract)
    output = tmp_path / "net.onnx"
    contract = export(
        ExportOptions(str(net.weights), tmp_path / "c.toml", output, attention_output=True)
    ).model.contract
    keep = np.linspace(0, len(net.x) - 1, 16).round().astype(int)
    x = np.ascontiguousarray(net.x[keep], np.float32)
    network = build_reference(read_state_dict(net.weights), contract, name).eval()
    assert np.abs(file_outputs(output, x)[1] - torch_gates(network, normalise(x, contract))).max() <= TOLERANCE


def test_the_demo_network_gives_its_gates(tmp_path: Path) -> None:
    folder = ROOT / "sattn_edge" / "demo_data"
    result = export(
        ExportOptions(
            str(folder / "watch.safetensors"),
            folder / "watch.toml",
            tmp_path / "har.onnx",
            data=str(folder / "watch_tiny.npz"),
            attention_output=True,
        )
    )
    assert result.model.attention is not None
    found = [(b.steps, b.modal, b.first_sample, b.samples_per_step) for b in result.model.attention.blocks]
    # Each of its five blocks halves the length, rounded up, and its first step is centred on the first sample.
    assert found == [(-(-200 // 2**i), 6, 0.0, 2.0**i) for i in range(1, 6)]
