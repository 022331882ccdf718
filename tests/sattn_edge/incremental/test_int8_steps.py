"""INT8 steps: the calibration of the whole window serves them, and they give its labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sattn_edge.calibration_table import placement_of
from sattn_edge.engine import EngineOptions
from sattn_edge.engine_onnxruntime import run_graph
from sattn_edge.graph import Graph
from sattn_edge.incremental.engine import StepEngine, open_steps
from sattn_edge.incremental.lower_step import lower_step
from sattn_edge.lowering import Target, lower
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_edge.plan_names import PLANS
from sattn_edge.recording import open_recordings
from sattn_runtime.incremental import Incremental
from tests.helpers_calibration import calibrate_by_hand, make_table
from tests.helpers_data import WATCH_TINY
from tests.helpers_model import save_watch_model, session_of

HOP = 8
TIES = 0.1  # of what INT8 differs from FP32
CHOSEN = ("block1.conv", "block2.conv")  # as a calibration chooses: neither the first one nor the classifier


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return load_model_file(
        calibrate_by_hand(save_watch_model(tmp_path_factory.mktemp("int8"), widths=(8, 16, 24)), int8=CHOSEN)
    )


@pytest.fixture(scope="module")
def signal(model: ModelFile) -> np.ndarray:
    return next(iter(open_recordings(str(WATCH_TINY), model.contract))).samples


def target(model: ModelFile) -> Target:
    return Target("onnxruntime", "gemm", "int8", placement=placement_of(model, "onnxruntime"))


def by_steps(steps: StepEngine, signal: np.ndarray, window: int) -> np.ndarray:
    stream, stamps = Incremental(steps, HOP), [0, 0, 0]
    ends = range(window, len(signal) + 1, HOP)
    return np.array([stream.infer(signal[end - window : end], stamps).copy() for end in ends])


@pytest.mark.parametrize("plan", PLANS)
def test_a_recording_gets_the_labels_of_whole_windows_in_int8(model, signal, plan):
    window = model.contract.window
    views = np.lib.stride_tricks.sliding_window_view(signal, window, axis=0)[::HOP].transpose(0, 2, 1)[:, None]
    whole = run_graph(lower(model.proto, target(model)).model, np.ascontiguousarray(views), optimise=True)
    got = by_steps(open_steps(model, plan, HOP, "onnxruntime", EngineOptions("int8")), signal, window)
    assert len(got) == len(whole) > 1000
    assert (got.argmax(1) == whole.argmax(1)).mean() >= 0.999
    # A tie that is rounded the other way moves a value by one level of 255; it is INT8 they share, not FP32's values.
    fp32 = by_steps(open_steps(model, plan, HOP, "onnxruntime", EngineOptions()), signal, window)
    assert np.abs(got - whole).max() <= TIES * np.abs(fp32 - whole).max()


def test_wrong_ranges_are_seen(model, signal, monkeypatch):
    """The check can fail: with ranges that are a tenth too narrow steps miss whole windows by more."""
    window, table = model.contract.window, make_table(model, shrink=0.9, int8=CHOSEN)
    right, float32 = (
        by_steps(open_steps(model, "stateful", HOP, "onnxruntime", EngineOptions(precision)), signal[:2000], window)
        for precision in ("int8", "fp32")
    )
    monkeypatch.setattr("sattn_edge.incremental.engine.placement_of", lambda *_: table.placements["onnxruntime"])
    narrow = by_steps(open_steps(model, "stateful", HOP, "onnxruntime", EngineOptions("int8")), signal[:2000], window)
    assert np.abs(narrow - right).max() > TIES * np.abs(float32 - right).max()


def test_states_of_int8_products_are_bytes_that_begin_with_zero(model):
    step = lower_step(model.proto, HOP, "stateful", target(model))
    graph = Graph(step.model)
    kept = {state.name: state.begin for state in step.states}
    # Of the first convolution, which stays in float32, and of what the gates read: numbers.
    assert kept["block1.conv.source.state"].dtype == kept["block2.conv.source.state"].dtype == np.uint8
    assert kept["block0.conv.source.state"].dtype == kept["block1.conv.mapped.state"].dtype == np.float32
    for name, begin in kept.items():
        if begin.dtype == np.uint8:
            (join,) = graph.consumers[name]
            zero = graph.constant(graph.producers[join.input[1]].input[2])
            assert (begin == zero).all()


def test_a_layer_that_stays_in_float_keeps_numbers(tmp_path: Path):
    path = calibrate_by_hand(save_watch_model(tmp_path, widths=(8, 16, 24)), int8=["block2.conv"])
    model = load_model_file(path)
    states = {s.name: s.begin.dtype for s in lower_step(model.proto, HOP, "stateful", target(model)).states}
    assert states["block1.conv.source.state"] == np.float32
    assert states["block2.conv.source.state"] == np.uint8


def test_factors_of_a_calibration_reach_the_steps(model, signal):
    """Maps are evened out in the steps too: with factors logits stay those of the whole window with factors."""
    placement = placement_of(model, "onnxruntime")
    factors = tuple(float(f) for f in np.geomspace(0.5, 2, 16))
    # The last one reads 16 maps; its range has to hold what is divided.
    layers = tuple(
        row if row.layer != CHOSEN[1] else msgspec.structs.replace(row, high=2 * row.high, factors=factors)
        for row in placement.layers
    )
    placed = replace(target(model), placement=msgspec.structs.replace(placement, layers=layers))
    step = lower_step(model.proto, HOP, "stateful", placed)
    whole = lower(model.proto, placed).model
    names, run = [row.name for row in step.model.graph.input], session_of(step.model.SerializeToString())
    plain = lower_step(model.proto, HOP, "stateful", replace(placed, precision="fp32", placement=None))
    without = session_of(plain.model.SerializeToString())
    window, states, floats = model.contract.window, *([s.begin for s in made.states] for made in (step, plain))
    away, differs = [], []
    for end in range(HOP, 2000, HOP):
        x = signal[None, None, end - HOP : end]
        logits, *states = run.run(None, dict(zip(names, [x, *states], strict=True)))
        float32, *floats = without.run(None, dict(zip(names, [x, *floats], strict=True)))
        if end >= window:
            wanted = run_graph(whole, signal[None, None, end - window : end], optimise=True)
            away.append(np.abs(logits - wanted).max())
            differs.append(np.abs(float32 - wanted).max())
    assert max(away) <= TIES * max(differs)
