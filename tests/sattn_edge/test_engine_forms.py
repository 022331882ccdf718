"""The ONNX Runtime engine on lowered graphs: attention forms, INT8, and what the engine store remembers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from sattn_edge import engine_onnxruntime
from sattn_edge.engine import EngineOptions, load_engine, open_engine
from sattn_edge.engine_manifest import Manifest, Measurement, subject_of
from sattn_edge.engine_onnxruntime import VERSION, outputs_in_float, request_of
from sattn_edge.engine_store import default_store
from sattn_edge.errors import DigestError, ModelFileError, UnavailableError, UsageError
from sattn_edge.lowering import FORMS
from sattn_edge.model_file import load_model_file, parse_model_file, with_calibration
from tests.helpers_calibration import calibrate_by_hand, make_table
from tests.helpers_model import logits_of, save_model
from tests.helpers_run import run_code

NAME = "onnxruntime"
FP32, INT8 = EngineOptions(), EngineOptions("int8")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("plain"), window=32, modal=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with a calibration table."""
    return calibrate_by_hand(save_model(tmp_path_factory.mktemp("calibrated"), window=32, modal=3))


def remember(path: Path, form: str, options: EngineOptions = FP32) -> Path:
    subject = subject_of(load_model_file(path), request_of(options), VERSION)
    return default_store().remember(Manifest(subject, form, "told to", (), Measurement(1, 1, 1), "now"))


# ------------------------------------------------------------------ forms


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_logits(path, form):
    model = load_model_file(path)
    engine = open_engine(model, NAME, EngineOptions(attention=form))
    assert (engine.info.attention, engine.info.precision, engine.info.notes) == (form, "fp32", ())
    wanted = logits_of(path.read_bytes(), model.golden.x)
    np.testing.assert_allclose(engine.infer(model.golden.x), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_an_unknown_form(path):
    with pytest.raises(UsageError, match="attention form: got 'gem'; did you mean 'gemm'"):
        load_engine(path, attention="gem")


def test_a_file_that_runs_as_it_lies_needs_no_passes(plain):
    code = f"""
import sys
from sattn_edge import load_engine
engine = load_engine({str(plain)!r})
print(engine.info.attention, "sattn_edge.lowering" in sys.modules)
load_engine({str(plain)!r}, attention="taps")
print("sattn_edge.lowering" in sys.modules)
"""
    assert run_code(code) == "reference False\nTrue\n"


# ------------------------------------------------------------------ INT8


@pytest.mark.parametrize("form", FORMS)
def test_int8_is_its_graph_in_float(path, form):
    """The integer kernels give what the Q/DQ nodes say, and the logits are not FP32's."""
    model = load_model_file(path)
    options = EngineOptions("int8", 1, form)
    engine, x = open_engine(model, NAME, options), model.golden.x
    assert (engine.info.attention, engine.info.precision) == (form, "int8")
    wanted, scale = outputs_in_float(model, options, x)[0], model.golden.logit_scale
    np.testing.assert_allclose(engine.infer(x), wanted, rtol=0, atol=1e-2 * scale)
    error = np.abs(engine.infer(x) - model.golden.logits).max() / scale
    assert 1e-5 < error < 5e-2


def test_int8_is_gemm_unless_something_else_is_said(path):
    assert load_engine(path, precision="int8").info.attention == "gemm"


def test_ranges_that_clip_are_seen(plain):
    """The control: an engine follows its table, and a bad table gives bad logits."""
    model = load_model_file(plain)
    table = make_table(model, shrink=0.2)
    spoilt = parse_model_file(with_calibration(model, table), "m")
    x = model.golden.x
    error = np.abs(open_engine(spoilt, NAME, INT8).infer(x) - model.golden.logits).max() / model.golden.logit_scale
    assert error > 5e-2


def test_int8_without_a_table(plain):
    with pytest.raises(ModelFileError, match=r"small\.onnx: carries no calibration table; .* sattn-calibrate small"):
        load_engine(plain, precision="int8")


def test_int8_with_the_table_of_another_graph(plain):
    model = load_model_file(plain)
    table = msgspec.structs.replace(make_table(model), graph="sha256:" + "2" * 64)
    with pytest.raises(DigestError, match="was calibrated for graph sha256:222") as caught:
        open_engine(parse_model_file(with_calibration(model, table), "m"), NAME, INT8)
    assert caught.value.exit_code == 7


def test_int8_without_choices_for_this_backend(plain):
    model = load_model_file(plain)
    table = make_table(model)
    del table.placements[NAME]
    with pytest.raises(ModelFileError, match="has no INT8 choices for onnxruntime"):
        open_engine(parse_model_file(with_calibration(model, table), "m"), NAME, INT8)


def test_int8_that_left_every_layer_in_fp32_works_and_says_so(plain):
    model = load_model_file(plain)
    nothing = parse_model_file(with_calibration(model, make_table(model, int8=[])), "m")
    engine = open_engine(nothing, NAME, INT8)
    assert engine.info.notes == ("no layer of m runs in INT8: its calibration left all of them in FP32",)
    wanted, scale = model.golden.logits, model.golden.logit_scale
    np.testing.assert_allclose(engine.infer(model.golden.x), wanted, rtol=0, atol=1e-5 * scale)


def test_fp16_is_for_gpus(path):
    text = "precision 'fp16': is not available on onnxruntime; a CPU computes in float32.*TensorRT runs fp16 on a GPU"
    with pytest.raises(UnavailableError, match=text):
        load_engine(path, precision="fp16")


@pytest.mark.parametrize("saturates", [True, False])
def test_sums_in_16_bits_are_avoided_where_they_are(path, monkeypatch, saturates):
    """Set always it would cost newer releases the speed of VNNI."""
    monkeypatch.setattr(engine_onnxruntime, "int8_saturates", lambda: saturates)
    model = load_model_file(path)
    found = engine_onnxruntime.session(model.data, "m").get_session_options()
    key = "session.x64quantprecision"
    if saturates:
        assert found.get_session_config_entry(key) == "1"
    else:
        with pytest.raises(RuntimeError, match=key):
            found.get_session_config_entry(key)
    logits = open_engine(model, NAME, INT8).infer(model.golden.x)
    wanted = outputs_in_float(model, INT8, model.golden.x)[0]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-2 * model.golden.logit_scale)


