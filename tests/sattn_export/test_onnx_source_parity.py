"""`.onnx` files by other exporters: whatever their dialect, the written file gives what theirs gives."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from torch import nn

from sattn_edge.errors import CheckpointError, ContractError, ModelFileError, SattnEdgeError
from tests.sattn_export.helpers_export import (
    Array,
    Bench,
    Case,
    draw_windows,
    make_bench,
    make_contract,
    normalise,
    onnx_logits,
    relative,
)

pytestmark = pytest.mark.torch

CASE = Case(window=37, modal=3)
TOLERANCE = 1e-5


class ChannelPoolGate(nn.Module):
    """As most code with CBAM writes it: maximum first, axes dropped and put back, no bias."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, (7, 1), padding=(3, 0), bias=False)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.norm(self.conv(self.pooled(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


class KeptAxisGate(ChannelPoolGate):
    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.mean(x, 1, keepdim=True), torch.amax(x, 1, keepdim=True)], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(x) * x


class ExpandedGate(ChannelPoolGate):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x).expand_as(x)


class Net(nn.Module):
    """One block and a head that asks for its shape at run time."""

    def __init__(self, gate: nn.Module, *, computed_shape: bool = True) -> None:
        super().__init__()
        self.computed_shape = computed_shape
        self.conv = nn.Conv2d(1, 4, (3, 1), stride=(2, 1), padding=(1, 0))
        self.gate = gate
        self.drop = nn.Dropout(0.5)
        self.pool = nn.AdaptiveAvgPool2d((1, CASE.modal))
        self.head = nn.Linear(4 * CASE.modal, CASE.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.pool(torch.relu(self.gate(self.conv(x))))
        flat = out.view(out.size(0), -1) if self.computed_shape else out.flatten(1)
        logits: torch.Tensor = self.head(self.drop(flat))
        return logits


def save(module: nn.Module, path: Path, *, opset: int, script: bool = False, free: bool = True, **more: Any) -> Path:
    example = torch.randn(2 if free else 1, 1, CASE.window, CASE.modal)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if script:
                axes = {"in put": {0: "n"}} if free else None
                torch.onnx.export(
                    module, (example,), str(path), dynamo=False, opset_version=opset, input_names=["in put"],
                    dynamic_axes=axes, **more,
                )  # fmt: skip
            else:
                shapes = ({0: torch.export.Dim("n")},) if free else None
                torch.onnx.export(
                    module, (example,), str(path), dynamo=True, opset_version=opset, dynamic_shapes=shapes,
                    external_data=False, verbose=False, **more,
                )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("onnx"), CASE)


def check(bench: Bench, path: Path, blocks: int = 1) -> Any:
    """Exports and holds the result against the foreign file, which plain ONNX Runtime runs as it is."""
    result = bench.export(path)
    x = draw_windows(CASE, 5)
    normal = normalise(x, make_contract(CASE))
    fixed = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    parts = [normal[i : i + 1] for i in range(5)] if fixed else [normal]
    theirs = np.concatenate([onnx_logits(path.read_bytes(), part) for part in parts])
    assert relative(onnx_logits(bench.output.read_bytes(), x), theirs) < TOLERANCE
    assert result.lowered.attention.changed == blocks, result.lowered.attention.near_misses
    left = {n.op_type for n in result.lowered.model.graph.node} - {"Reshape"}
    assert not left & {"Shape", "Gather", "Expand", "Unsqueeze", "Identity", "Dropout", "Constant", "Sigmoid"}
    return result


@pytest.mark.parametrize("gate", [ChannelPoolGate, KeptAxisGate, ExpandedGate])
def test_dynamo_cbam_parity(gate: type[ChannelPoolGate], bench: Bench) -> None:
    torch.manual_seed(1)
    result = check(bench, save(Net(gate()).eval(), bench.folder / "dynamo.onnx", opset=18))
    assert result.lowered.attention.details[0].endswith(": mean+max, kernel 7x1")


