from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sattn_edge.engine import EngineOptions
from sattn_edge.model_file import load_model_file, parse_model_file
from sattn_runtime.testing import FakeEngine
from sattn_runtime.verify import TOLERANCES, as_text, verify
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import GOLDEN_WINDOWS, save_model, save_watch_model
from tests.helpers_run import Cli


@pytest.fixture
def cli(capfd, monkeypatch) -> Cli:
    return Cli(capfd, monkeypatch)


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


def test_a_changed_graph_that_gives_the_same_is_told_but_passes(model):
    proto = onnx.load(model)
    proto.graph.node[0].name = "renamed"
    found = parse_model_file(proto.SerializeToString(), "m")
    result = verify(found, "onnxruntime", EngineOptions())
    assert (result.passed, result.graph_unchanged) == (True, False)
