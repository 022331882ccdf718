from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sattn_edge.engine import EngineOptions, open_engine
from sattn_edge.engine_onnxruntime import run_outputs
from sattn_edge.lowering import FORMS
from sattn_edge.model_file import ModelFile, load_model_file, parse_model_file
from sattn_runtime.testing import FakeEngine
from sattn_runtime.verify import GATE_TOLERANCES, TOLERANCES, as_text, verify, verify_engine
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import GOLDEN_WINDOWS, save_model, save_watch_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path)


def change_weights(path: Path, name: str, change) -> Path:
    """Writes the file anew with one tensor changed; its metadata stays."""
    proto = onnx.load(path)
    (tensor,) = (t for t in proto.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    path.write_bytes(proto.SerializeToString())
    return path


def add_to_class_1(amount: float):
    def change(bias: np.ndarray) -> np.ndarray:
        bias[1] += np.float32(amount)
        return bias

    return change


def test_golden_windows_reproduce(cli, tmp_path):
    path = save_watch_model(tmp_path)
    done = cli("sattn-verify", path)
    assert done.code == 0, done.err
    assert done.out.startswith("watch.onnx: passed\n")
    assert "6 windows, real" in done.out
    assert "every one equal" in done.out
    assert "as exported" in done.out
    assert done.err == ""


def test_a_changed_weight_is_found_and_named(cli, model):
    change_weights(model, "fc.bias", add_to_class_1(5))
    done = cli("sattn-verify", model)
    assert done.code == 4
    assert "small.onnx: FAILED" in done.out
    assert "CHANGED since it was exported" in done.out
    assert "beyond the tolerance: 6 windows (0, 1, 2, 3, 4, 5)" in done.out
    assert done.err == (
        "error: small.onnx: 6 of 6 golden windows are beyond the tolerance; "
        "0.0001 of the logit scale; export the model again, or check the engine\n"
    )


def test_the_tolerance_has_two_sides(cli, model):
    scale = load_model_file(model).golden.logit_scale
    change_weights(model, "fc.bias", add_to_class_1(0.5 * TOLERANCES["fp32"] * scale))
    done = cli("sattn-verify", model)
    assert done.code == 0
    assert "CHANGED" in done.out
    change_weights(model, "fc.bias", add_to_class_1(TOLERANCES["fp32"] * scale))
    assert cli("sattn-verify", model).code == 4


def test_as_json(cli, model):
    report = cli("sattn-verify", model, "--json").json
    assert report["passed"] is True
    assert (report["windows"], report["failures"], report["flips"]) == (GOLDEN_WINDOWS, [], 0)
    assert (report["backend"], report["precision"], report["tolerance"]) == ("onnxruntime", "fp32", 1e-4)
    assert report["graph_unchanged"] is True
    change_weights(model, "fc.bias", add_to_class_1(50))
    done = cli("sattn-verify", model, "--json")
    assert done.code == 4
    assert (done.json["passed"], done.json["flips"] > 0) == (False, True)
    assert done.json["failures"] == list(range(GOLDEN_WINDOWS))


def test_logits_that_are_nan_fail(cli, model):
    change_weights(model, "block0.bn.var", lambda var: -np.abs(var) - 10)
    done = cli("sattn-verify", model)
    assert done.code == 4, done.err
    assert "FAILED" in done.out
    assert cli("sattn-verify", model, "--json").json["max_difference"] is None


def test_an_engine_that_is_wrong_on_one_window_only(model, monkeypatch):
    found = load_model_file(model)
    answers = {x[0].tobytes(): logits for x, logits in zip(found.golden.x, found.golden.logits, strict=True)}
    answers[found.golden.x[2, 0].tobytes()] = answers[found.golden.x[2, 0].tobytes()] + 1
    add_backend(monkeypatch, lambda contract: FakeEngine(contract, lambda window: answers[window.tobytes()].tolist()))
    result = verify(found, BACKEND, EngineOptions())
    assert (result.failures, result.passed, result.graph_unchanged) == ((2,), False, True)
    assert result.max_difference == pytest.approx(1)
    assert "beyond the tolerance: 1 window (2)" in as_text(result)


def test_an_engine_that_is_wrong_in_a_batch_only(model, monkeypatch):
    """What a lost batch axis looks like."""
    found = load_model_file(model)

    class FirstOnly(FakeEngine):
        def _run(self, x: np.ndarray) -> np.ndarray:
            places = [np.flatnonzero((found.golden.x == w).all(axis=(1, 2, 3)))[0] for w in x]
            return found.golden.logits[[places[0]] * len(x)]

    add_backend(monkeypatch, FirstOnly)
    assert verify(found, BACKEND, EngineOptions()).failures == (1, 2, 3, 4, 5)


def test_many_failures_are_listed_in_part(model):
    result = verify(load_model_file(model), "onnxruntime", EngineOptions())
    lines = as_text(replace(result, failures=tuple(range(12)), flips=1, synthetic=False))
    assert lines[-1] == "beyond the tolerance: 12 windows (0, 1, 2, 3, 4, 5, 6, 7, 8, 9 ...)"
    assert any(line.endswith("1 label differ") for line in lines)


# ------------------------------------------------------------------ attention


@pytest.fixture
def attentive(tmp_path: Path) -> Path:
    return save_model(tmp_path, name="attentive.onnx", attention=True)


@pytest.mark.parametrize("form", FORMS)
def test_gates_are_held_to_the_graphs_own(cli, attentive, form):
    done = cli("sattn-verify", attentive, "--attention", form)
    assert done.code == 0, done.err
    assert re.search(r"^attention   every gate within \S+ of its graph's \(at most 0.0001\)$", done.out, re.MULTILINE)
    assert 0 <= cli("sattn-verify", attentive, "--json").json["attention_difference"] < 1e-6


def test_a_file_without_says_nothing_of_it(cli, model):
    assert "every gate" not in cli("sattn-verify", model).out
    assert cli("sattn-verify", model, "--json").json["attention_difference"] is None


class OtherGates(FakeEngine):
    """The golden logits, and the graph's gates with something done to one of them."""

    def __init__(self, model: ModelFile, change) -> None:
        super().__init__(model.contract, gates=model.attention)
        self.info = replace(self.info, backend="onnxruntime")
        self._answers = {x[0].tobytes(): i for i, x in enumerate(model.golden.x)}
        self._golden, self._right = model.golden.logits, run_outputs(model.proto, model.golden.x)[1]
        self._change = change

    def _run(self, x: np.ndarray) -> np.ndarray:
        return self._golden[[self._answers[window[0].tobytes()] for window in x]]

    def _run_attention(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = [self._answers[window[0].tobytes()] for window in x]
        gates = self._right[places].copy()
        if places == [2]:
            gates[0, 5] = self._change(gates[0, 5])
        return self._run(x), gates


@pytest.mark.parametrize(
    ("change", "failures"),
    [
        (lambda gate: gate, ()),
        (lambda gate: gate + 0.5 * GATE_TOLERANCES["fp32"], ()),
        (lambda gate: gate + 2 * GATE_TOLERANCES["fp32"], (2,)),
        (lambda gate: gate * np.nan, (2,)),
    ],
)
def test_one_gate_of_one_window_has_two_sides(attentive, change, failures):
    model = load_model_file(attentive)
    result = verify_engine(model, OtherGates(model, change))
    assert (result.failures, result.max_difference, result.flips) == (failures, 0.0, 0)


def test_int8_gates_are_held_to_their_own_graph(cli, attentive):
    """Their distance from FP32 is the quantisation's; here it is whether the engine computes what its graph says."""
    calibrate_by_hand(attentive)
    found = cli("sattn-verify", attentive, "--precision", "int8", "--json").json
    assert found["passed"]
    assert found["attention_difference"] < 1e-3
    model = load_model_file(attentive)
    exact = run_outputs(model.proto, model.golden.x)[1]
    engine = open_engine(model, "onnxruntime", EngineOptions("int8"))
    assert np.abs(engine.infer_attention(model.golden.x, [0, 0, 0])[1] - exact).max() > 1e-3, "the control"


# ------------------------------------------------------------------ INT8


def real(path: Path) -> Path:
    """The same model file, its golden windows said to be somebody's."""
    proto = onnx.load(path)
    for row in proto.metadata_props:
        row.value = row.value.replace('"synthetic":true', '"synthetic":false')
    path.write_bytes(proto.SerializeToString())
    return path


def test_int8_on_real_windows_is_held_against_fp32(cli, model):
    done = cli("sattn-verify", real(calibrate_by_hand(model)), "--precision", "int8")
    assert done.code == 0, done.err
    assert "onnxruntime, int8, form gemm" in done.out
    assert "compared with  the golden logits, FP32" in done.out
    assert "(at most 0.05)" in done.out
    assert "(may differ at margins up to 0.05)" in done.out
    report = cli("sattn-verify", model, "--precision", "int8", "--json").json
    assert 1e-5 < report["relative"] < 5e-2
    assert (report["tolerance"], report["flip_margin"], report["attention"]) == (0.05, 0.05, "gemm")


def test_int8_with_ranges_that_clip_fails_on_real_windows_alone(cli, model):
    calibrate_by_hand(model, shrink=0.2)
    done = cli("sattn-verify", model, "--precision", "int8")
    assert done.code == 0
    assert "its own graph in float: synthetic windows may be out of range" in done.out
    assert "(at most 0.01)" in done.out
    done = cli("sattn-verify", real(model), "--precision", "int8")
    assert done.code == 4
    assert "0.05 of the logit scale; calibrate it again" in done.err


def test_wrong_integer_sums_are_found_on_synthetic_windows_too(model, monkeypatch):
    """The control: what a kernel that saturates would do."""
    found = load_model_file(calibrate_by_hand(model))
    engine = open_engine(found, "onnxruntime", EngineOptions("int8"))
    inner = engine._run
    monkeypatch.setattr(engine, "_run", lambda x: inner(x) * np.float32(1.02))
    assert verify_engine(found, engine).failures
    monkeypatch.setattr(engine, "_run", lambda x: inner(x) * np.float32(1.001))
    assert not verify_engine(found, engine).failures


def test_a_flip_is_a_failure_where_fp32_was_sure(model, monkeypatch):
    """Within the tolerance a label may differ, but not at a margin beyond it."""
    found = load_model_file(real(calibrate_by_hand(model)))
    logits = np.array(found.golden.logits)
    scale = float(np.abs(logits).max())
    for row, margin in zip(logits, (0.01, 0.04, 0.09, 0.2, 0.3, 0.4), strict=True):
        row[:] = (0.5 * scale, (0.5 - margin) * scale, -scale)
    found = replace(found, golden=replace(found.golden, logits=logits))
    given = logits.copy()
    given[:3, 0] -= np.float32(0.0475 * scale)
    given[:3, 1] += np.float32(0.0475 * scale)
    answers = {x[0].tobytes(): row.tolist() for x, row in zip(found.golden.x, given, strict=True)}
    engine = FakeEngine(found.contract, lambda window: answers[window.tobytes()])
    engine.info = replace(engine.info, precision="int8")
    result = verify_engine(found, engine)
    assert (result.flips, result.failures) == (3, (2,))
    assert result.worst_margin == pytest.approx(0.09, abs=1e-4)
    engine.info = replace(engine.info, precision="fp32")
    assert verify_engine(found, engine).failures == (0, 1, 2)


def test_int8_without_a_table(cli, model):
    done = cli("sattn-verify", model, "--precision", "int8")
    assert done.code == 3
    assert "carries no calibration table" in done.err


@pytest.mark.parametrize("form", FORMS)
def test_every_form_by_name(cli, model, form):
    done = cli("sattn-verify", model, "--attention", form)
    assert done.code == 0, done.err
    assert f"onnxruntime, fp32, form {form}" in done.out


def test_a_changed_graph_that_gives_the_same_is_told_but_passes(model):
    proto = onnx.load(model)
    proto.graph.node[0].name = "renamed"
    found = parse_model_file(proto.SerializeToString(), "m")
    result = verify(found, "onnxruntime", EngineOptions())
    assert (result.passed, result.graph_unchanged) == (True, False)
