"""Lowering as a whole: every form for every target is the source network, and what can't be lowered says why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sattn_edge.calibration_table import Agreement, LayerChoice, Placement
from sattn_edge.errors import ModelFileError, UsageError
from sattn_edge.lowering import FORMS, PRECISIONS, Target, check_target, float32, lower, pass_list
from tests.helpers_lowering import Layer, Network, assert_exact, build, evaluate, networks, operators, windows

NONE = Agreement(0, 0, 0.0, 0.0, 0.0)
TARGETS = [Target(backend, form) for backend in PRECISIONS for form in FORMS]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.backend}-{t.attention}")
@given(network=networks())
def test_every_form_computes_the_source_network(target, network):
    model = build(network)
    before = model.SerializeToString(deterministic=True)
    lowered = lower(model, target).model
    assert model.SerializeToString(deterministic=True) == before
    assert not lowered.functions
    assert {n.domain for n in lowered.graph.node} <= {""}
    assert_exact(model, lowered, windows(network, 1))


@given(network=networks(max_depth=3), factors=st.integers(0, 1000))
def test_equalised_maps_are_exact_in_every_form(network, factors):
    rng = np.random.default_rng(factors)
    layers = tuple(
        LayerChoice(f"conv{i + 1}", True, factors=tuple(10 ** rng.uniform(-1, 1, size=layer.width)))
        for i, layer in enumerate(network.layers[:-1])
        if layer.norm
    )
    placement = Placement("onnxruntime", "u8", layers, NONE, NONE, True)
    model = build(network)
    for form in FORMS:
        steps = pass_list(Target("onnxruntime", form, "int8", placement=placement))
        quantize = next(i for i, step in enumerate(steps) if step.name.startswith("quantize"))
        lowered = lower(model, Target("onnxruntime", form, "int8", placement=placement), stop_after=quantize)
        assert_exact(model, lowered.model, windows(network, 1))


@pytest.mark.parametrize("form", FORMS)
def test_batch_is_free_on_onnxruntime_and_one_on_tensorrt(form):
    model = build(Network())
    x = windows(Network(), 3)
    free = lower(model, Target("onnxruntime", form)).model
    assert np.abs(evaluate(free, x) - evaluate(model, x)).max() < 1e-12
    fixed = lower(model, Target("tensorrt", form)).model
    assert fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    three = lower(model, Target("tensorrt", form, batch=3)).model
    assert three.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert np.abs(evaluate(three, x) - evaluate(model, x)).max() < 1e-12


def test_every_shape_but_the_batch_is_known_afterwards():
    for target in TARGETS:
        lowered = lower(build(Network(), np.float32), target).model
        onnx.checker.check_model(lowered, full_check=True)


def test_a_form_that_does_not_apply_leaves_the_block_and_says_why():
    network = Network((Layer(4, pooling="max"), Layer(5)))
    lowered = lower(build(network), Target("onnxruntime", "folded"))
    assert "ReduceMax" in operators(lowered.model)
    misses = [miss for report in lowered.reports for miss in report.near_misses]
    assert "att0" in {miss.node for miss in misses}
    assert_exact(build(network), lowered.model, windows(network))


def test_stopping_after_a_pass_leaves_the_rest_undone():
    lowered = lower(build(Network()), Target("tensorrt", "taps"), stop_after=1)
    assert [report.name for report in lowered.reports] == ["taps"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target("tflite"), "target: got 'tflite'"),  # type: ignore[arg-type]
        (Target("onnxruntime", precision="fp16"), "precision: got 'fp16' for onnxruntime"),
        (Target("onnxruntime", "gem"), "did you mean 'gemm'"),
        (Target("tensorrt", batch=0), "batch: got 0"),
        (Target("tensorrt", precision="int8"), "needs the choices of a calibration"),
    ],
)
def test_what_no_target_can_be_is_refused(target, words):
    with pytest.raises(UsageError, match=words):
        check_target(target)


def test_the_fp32_twin_of_a_target_has_no_precision():
    placement = Placement("onnxruntime", "u8", (), NONE, NONE, True)
    assert float32(Target("onnxruntime", "gemm", "int8", 2, placement)) == Target("onnxruntime", "gemm", "fp32", 2)


def test_choices_of_another_graph_are_refused():
    for layer, factors, words in (
        ("conv1", (1.0, 2.0), "there are 2 factors"),
        ("conv0", (1.0,), "comes from Div, not from Relu"),
    ):
        placement = Placement("onnxruntime", "u8", (LayerChoice(layer, True, factors=factors),), NONE, NONE, True)
        with pytest.raises(ModelFileError, match=f"'{layer}' can't be equalised .*{words}"):
            lower(build(Network()), Target("onnxruntime", precision="int8", placement=placement))
