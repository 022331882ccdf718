from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from sattn_edge.lowering import FORMS, PRECISIONS
from sattn_edge.model_file import load_model_file
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_model import logits_of, save_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return calibrate_by_hand(save_model(tmp_path, window=32, modal=3))


def test_the_page(cli, path):
    done = cli("sattn-inspect", path, "--lower", "onnxruntime", "--attention", "gemm")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "small.onnx for onnxruntime: gemm, fp32, any batch"
    assert "gemm: 2 places changed" in lines
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["Conv"] == ["4", "2"]
    assert rows["ReduceMean"] == ["3", "-"]
    before, after = (int(n.replace(",", "")) for n in rows["multiply-adds"])
    assert after > before > 0
    assert "written" not in done.out


@pytest.mark.parametrize(("backend", "precision"), [(b, p) for b, known in PRECISIONS.items() for p in known])
def test_every_target_as_json_and_as_a_file(cli, path, tmp_path, backend, precision):
    out = tmp_path / "out.onnx"
    done = cli("sattn-inspect", path, "--lower", backend, "--precision", precision, "--json", "-o", out)
    assert (done.code, done.err) == (0, "")
    report = done.json
    assert (report["backend"], report["precision"]) == (backend, precision)
    assert report["batch"] == (1 if backend == "tensorrt" else None)
    assert all(row.keys() == {"name", "changed", "details", "near_misses"} for row in report["passes"])
    written = onnx.load(out)
    onnx.checker.check_model(written)
    props = {row.key: row.value for row in written.metadata_props}
    assert props.keys() == {"sattn_edge.contract", "sattn_edge.lowered"}
    assert json.loads(props["sattn_edge.lowered"]) == {
        "backend": backend,
        "attention": report["attention"],
        "precision": precision,
        "batch": report["batch"],
        "graph_digest": load_model_file(path).graph_digest,
    }
    x = load_model_file(path).golden
    if precision == "fp32":
        np.testing.assert_allclose(logits_of(out.read_bytes(), x.x[:1]), x.logits[:1], atol=1e-5 * x.logit_scale)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_keeps_count(cli, path, form):
    report = cli("sattn-inspect", path, "--lower", "onnxruntime", "--attention", form, "--json").json
    assert report["attention"] == form
    assert report["after"]["nodes"] == sum(report["after"]["operators"].values())
    assert report["before"] == cli("sattn-inspect", path, "--lower", "tensorrt", "--json").json["before"]


def test_costs_are_for_one_window_whatever_the_batch(cli, path, tmp_path):
    one, four = (
        cli("sattn-inspect", path, "--lower", "tensorrt", "--batch", n, "--json", "-o", tmp_path / f"{n}.onnx").json
        for n in ("1", "4")
    )
    assert one["after"]["multiply_adds"] == four["after"]["multiply_adds"]
    assert four["batch"] == 4
    shape = onnx.load(tmp_path / "4.onnx").graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_value == 4


def test_what_a_form_can_not_do_is_told_with_its_reason(cli, tmp_path):
    from sattn_edge.model_file import model_bytes
    from tests.helpers_data import make_contract
    from tests.helpers_model import golden_of
    from tests.helpers_onnx import make_model

    contract = make_contract(("a", "b", "c"), window=32, labels=("p", "q", "r", "s"))
    proto = make_model(pooling="max")
    golden = golden_of(proto, np.zeros((1, 1, 32, 3), np.float32))
    path = tmp_path / "max.onnx"
    path.write_bytes(model_bytes(proto, contract, golden, statistics=None, provenance={}))
    done = cli("sattn-inspect", path, "--lower", "onnxruntime", "--attention", "folded")
    assert done.code == 0
    assert "folded: nothing to change" in done.out
    assert "  left alone: block0.attention: " in done.out


REFUSED = {
    "attention alone": (("--attention", "gemm"), "--attention: says how to lower"),
    "precision alone": (("--precision", "int8"), "--precision: says how to lower"),
    "batch alone": (("--batch", "2"), "--batch: says how to lower"),
    "output alone": (("-o", "x.onnx"), "-o: says how to lower; it goes with --lower; add --lower onnxruntime or t"),
    "backend": (("--lower", "tensort"), "--lower: got 'tensort'; did you mean 'tensorrt'?"),
    "form": (("--lower", "tensorrt", "--attention", "tap"), "attention form: got 'tap'; did you mean 'taps'?"),
    "precision": (("--lower", "onnxruntime", "--precision", "fp16"), "precision: got 'fp16' for onnxruntime"),
    "batch": (("--lower", "tensorrt", "--batch", "0"), "batch: got 0; 1 or more"),
    "folder": (("--lower", "tensorrt", "-o", "/nowhere/x.onnx"), "-o: '/nowhere/x.onnx' can't be written"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_use(cli, path, case):
    args, text = REFUSED[case]
    done = cli("sattn-inspect", path, *args)
    assert (done.code, done.out) == (2, "")
    assert text in done.err


def test_the_model_file_is_not_overwritten(cli, path, tmp_path):
    before = path.read_bytes()
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    for output in (path, link):
        done = cli("sattn-inspect", path, "--lower", "tensorrt", "-o", output)
        assert done.code == 2
        assert "is the model file itself" in done.err
    assert path.read_bytes() == before


def test_int8_without_a_table(cli, tmp_path):
    done = cli("sattn-inspect", save_model(tmp_path, name="bare.onnx"), "--lower", "tensorrt", "--precision", "int8")
    assert done.code == 3
    assert "carries no calibration table" in done.err


def test_the_page_of_the_model_file_tells_of_its_calibration(cli, path):
    assert (
        "minmax, 6 windows (sha256:111111111111); layers in INT8: onnxruntime 2 of 3, tensorrt 2 of 3"
        in cli("sattn-inspect", path).out
    )
    proto = onnx.load(path)
    proto.graph.node[0].name = "renamed"
    path.write_bytes(proto.SerializeToString())
    assert "calibration    NOT USABLE: was calibrated for graph sha256:" in cli("sattn-inspect", path).out
