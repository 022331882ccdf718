"""Engines built and kept on the fake device, and what a build is not asked for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from sattn_edge.engine import load_engine
from sattn_edge.engine_store import default_store
from sattn_edge.errors import ModelFileError, UnavailableError, UsageError
from sattn_edge.lowering import FORMS
from sattn_edge.model_file import load_model_file
from sattn_runtime.tensorrt import build_report
from sattn_runtime.timing import CALLS
from tests.helpers_device import calls
from tests.helpers_model import logits_of
from tests.sattn_runtime.tensorrt.helpers_tensorrt import NODE, RELEASES, ROUNDS, build_one, candidate, fake, save

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "calls"


# ------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("release", RELEASES)
def test_every_release_builds_and_runs_every_precision(path, monkeypatch, clock, release, precision):
    fake(monkeypatch, release=release)
    built = build_one(path, precision)
    assert built.manifest.accepted
    assert (built.manifest.form, built.manifest.precision) == ("gemm", precision)
    engine = load_engine(path, "tensorrt", precision, attention="gemm")
    model = load_model_file(path)
    scale = np.abs(model.golden.logits).max()
    # INT8 on golden windows that are the very ones it was calibrated on: a few thousandths of the logit scale.
    allowed = {"fp32": 1e-5, "fp16": 1e-3, "int8": 2e-2}[precision]
    assert np.abs(engine.infer(model.golden.x) - model.golden.logits).max() <= allowed * scale
    assert engine.info.version == release
    engine.close()


def test_tensorrt_rtx_on_its_own_gpu(path, monkeypatch, clock):
    fake(monkeypatch, compute_capability="8.6", integrated=False)
    built = build_one(path, "fp16", backend="tensorrt-rtx", arch="SM86")
    assert built.manifest.subject.request.arch is None  # this GPU's own
    assert built.manifest.accepted
    load_engine(path, "tensorrt-rtx", "fp16", attention="gemm").close()


def test_the_fastest_form_on_the_gpu_is_kept(path, monkeypatch, clock, log):
    fake(monkeypatch, costs_us=[[NODE["taps"], 60.0], [NODE["gemm"], 80.0], [NODE["composed"], 70.0]], log=log)
    built = build_one(path, attention="auto")
    assert [c.form for c in built.manifest.candidates] == ["gemm", *(f for f in FORMS if f != "gemm")]
    assert all(c.acceptance.accepted for c in built.manifest.candidates)
    times = {c.form: c.median_us for c in built.manifest.candidates}
    assert times == {"gemm": 80, "taps": 60, "composed": 70, "reference": 100, "folded": 100, "mean-conv": 100}
    assert built.manifest.form == "taps"
    assert built.manifest.reason == "0.75 of gemm's time, faster in 4 of 4 rounds"
    assert calls(log).count("Builder.build_serialized_network") == 6
    engine = load_engine(path, "tensorrt")
    assert engine.info.attention == "taps"
    engine.close()


def test_the_usual_form_stays_where_none_is_faster(path, monkeypatch, clock):
    fake(monkeypatch, costs_us=[[NODE["gemm"], 100.0]], default_cost_us=98.0)
    assert build_one(path, attention="auto").manifest.form == "gemm"


def test_a_form_asked_for_is_built_alone(path, monkeypatch, clock, log):
    fake(monkeypatch, log=log)
    built = build_one(path, attention="composed")
    assert (built.manifest.form, built.manifest.reason) == ("composed", "asked for")
    assert calls(log).count("Builder.build_serialized_network") == 1


def test_fp32_clears_tf32_and_nothing_else_does(path, monkeypatch, clock, log):
    fake(monkeypatch, log=log)
    build_one(path, "fp32")
    assert "IBuilderConfig.clear_flag:TF32" in calls(log)
    log.unlink()
    fake(monkeypatch, log=log)
    build_one(path, "fp16")
    assert "IBuilderConfig.clear_flag:TF32" not in calls(log)


def test_it_is_remembered_until_it_is_asked_for_again(path, monkeypatch, clock, log):
    fake(monkeypatch, log=log)
    first = build_one(path)
    again = build_one(path)
    assert (again.remembered, again.manifest) == (True, first.manifest)
    assert calls(log).count("Builder.build_serialized_network") == 1
    new = build_one(path, retune=True)
    assert not new.remembered
    assert new.manifest.created > first.manifest.created
    assert calls(log).count("Builder.build_serialized_network") == 2


def test_an_engine_that_was_damaged_is_built_anew(path, monkeypatch, clock):
    fake(monkeypatch)
    first = build_one(path)
    plan = default_store().plan_path(first.manifest)
    plan.write_bytes(plan.read_bytes()[:-1] + b"x")
    again = build_one(path)
    assert not again.remembered
    assert any("is not used, and built anew" in note for note in again.notes)
    load_engine(path, "tensorrt", attention="gemm").close()


def test_the_logits_are_those_of_the_model_file(path, monkeypatch, clock):
    """The oracle is ONNX Runtime on the model file itself, which no part of the build has touched."""
    fake(monkeypatch)
    build_one(path)
    x = np.random.default_rng(5).normal(size=(7, 1, 32, 3)).astype(np.float32)
    engine = load_engine(path, "tensorrt", attention="gemm")
    wanted = logits_of(path.read_bytes(), x)
    assert np.abs(engine.infer(x) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    engine.close()


# ------------------------------------------------------------------ what it is not asked for


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "fp8"}, "--precision: got 'fp8'"),
        ({"attention": "gem"}, "--attention: got 'gem'; did you mean 'gemm'?"),
        ({"batch": 0}, "--batch: got 0; 1 to 4096"),
        ({"batch": 2, "batch_range": (1, 2, 4)}, "--batch: got --batch-range too; one of the two"),
        ({"batch_range": (2, 1, 4)}, "--batch-range: got 2,1,4; MIN,OPT,MAX"),
        ({"batch_range": (0, 1, 4)}, "--batch-range: got 0,1,4"),
        ({"workspace_mib": 0}, "--workspace: got 0; MiB, 1 or more"),
        ({"precision": "best"}, "--precision best: got no --data"),
        ({"data": "x.npz"}, "--data: got --precision fp32"),
        ({"budget": -1.0}, "--budget: got -1"),
        ({"threads": 2}, "--threads: got 2; tensorrt runs on the GPU"),
        ({"arch": "sm86"}, "--arch: got 'sm86'; tensorrt builds for the GPU it runs on"),
    ],
)
def test_options_that_do_not_go_together(path, monkeypatch, store, options, text):
    fake(monkeypatch)
    with pytest.raises(UsageError, match=text.replace("(", r"\(").replace("?", r"\?")):
        build_one(path, **options)
    assert not store.exists()


def test_int8_without_a_table(monkeypatch, tmp_path):
    fake(monkeypatch)
    with pytest.raises(ModelFileError, match="carries no calibration table"):
        build_one(save(tmp_path, calibrated=False), "int8")


def test_without_a_gpu(path, monkeypatch):
    fake(monkeypatch, visible=False)
    with pytest.raises(UnavailableError, match=r"there is no GPU to build for \(.*cudaErrorNoDevice") as caught:
        build_one(path)
    assert caught.value.exit_code == 6


def test_without_an_adapter(path, monkeypatch):
    fake(monkeypatch, cuda_python="", pycuda="")
    with pytest.raises(UnavailableError, match=r"neither cuda-python nor pycuda is installed; .*sattn-edge\[jetson6\]"):
        build_one(path)


def test_compiled_for_another_machine_it_is_kept_and_never_run(path, monkeypatch):
    fake(monkeypatch, visible=False)
    built = build_one(path, "fp16", attention="auto", backend="tensorrt-rtx", arch="SM86")
    assert (built.manifest.accepted, built.manifest.subject.request.arch) == (False, "sm86")
    assert built.manifest.reason.endswith("kernels, the fewest; nothing here can run and time it")
    assert all(c.kernels >= candidate(built, built.manifest.form, "fp16").kernels for c in built.manifest.candidates)
    assert any("NO: nothing here can run it" in line for line in build_report.as_text(built))
    with pytest.raises(UnavailableError):
        load_engine(path, "tensorrt-rtx", "fp16")
    with pytest.raises(UnavailableError, match="--precision best: nothing here can run that engine"):
        build_one(path, "best", backend="tensorrt-rtx", arch="sm86", data="x.npz")


# ------------------------------------------------------------------ the report


def test_the_report_is_the_manifest_and_can_be_read(path, monkeypatch, clock):
    fake(monkeypatch)
    built = build_one(path, "fp16", attention="auto")
    data = msgspec.json.decode(msgspec.json.encode(build_report.as_data(built)))
    assert (data["accepted"], data["remembered"], data["form"]) == (True, False, built.manifest.form)
    assert data["subject"]["platform"]["gpu"]["name"] == "Fake Orin"
    assert data["measurement"] == {"calls": CALLS * ROUNDS, "rounds": ROUNDS, "warm_up": 10, "clock": "CUDA events"}
    text = "\n".join(build_report.as_text(built))
    assert text.startswith("small.onnx on TensorRT 10.3.0, fp16: gemm\n")
    assert sum(line.endswith("kept") for line in text.splitlines()) == 2  # a form and a way to call it
    assert "6 golden windows (synthetic), at most 0.01 of the logit scale" in text