@pytest.mark.parametrize(("opset", "computed"), [(11, True), (13, True), (17, True), (11, False), (13, False)])
@pytest.mark.parametrize("free", [True, False], ids=["free batch", "batch 1"])
def test_torchscript_exporter_parity(opset: int, free: bool, computed: bool, bench: Bench) -> None:
    torch.manual_seed(2)
    net = Net(ChannelPoolGate(norm=free), computed_shape=computed).eval()
    more = {"keep_initializers_as_inputs": not free, "do_constant_folding": free}
    check(bench, save(net, bench.folder / "script.onnx", opset=opset, script=True, free=free, **more))


@pytest.mark.parametrize("opset", [20, 23])
def test_newer_opsets_parity(opset: int, bench: Bench) -> None:
    torch.manual_seed(3)
    check(bench, save(Net(KeptAxisGate()).eval(), bench.folder / "new.onnx", opset=opset))


def foreign_graph(opset: int, ir: int, *, batch: Any = "n") -> onnx.ModelProto:
    """The smallest network with a gate, by hand, in the dialect of an opset."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(4, 1, 3, 1)),
        "g": rng.normal(size=(1, 1, 5, 1)),
        "bn": rng.uniform(0.5, 2, size=4),
        "fc": rng.normal(size=(4, CASE.classes)),
    }
    nodes = [
        ("Conv", ["x", "w"], ["a"], {"pads": [1, 0, 1, 0]}),
        ("ReduceMean", ["a"], ["p"], {"axes": [1]}),
        ("Conv", ["p", "g"], ["q"], {"pads": [2, 0, 2, 0]}),
        ("Sigmoid", ["q"], ["s"], {}),
        ("Mul", ["s", "a"], ["m"], {}),
        ("BatchNormalization", ["m", "bn", "bn", "bn", "bn"], ["b"], {}),
        ("GlobalAveragePool", ["b"], ["v"], {}),
        ("Flatten", ["v"], ["f"], {}),
        ("MatMul", ["f", "fc"], ["y"], {}),
    ]
    tensors = [numpy_helper.from_array(a.astype(np.float32), k) for k, a in arrays.items()]
    if opset >= 18:
        tensors.append(numpy_helper.from_array(np.array([1]), "axes"))
        nodes[1] = ("ReduceMean", ["a", "axes"], ["p"], {})
    made = [helper.make_node(op, ins, outs, **attrs) for op, ins, outs, attrs in nodes]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [batch, 1, CASE.window, CASE.modal])]
    if ir < 4:
        inputs += [value(t.name, t.data_type, list(t.dims)) for t in tensors]
    graph = helper.make_graph(made, "g", inputs, [value("y", TensorProto.FLOAT, [batch, CASE.classes])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


@pytest.mark.parametrize(
    ("opset", "ir"),
    list(zip([9, *range(9, 26)], [3, 4, 5, 6, 7, 7, 7, 8, 8, 8, 8, 9, 9, 10, 10, 11, 12, 13], strict=True)),
)
def test_every_opset_parity(opset: int, ir: int, bench: Bench) -> None:
    path = bench.folder / "hand.onnx"
    onnx.save(foreign_graph(opset, ir), path)
    result = check(bench, path)
    assert result.model.proto.ir_version == 8
    means = [n for n in result.lowered.model.graph.node if n.op_type == "ReduceMean"]
    assert all(len(n.input) == 1 for n in means)


def test_the_long_name_of_the_domain_parity(bench: Bench) -> None:
    model = foreign_graph(17, 8)
    model.opset_import[0].domain = "ai.onnx"
    onnx.save(model, bench.folder / "domain.onnx")
    check(bench, bench.folder / "domain.onnx")


def test_a_function_of_another_exporter_is_opened(bench: Bench) -> None:
    model = foreign_graph(17, 8)
    relu = helper.make_node("Relu", ["i"], ["o"])
    model.functions.append(helper.make_function("theirs", "Act", ["i"], ["o"], [relu], [helper.make_opsetid("", 17)]))
    model.opset_import.add(domain="theirs", version=1)
    model.graph.node[-1].input[0] = "act"
    model.graph.node.insert(8, helper.make_node("Act", ["f"], ["act"], domain="theirs"))
    onnx.save(model, bench.folder / "function.onnx")
    result = check(bench, bench.folder / "function.onnx")
    assert [f.domain for f in result.model.proto.functions] == ["sattn_edge"]


@pytest.mark.parametrize("names", [("logits", "window"), ("window", "logits"), ("logits", "y"), ("a b/c:0", "window")])
def test_any_names_of_input_and_output(names: tuple[str, str], bench: Bench) -> None:
    model = foreign_graph(17, 8)
    for node in model.graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                values[i] = {"x": names[0], "y": names[1]}.get(name, name)
    model.graph.input[0].name, model.graph.output[0].name = names
    onnx.save(model, bench.folder / "names.onnx")
    result = check(bench, bench.folder / "names.onnx")
    graph = result.model.proto.graph
    assert ([i.name for i in graph.input], [o.name for o in graph.output]) == (["window"], ["logits"])


def refused(bench: Bench, path: Path, kind: type[SattnEdgeError], text: str, **options: Any) -> None:
    bench.output.unlink(missing_ok=True)
    with pytest.raises(kind, match=text):
        bench.export(path, **options)
    assert bench.leftovers() == []


def test_a_fixed_batch_other_than_1_is_refused(bench: Bench) -> None:
    onnx.save(foreign_graph(17, 8, batch=8), bench.folder / "batch8.onnx")
    refused(bench, bench.folder / "batch8.onnx", CheckpointError, "batch axis is fixed at 8; a free axis, or 1")


def test_what_does_not_fit_the_contract_is_refused(bench: Bench) -> None:
    path = bench.folder / "fits.onnx"
    onnx.save(foreign_graph(17, 8), path)
    longer = bench.recontract(window=38)
    refused(bench, path, ContractError, r"it says \[batch, 1, 38, 3\]; .* takes \[batch, 1, 37, 3\]", contract=longer)
    fewer = bench.recontract(labels=["a", "b"])
    refused(bench, path, ContractError, "labels: it names 2; the network has 4 classes", contract=fewer)


def test_a_model_file_is_no_checkpoint(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, CASE)
    bench.export(output=tmp_path / "first.onnx")
    refused(bench, tmp_path / "first.onnx", CheckpointError, "is a model file already; inspect it with sattn-inspect")


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def _second_output(model: onnx.ModelProto) -> None:
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 4, 37, 3]))


def _no_logits(model: onnx.ModelProto) -> None:
    del model.graph.node[-2:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n", 4, 1, 1]))


def _newer_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "Gelu"


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (_external, ModelFileError, "external data|another file"),
        (_second_output, CheckpointError, "1 inputs and 2 outputs; one window in, one tensor of logits out"),
        (_no_logits, CheckpointError, r"gives \[1, 4, 1, 1\]; one tensor of logits"),
        (_newer_operator, CheckpointError, "operator Gelu of node '' is newer than opset 17"),
    ],
)
def test_unusable_graphs_are_refused(change: Any, kind: type[SattnEdgeError], text: str, bench: Bench) -> None:
    model = foreign_graph(20, 9)
    change(model)
    (bench.folder / "bad.onnx").write_bytes(model.SerializeToString())  # onnx.save would look for the weights
    refused(bench, bench.folder / "bad.onnx", kind, text)


def test_damaged_files_are_refused_props(bench: Bench) -> None:
    """Cut and mutated bytes: an error of the tree, or a network that still passes every check."""
    data = foreign_graph(17, 8).SerializeToString()
    rng = np.random.default_rng(5)
    path = bench.folder / "mutated.onnx"
    bad = 0
    for i in range(150):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), 1 + i % 4):
            changed[at] = rng.integers(0, 256)
        path.write_bytes(bytes(changed[: rng.integers(1, len(data))]) if i % 3 == 0 else bytes(changed))
        bench.output.unlink(missing_ok=True)
        try:
            bench.export(path)
        except SattnEdgeError:
            bad += 1
        assert bench.leftovers() == (["out.onnx"] if bench.output.exists() else [])
    assert bad > 60


def test_ever_the_same_logits() -> None:
    """The control of `check`: a tolerance that a swapped pair of gate weights would break."""
    model = foreign_graph(17, 8)
    x: Array = normalise(draw_windows(CASE, 5), make_contract(CASE))
    before = onnx_logits(model.SerializeToString(), x)
    gate = next(t for t in model.graph.initializer if t.name == "g")
    gate.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(gate)[:, :, ::-1].copy(), "g"))
    assert relative(onnx_logits(model.SerializeToString(), x), before) > 100 * TOLERANCE
