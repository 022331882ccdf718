"""The file that is written, looked at with onnx and ONNX Runtime alone."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from onnx import ModelProto, NodeProto

from sattn_edge.attention import FUNCTION_NAMES
from sattn_edge.files import digest
from sattn_edge.gate import admit
from tests.helpers_data import ROOT
from tests.sattn_export.helpers_export import Array, Bench, Case, draw_windows, make_bench, make_contract, relative

pytestmark = pytest.mark.torch

POOLINGS = ("mean", "max", "mean+max")


@pytest.fixture(scope="module", params=POOLINGS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Any, bytes]:
    case = Case(pooling=request.param)
    bench = make_bench(tmp_path_factory.mktemp("written"), case)
    np.savez(bench.folder / "windows.npz", x=draw_windows(case, 50), y=np.arange(50) % case.classes)
    result = bench.export(data=str(bench.folder / "windows.npz"))
    return bench, result, bench.output.read_bytes()


def _props(model: ModelProto) -> dict[str, str]:
    return {p.key: p.value for p in model.metadata_props}


def _array(row: dict[str, Any], key: str) -> Array:
    return np.frombuffer(base64.b64decode(row[key]), "<f4").reshape(row[f"{key}_shape"])


def _every_node(model: ModelProto) -> Iterator[NodeProto]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def test_the_file_passes_every_checker(written: tuple[Bench, Any, bytes]) -> None:
    _, _, data = written
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    admit(data, "out.onnx")
    assert model.ir_version == 8
    assert {o.domain: o.version for o in model.opset_import} == {"": 17, "sattn_edge": 1}


def test_attention_is_a_function_of_standard_operators(written: tuple[Bench, Any, bytes]) -> None:
    bench, _, data = written
    model = onnx.load_from_string(data)
    name = FUNCTION_NAMES[bench.case.pooling]  # type: ignore[index]
    assert [(f.domain, f.name) for f in model.functions] == [("sattn_edge", name)]
    assert all(node.domain == "" for node in model.functions[0].node)
    assert sum((n.domain, n.op_type) == ("sattn_edge", name) for n in model.graph.node) == len(bench.case.widths)


def test_shapes_are_fixed_but_for_the_batch(written: tuple[Bench, Any, bytes]) -> None:
    bench, _, data = written
    graph = onnx.load_from_string(data).graph
    (takes,), (gives,) = graph.input, graph.output
    dims = [d.dim_param or d.dim_value for d in takes.type.tensor_type.shape.dim]
    assert (takes.name, dims) == ("window", ["batch", 1, bench.case.window, bench.case.modal])
    dims = [d.dim_param or d.dim_value for d in gives.type.tensor_type.shape.dim]
    assert (gives.name, dims) == ("logits", ["batch", bench.case.classes])
    assert not {n.op_type for n in graph.node} & {"Shape", "Gather", "ConstantOfShape"}


def test_no_reduction_has_its_axes_as_an_input(written: tuple[Bench, Any, bytes]) -> None:
    model = onnx.load_from_string(written[2])
    reductions = [n for n in _every_node(model) if n.op_type.startswith("Reduce")]
    assert reductions
    assert all(len(n.input) == 1 and any(a.name == "axes" for a in n.attribute) for n in reductions)


def test_nothing_of_the_workstation_is_in_it(written: tuple[Bench, Any, bytes]) -> None:
    bench, _, data = written
    for trace in (b"/work", b"site-packages", b".py", b"stack_trace", b"pkg.", os.fsencode(bench.folder), b"/tmp/"):
        assert trace not in data, trace
    model = onnx.load_from_string(data)
    assert not model.doc_string
    assert not model.graph.doc_string
    assert not model.graph.value_info
    assert not any(n.doc_string or n.metadata_props for n in model.graph.node)
    assert not any(t.external_data or t.doc_string or t.metadata_props for t in model.graph.initializer)


def test_metadata_is_canonical_json(written: tuple[Bench, Any, bytes]) -> None:
    bench, result, data = written
    props = _props(onnx.load_from_string(data))
    assert sorted(props) == [f"sattn_edge.{k}" for k in ("contract", "format", "golden", "provenance", "statistics")]
    for value in props.values():
        assert json.dumps(json.loads(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False) == value
    assert props["sattn_edge.format"] == "1"
    contract = json.loads(props["sattn_edge.contract"])
    assert contract["labels"] == [f"class {i}" for i in range(4)]
    assert [c["name"] for c in contract["channel"]] == ["ch0", "ch1", "ch2"]
    provenance = json.loads(props["sattn_edge.provenance"])
    assert provenance["checkpoint"]["digest"] == digest(Path(bench.checkpoint).read_bytes())
    assert provenance["data"]["source"] == "windows.npz"
    assert provenance["graph_digest"] == result.model.graph_digest
    statistics = json.loads(props["sattn_edge.statistics"])
    assert statistics["windows"] == 50
    assert [c["name"] for c in statistics["channels"]] == ["ch0", "ch1", "ch2"]


def test_golden_logits_reproduce_in_plain_onnx_runtime(written: tuple[Bench, Any, bytes]) -> None:
    import onnxruntime

    bench, _, data = written
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    golden = json.loads(session.get_modelmeta().custom_metadata_map["sattn_edge.golden"])
    x, logits = _array(golden, "x"), _array(golden, "logits")
    assert x.shape == (32, 1, bench.case.window, bench.case.modal)
    assert (golden["synthetic"], golden["source"]) == (False, "windows.npz")
    assert relative(session.run(None, {"window": x})[0], logits) < 1e-5
    singly = np.concatenate([session.run(None, {"window": x[i : i + 1]})[0] for i in range(len(x))])
    assert relative(singly, logits) < 1e-5
    assert relative(session.run(None, {"window": x + 0.1})[0], logits) > 1e-3  # the control


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    """In this process, and in others with other hash seeds and folders."""
    script = (
        "import sys; from pathlib import Path; from sattn_export import ExportOptions, export; f = Path(sys.argv[1]);"
        "export(ExportOptions(str(f / 'net.pt'), f / 'contract.toml', f / 'other.onnx', data=str(f / 'w.npz')))"
    )
    made = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        bench = make_bench(folder)
        np.savez(folder / "w.npz", x=draw_windows(bench.case, 20))
        bench.export(data=str(folder / "w.npz"))
        made.append(bench.output.read_bytes())
    path = os.pathsep.join(str(ROOT / p) for p in ("", "export"))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env=environment, capture_output=True)
    made.append((folder / "other.onnx").read_bytes())
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "without data"])
def test_synthetic_windows_are_marked(asked: bool, tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    np.savez(tmp_path / "w.npz", x=draw_windows(bench.case, 20))
    options: dict[str, Any] = {"data": str(tmp_path / "w.npz"), "golden": "synthetic"} if asked else {}
    result = bench.export(**options)
    props = _props(onnx.load_from_string(bench.output.read_bytes()))
    golden = json.loads(props["sattn_edge.golden"])
    assert (golden["synthetic"], golden["source"]) == (True, "contract")
    assert len(_array(golden, "x")) == 32
    assert ("sattn_edge.statistics" in props) == asked
    assert (result.data_parity is not None) == asked
    inside = (_array(golden, "x") >= -50).all() and (_array(golden, "x") <= 50).all()
    assert inside


def test_statistics_of_a_contract_without_mean_and_std(tmp_path: Path) -> None:
    """Nothing to normalise: no Sub and Div, and the checkpoint's own logits."""
    bench = make_bench(tmp_path)
    plain = bench.recontract(channel=[{"name": f"c{i}"} for i in range(3)])
    result = bench.export(contract=plain)
    assert not {n.op_type for n in result.model.proto.graph.node} & {"Sub", "Div"}
    assert make_contract(bench.case).modal == result.model.contract.modal