# ------------------------------------------------------------------ the store


def test_what_the_store_remembers_is_used(path, store):
    remember(path, "taps")
    remember(path, "folded", INT8)
    assert load_engine(path).info.attention == "taps"
    assert load_engine(path, precision="int8").info.attention == "folded"
    # Something else was asked for.
    assert load_engine(path, threads=2).info.attention == "reference"
    assert load_engine(path, attention="gemm").info.attention == "gemm"


def test_a_new_calibration_forgets_what_was_measured_with_the_old(path, store):
    remember(path, "folded", INT8)
    model = load_model_file(path)
    other = parse_model_file(with_calibration(model, make_table(model, shrink=0.99)), "m")
    assert open_engine(other, NAME, INT8).info.attention == "gemm"
    assert open_engine(model, NAME, INT8).info.attention == "folded"


def test_a_broken_manifest_is_noted_and_the_usual_form_runs(path, store):
    remember(path, "taps").write_text("{")
    info = load_engine(path).info
    assert info.attention == "reference"
    assert "nothing of it is used: build again with --retune" in info.notes[0]


def test_a_store_that_others_can_write_is_refused(path, store):
    remember(path, "taps")
    store.chmod(0o777)
    with pytest.raises(UnavailableError, match="others can write"):
        load_engine(path)


def test_opening_makes_no_folder(path, store):
    load_engine(path)
    load_engine(path, precision="int8")
    assert not store.exists()
