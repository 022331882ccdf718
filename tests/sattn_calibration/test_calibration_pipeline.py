"""Calibration from end to end on a small network: the same bytes every time, nothing written on bad data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sattn_calibration.judge import Judge
from sattn_calibration.pipeline import CalibrateOptions, calibrate
from sattn_edge.calibration_table import placement_for, read_table
from sattn_edge.engine import EngineOptions, open_engine
from sattn_edge.errors import RecordingError, UsageError
from sattn_edge.lowering import Target, lower
from sattn_edge.model_file import load_model_file
from tests.helpers_data import make_contract
from tests.helpers_model import model_file
from tests.sattn_calibration.helpers_windows import walk

WINDOW, MODAL, HOP = 48, 3, 24
WIDTHS = (8, 24, 32)


def contract():
    names = tuple(f"c{i}" for i in range(MODAL))
    return make_contract(names, rate_hz=50.0, window=WINDOW, hop=HOP, labels=("a", "b", "c"))


def save_windows(path, count: int = 120, **more: np.ndarray) -> str:
    """Windows of a smooth signal of two subjects, one behind the other."""
    signal = np.concatenate([walk(HOP * (count // 2 - 1) + WINDOW, MODAL, seed) for seed in (3, 4)])
    half = HOP * (count // 2 - 1) + WINDOW
    start = np.arange(count // 2) * HOP
    x = np.stack([signal[b + s : b + s + WINDOW] for b in (0, half) for s in start])
    np.savez(path, x=x, group=np.repeat(["p", "q"], count // 2), start=np.tile(start, 2), **more)
    return str(path)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(model_file(contract(), widths=WIDTHS))
    return path


@pytest.mark.parametrize("method", ["auto", "minmax"])
def test_same_data_same_file_byte_for_byte(model, tmp_path, method):
    data = save_windows(tmp_path / "windows.npz")
    files = []
    for name in ("one", "two"):
        same = Path(data).rename(tmp_path / f"{name}.npz")
        data = str(same)
        calibrate(CalibrateOptions(model, data, method, output=tmp_path / f"{name}.onnx"))
        files.append((tmp_path / f"{name}.onnx").read_bytes())
    assert files[0] == files[1]


def test_the_table_says_what_it_was_made_of_and_the_graph_stays(model, tmp_path):
    before = load_model_file(model)
    data = save_windows(tmp_path / "windows.npz")
    result = calibrate(CalibrateOptions(model, data))
    after = load_model_file(model)
    assert after.graph_digest == before.graph_digest
    assert after.graph_unchanged == before.graph_unchanged
    assert np.array_equal(after.golden.x, before.golden.x)
    table = read_table(after.calibration, after.name, after.graph_digest)
    assert table == result.table
    assert (table.data, table.windows) == (result.windows.digest, 120)
    assert set(table.placements) == {"onnxruntime", "tensorrt"}
    kept = {c.layer: c.reason for c in table.placements["onnxruntime"].layers if not c.int8}
    assert "its sums have 3 terms" in kept["block0.conv"] or "multiply-adds" in kept["block0.conv"]
    observed = {v.name: v for v in table.values}
    for product in result.products:
        weights = next(w for w in table.weights if w.layer == product.name)
        assert np.allclose(weights.maximum, product.weight_maximum, rtol=1e-6)
        for bounds in observed[product.input].u8.values():
            assert bounds[0] <= 0 <= bounds[1]
        for low, high in observed[product.input].s8.values():
            assert low == -high


def test_other_data_another_table(model, tmp_path):
    first = calibrate(CalibrateOptions(model, save_windows(tmp_path / "a.npz"), "minmax", output=tmp_path / "a.onnx"))
    second = calibrate(
        CalibrateOptions(model, save_windows(tmp_path / "b.npz", 100), "minmax", output=tmp_path / "b.onnx")
    )
    assert first.table.data != second.table.data
    assert [v.histogram for v in first.table.values] != [v.histogram for v in second.table.values]


def test_int8_of_the_calibrated_file_is_what_was_judged(model, tmp_path):
    data = save_windows(tmp_path / "windows.npz")
    result = calibrate(CalibrateOptions(model, data))
    file = load_model_file(model)
    x = result.windows.x
    logits = open_engine(file, "onnxruntime", EngineOptions("int8")).infer(x)
    fp32 = open_engine(file, "onnxruntime", EngineOptions("fp32")).infer(x)
    scale = np.abs(fp32).max()
    placement = placement_for(read_table(file.calibration, file.name, file.graph_digest), "onnxruntime", file.name)
    rms = np.sqrt(np.mean(((logits - fp32) / scale) ** 2))
    assert rms == pytest.approx(placement.final.rms, rel=1e-2)
    assert (logits.argmax(1) != fp32.argmax(1)).sum() == placement.final.flips
    assert 0 < rms < 0.02


def test_agreement_is_counted_from_the_logits(model, tmp_path):
    file = load_model_file(model)
    result = calibrate(CalibrateOptions(model, save_windows(tmp_path / "windows.npz"), "minmax"))
    judge = Judge(file.proto, result.windows.x)
    placement = result.table.placements["tensorrt"]
    found = judge.judge(placement)
    lowered = lower(file.proto, Target("tensorrt", None, "int8", batch=16, placement=placement, typed=False))
    assert lowered.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 16
    largest = np.abs(found.logits - judge.reference).max() / judge.scale
    assert found.agreement.largest == pytest.approx(largest, rel=1e-4)
    assert found.agreement.flips == int((found.logits.argmax(1) != judge.reference.argmax(1)).sum())
    assert len(judge) == found.agreement.windows == 120


def test_a_budget_of_nothing_keeps_layers_until_no_label_differs(model, tmp_path):
    result = calibrate(CalibrateOptions(model, save_windows(tmp_path / "windows.npz"), budget=0.0))
    for placement in result.table.placements.values():
        assert placement.met_budget
        assert placement.judged.flips == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: np.zeros_like(x), "zero"),
        (lambda x: np.repeat(x[:1], len(x), axis=0), "window"),
        (lambda x: np.where(np.arange(WINDOW)[:, None] == 5, np.nan, x), "not finite"),
        (lambda x: x[:9], "9 windows"),
        (lambda x: np.random.default_rng(0).random(x.shape), "looks like random numbers"),
        (lambda x: x[:, :-1], "47 samples"),
    ],
    ids=["zero", "repeated", "nan", "few", "random", "shape"],
)
def test_bad_data_is_refused_and_nothing_is_written(model, tmp_path, change, words):
    save_windows(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as good:
        np.savez(tmp_path / "bad.npz", x=change(good["x"]).astype(np.float32))
    before = model.read_bytes()
    with pytest.raises(RecordingError, match=words) as found:
        calibrate(CalibrateOptions(model, str(tmp_path / "bad.npz")))
    assert found.value.exit_code == 3
    assert model.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.npz", "good.npz", "small.onnx"]


@pytest.mark.parametrize("budget", [-1.0, 101.0, float("nan")])
def test_a_budget_is_a_percentage(model, tmp_path, budget):
    with pytest.raises(UsageError, match="percentage points from 0 to 100"):
        calibrate(CalibrateOptions(model, save_windows(tmp_path / "windows.npz"), budget=budget))


def test_a_file_that_gives_its_attention_gets_the_same_choices(model, tmp_path):
    data = save_windows(tmp_path / "windows.npz")
    plain = calibrate(CalibrateOptions(model, data)).table
    attentive = tmp_path / "attentive.onnx"
    attentive.write_bytes(model_file(contract(), widths=WIDTHS, attention=True))
    table = calibrate(CalibrateOptions(attentive, data)).table
    assert table.graph != plain.graph
    assert (table.placements, table.values, table.weights) == (plain.placements, plain.values, plain.weights)
    found = load_model_file(attentive)
    assert found.attention is not None
    engine = open_engine(found, "onnxruntime", EngineOptions("int8"))
    assert engine.infer_attention(found.golden.x, [0, 0, 0])[1].shape == (len(found.golden.x), engine.gates.values)
