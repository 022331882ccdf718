"""`--precision best`: times are given, and what is kept follows by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sattn_edge.engine import load_engine
from sattn_runtime.tensorrt import choose
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one, candidate, fake, save

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def data(tmp_path: Path) -> str:
    x = np.random.default_rng(1).normal(size=(60, 32, 3)).astype(np.float32)
    np.savez(tmp_path / "windows.npz", x=x)
    return str(tmp_path / "windows.npz")


COSTS = [["quantize", 75.0], ["half", 60.0], ["sigmoid", 90.0]]  # INT8, then FP16, then FP32, by names of their nodes


def test_fp16_that_beats_int8_is_kept_and_said_so(path, monkeypatch, clock, data):
    fake(monkeypatch, costs_us=COSTS)
    built = build_one(path, "best", attention="auto", data=data, budget=100.0)
    assert built.manifest.precision == "fp16"
    assert built.manifest.reason == (
        "FP16 beats INT8 here: fp16 within the budget, 0.67 of fp32's time, 0.80 of int8's time"
    )
    assert {c.precision for c in built.manifest.candidates} == {"fp32", "fp16", "int8"}
    assert sum(c.agreement is not None for c in built.manifest.candidates) == 3
    engine = load_engine(path, "tensorrt", "best")
    assert engine.info.precision == "fp16"
    engine.close()


def test_int8_where_it_is_fastest(path, monkeypatch, clock, data):
    fake(monkeypatch, costs_us=[["quantize", 50.0], *COSTS[1:]])
    built = build_one(path, "best", data=data, budget=100.0)
    assert built.manifest.precision == "int8"
    assert built.manifest.reason == "int8 within the budget, 0.56 of fp32's time, 0.83 of fp16's time"


def test_a_lower_precision_that_is_no_faster_is_not_kept(path, monkeypatch, clock, data):
    fake(monkeypatch, costs_us=[["quantize", 89.0], ["half", 88.0], ["sigmoid", 90.0]])
    assert build_one(path, "best", data=data, budget=100.0).manifest.precision == "fp32"


def test_a_precision_over_the_budget_is_left_out_however_fast(path, monkeypatch, clock, data):
    """INT8 gives every window another label: its logits are those of other classes."""
    fake(monkeypatch, costs_us=[["quantize", 10.0], *COSTS[1:]])
    logits = choose.logits_of

    def rolled(tried, x):
        return np.roll(logits(tried, x), int(tried.candidate.precision == "int8"), axis=1)

    monkeypatch.setattr(choose, "logits_of", rolled)
    built = build_one(path, "best", data=data, budget=0.5)
    assert built.manifest.precision == "fp16"
    assert candidate(built, "gemm", "int8").left_out == "over the budget"
    assert "int8's time (over the budget: 100 % of the labels differ" in built.manifest.reason


def test_other_windows_or_another_budget_are_measured_anew(path, monkeypatch, clock, data, tmp_path):
    fake(monkeypatch)
    build_one(path, "best", data=data, budget=100.0)
    assert build_one(path, "best", data=data, budget=100.0).remembered
    other = build_one(path, "best", data=data, budget=50.0)
    assert not other.remembered
    assert any("other windows or by another budget" in note for note in other.notes)
    x = np.random.default_rng(2).normal(size=(40, 32, 3)).astype(np.float32)
    np.savez(tmp_path / "other.npz", x=x)
    assert not build_one(path, "best", data=str(tmp_path / "other.npz"), budget=50.0).remembered


def test_best_without_a_calibration_table_leaves_int8_out_and_says_so(monkeypatch, clock, data, tmp_path):
    fake(monkeypatch)
    built = build_one(save(tmp_path, calibrated=False), "best", data=data)
    assert {c.precision for c in built.manifest.candidates} == {"fp32", "fp16"}
    assert any("int8 was not tried" in note for note in built.notes)
