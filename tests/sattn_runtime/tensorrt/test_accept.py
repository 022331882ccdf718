"""Engines that are built and not accepted: other logits, another precision, none at all."""

from __future__ import annotations

import pytest

from sattn_edge.engine_store import default_store
from sattn_edge.errors import QualityError, UnavailableError
from sattn_edge.model_file import load_model_file
from sattn_runtime.tensorrt import build_report
from tests.sattn_runtime.tensorrt.helpers_tensorrt import NODE, build_one, candidate, fake

pytestmark = pytest.mark.usefixtures("store")


def test_logits_other_than_onnx_runtimes_are_not_accepted(path, monkeypatch, clock, store):
    fake(monkeypatch, faults={"logits": 0.5})
    text = r"no engine in fp32 gives what ONNX Runtime gives on its graph \(gemm 0\.\d+ of the logit scale\)"
    with pytest.raises(QualityError, match=text) as caught:
        build_one(path)
    assert caught.value.exit_code == 4
    assert default_store().entries() == []
    assert default_store().leftovers() == []


@pytest.mark.parametrize(
    ("precision", "within", "beyond"), [("fp32", 5e-5, 2e-4), ("fp16", 5e-3, 2e-2), ("int8", 1e-2, 4e-2)]
)
def test_how_far_logits_may_be_off(path, monkeypatch, clock, precision, within, beyond):
    """The bounds are 1e-4, 1e-2 and 2e-2 of the logit scale; the fake adds a number to every logit."""
    scale = load_model_file(path).golden.logit_scale
    fake(monkeypatch, faults={"logits": float(within * scale)})
    assert build_one(path, precision).manifest.accepted
    fake(monkeypatch, faults={"logits": float(beyond * scale)})
    with pytest.raises(QualityError):
        build_one(path, precision, retune=True)


def test_a_form_that_is_off_is_left_and_the_others_go_on(path, monkeypatch, clock):
    fake(monkeypatch, faults={"logits": 0.5, "only_form": NODE["gemm"]}, costs_us=[[NODE["gemm"], 1.0]])
    built = build_one(path, attention="auto")
    assert built.manifest.form != "gemm"
    assert (candidate(built, "gemm").acceptance.accepted, candidate(built, "gemm").median_us) == (False, None)
    assert any(line.startswith("gemm") and line.endswith("NOT accepted") for line in build_report.as_text(built))


@pytest.mark.parametrize("release", ["8.6.1", "10.3.0", "11.4.0.106"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_in_another_precision_is_an_error(path, monkeypatch, clock, release, precision):
    fake(monkeypatch, release=release, faults={"precision": "fp32"})
    with pytest.raises(QualityError, match=f"no engine holds {precision}: ") as caught:
        build_one(path, precision)
    assert caught.value.exit_code == 4
    assert default_store().entries() == []


def test_control_the_same_engine_is_right_for_fp32(path, monkeypatch, clock):
    fake(monkeypatch, faults={"precision": "fp32"})
    assert build_one(path, "fp32").manifest.accepted


def test_a_form_that_can_not_be_compiled_is_left_and_the_others_go_on(path, monkeypatch, clock):
    fake(monkeypatch, faults={"build": "none", "only_form": NODE["gemm"]})
    built = build_one(path, attention="auto")
    assert candidate(built, "gemm").left_out == "not compiled"
    assert built.manifest.accepted
    with pytest.raises(QualityError, match=r"TensorRT 10\.3\.0 makes no engine of it"):
        build_one(path, attention="gemm")


def test_memory_that_ran_out_ends_the_build_with_advice(path, monkeypatch, clock):
    fake(monkeypatch, faults={"build": "kill"})
    with pytest.raises(UnavailableError, match=r"building gemm, fp32: out of memory: the kernel ended the compiler"):
        build_one(path)
    fake(monkeypatch)
    assert build_one(path).manifest.accepted
    assert default_store().leftovers() == []


def test_an_engine_that_can_not_be_read_back_is_an_error(path, monkeypatch, clock):
    fake(monkeypatch, faults={"deserialize": "none"})
    with pytest.raises(UnavailableError, match=r"engine: TensorRT 10\.3\.0 does not take it"):
        build_one(path)
