"""Gates as an output: what is written, and that every form for every target gives the same gates and logits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from onnx import ModelProto, helper, inliner
from onnx.reference import ReferenceEvaluator

from sattn_edge.attention import DOMAIN
from sattn_edge.calibration_table import Agreement, LayerChoice, Placement
from sattn_edge.engine_onnxruntime import run_outputs
from sattn_edge.gate_operators import OPERATORS
from sattn_edge.half_emulator import emulate
from sattn_edge.lowering import FORMS, PRECISIONS, Target, lower
from sattn_edge.passes.expose_gates import ExposeGates, layout_of
from sattn_edge.passes.inline import InlineFunctions
from tests.helpers_lowering import EXACT, Layer, Network, build, evaluate, networks, operators, rewrite, windows

TARGETS = [Target(backend, form) for backend in PRECISIONS for form in FORMS]
MIXED = Network(
    (Layer(4), Layer(6, pooling="max", attention=5), Layer(5, pooling="mean+max", norm=False), Layer(4, attention_m=3)),
    series=40,
)
NONE = Agreement(0, 0, 0.0, 0.0, 0.0)


def exposed(network: Network, dtype: type[np.floating] = np.float64) -> ModelProto:
    model, (report,) = rewrite(build(network, dtype), ExposeGates())
    assert report.changed == len(network.layers)
    assert report.near_misses == ()
    return model


def outputs(model: ModelProto, x: np.ndarray) -> list[np.ndarray]:
    return ReferenceEvaluator(model).run(None, {"window": x})


def gates_by_hand(network: Network, x: np.ndarray) -> np.ndarray:
    """The gates of a network without any of this: its functions opened, its sigmoids' values one behind another."""
    flat = inliner.inline_local_functions(build(network))
    names = [node.output[0] for node in flat.graph.node if node.op_type == "Sigmoid"]
    flat.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, None) for n in names)
    values = ReferenceEvaluator(flat).run(names, {"window": x})
    return np.concatenate([value.reshape(len(x), -1) for value in values], axis=1)


def assert_same(found: list[np.ndarray], wanted: list[np.ndarray], bound: float) -> None:
    """Logits within a bound of their scale (at least 1), gates of 1."""
    assert [a.shape for a in found] == [b.shape for b in wanted]
    assert np.abs(found[0] - wanted[0]).max() <= bound * max(1.0, np.abs(wanted[0]).max())
    assert np.abs(found[1] - wanted[1]).max() <= bound


class TestWhatIsWritten:
    def test_calls_give_their_gates_and_nothing_else_changes(self) -> None:
        before = build(MIXED)
        after = exposed(MIXED)
        calls = [n for n in after.graph.node if n.domain == DOMAIN]
        wanted = ["SpatialAttention", "SpatialAttentionMax", "SpatialAttentionMeanMax", "SpatialAttention"]
        assert [n.op_type for n in calls] == [f"{name}WithGate" for name in wanted]
        assert {f.name for f in after.functions} == {n.op_type for n in calls}
        assert [o.name for o in after.graph.output] == ["logits", "attention"]
        assert after.graph.output[0] == before.graph.output[0]
        kept = len(before.graph.node)
        for old, new in zip(before.graph.node, list(after.graph.node)[:kept], strict=True):
            assert list(new.input) == list(old.input)
            assert new.output[0] == old.output[0]
        assert operators(after)[kept:] == [*["Reshape"] * 4, "Concat"]
        assert set(operators(after)) - {n.op_type for n in calls} <= OPERATORS

    def test_the_gates_are_those_that_multiply_the_maps(self) -> None:
        x = windows(MIXED, 3)
        logits, gates = outputs(exposed(MIXED), x)
        np.testing.assert_array_equal(logits, evaluate(build(MIXED), x))
        np.testing.assert_array_equal(gates, gates_by_hand(MIXED, x))
        assert gates.min() > 0
        assert gates.max() < 1

    def test_the_layout_says_where_each_gate_lies(self) -> None:
        layout = layout_of(exposed(MIXED))
        assert [(b.name, b.steps, b.modal) for b in layout.blocks] == [
            ("att0", 20, 3),
            ("att1", 10, 3),
            ("att2", 5, 3),
            ("att3", 3, 3),
        ]
        assert [(b.first_sample, b.samples_per_step) for b in layout.blocks] == [(0, 2), (0, 4), (0, 8), (0, 16)]
        assert layout.values == 3 * 38

    def test_one_block_needs_nothing_to_join(self) -> None:
        network = Network((Layer(4),))
        model = exposed(network)
        assert operators(model)[-1] == "Reshape"
        np.testing.assert_array_equal(outputs(model, windows(network))[1], gates_by_hand(network, windows(network)))

    def test_a_value_of_that_name_makes_room(self) -> None:
        network = Network()
        model = build(network)
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = ["attention" if name == "r0" else name for name in names]
        after, _ = rewrite(model, ExposeGates())
        assert_same(outputs(after, windows(network)), outputs(exposed(network), windows(network)), 0.0)

    def test_time_that_can_t_be_followed_is_spread_evenly(self) -> None:
        model = build(Network((Layer(4), Layer(4))))
        for node in model.graph.node:
            if node.name == "relu0":
                node.CopyFrom(helper.make_node("Transpose", [node.input[0]], list(node.output), perm=[0, 1, 2, 3]))
        first, second = layout_of(rewrite(model, ExposeGates())[0]).blocks
        assert (first.first_sample, first.samples_per_step) == (0.0, 2.0)
        assert (second.first_sample, second.samples_per_step) == (1.5, 4.0)


class TestWhatIsLeftAlone:
    def test_a_model_without_blocks(self) -> None:
        model, _ = rewrite(build(Network()), InlineFunctions())
        after, (report,) = rewrite(model, ExposeGates())
        assert (report.changed, report.near_misses) == (0, ())
        assert after == model

    def test_a_model_that_gives_something_else_already(self) -> None:
        model = exposed(Network())
        after, (report,) = rewrite(model, ExposeGates())
        assert report.changed == 0
        assert report.near_misses[0].reason == "the graph has more than one output"
        assert after == model


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.backend}-{t.attention}")
@given(network=networks())
def test_every_form_gives_the_same_gates(target, network):
    model = exposed(network)
    lowered = lower(model, target)
    assert not lowered.model.functions
    assert_same(outputs(lowered.model, windows(network, 1)), outputs(model, windows(network, 1)), EXACT)
    assert not [miss for report in lowered.reports for miss in report.near_misses if "attention" in miss.node]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.backend}-{t.attention}")
def test_every_form_gives_the_gates_of_every_pooling_in_float32(target):
    model = exposed(MIXED, np.float32)
    lowered = lower(model, target).model
    onnx.checker.check_model(lowered, full_check=True)
    x = windows(MIXED, 2).astype(np.float32)
    assert_same(run_outputs(lowered, x), outputs(exposed(MIXED), x.astype(np.float64)), 1e-5)


def test_control_gates_in_another_order_are_seen():
    network = Network()
    model = exposed(network)
    wrong = ModelProto()
    wrong.CopyFrom(model)
    join = next(n for n in wrong.graph.node if n.op_type == "Concat")
    join.input[:] = join.input[::-1]
    with pytest.raises(AssertionError):
        assert_same(outputs(wrong, windows(network)), outputs(model, windows(network)), EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_in_form_gemm_and_all_others_the_gates_cost_no_product(form):
    """A gate is there anyway: reshapes and one join are all that is added."""
    plain = lower(build(MIXED, np.float32), Target("tensorrt", form)).model
    given = lower(exposed(MIXED, np.float32), Target("tensorrt", form)).model
    added = sorted(operators(given))
    for name in operators(plain):
        added.remove(name)
    assert set(added) <= {"Reshape", "Concat"}


HALF_BOUND = 2e-3
"""Of 1: a gate's logits are sums of a few values of 11 bits; 1.7e-4 was the most on six trained networks."""


@pytest.mark.parametrize("form", FORMS)
def test_float16_keeps_the_gates_in_float32(form):
    network = Network(tuple(Layer(width) for width in (8, 12, 16)), series=64)
    lowered = lower(exposed(network, np.float32), Target("tensorrt", form, "fp16", batch=4)).model
    assert [o.type.tensor_type.elem_type for o in lowered.graph.output] == [onnx.TensorProto.FLOAT] * 2
    x = windows(network, 6).astype(np.float32)
    found = emulate(lowered, x)
    wanted = outputs(exposed(network), x.astype(np.float64))
    assert found.gates is not None
    assert found.gates.shape == wanted[1].shape
    difference = np.abs(found.gates - wanted[1]).max()
    assert 1e-7 < difference < HALF_BOUND, "more than float32 alone would differ, and no more than float16"
    plain = emulate(lower(build(network, np.float32), Target("tensorrt", form, "fp16", batch=4)).model, x)
    np.testing.assert_array_equal(found.logits, plain.logits)
    assert (found.largest, found.overflow, plain.gates) == (plain.largest, (), None)


@pytest.mark.parametrize("backend", PRECISIONS)
@pytest.mark.parametrize("form", FORMS)
def test_int8_gives_the_gates_of_the_very_same_layers(backend, form):
    """The logits are those of the same choices without the output, bit for bit: calibration need not know of it."""
    network = Network(tuple(Layer(width) for width in (8, 12, 16)), series=64)
    layers = tuple(LayerChoice(f"conv{i}", True, low=0.0, high=6.0, out_low=-9.0, out_high=9.0) for i in (1, 2))
    placement = Placement(backend, "s8" if backend == "tensorrt" else "u8", layers, NONE, NONE, True)
    x = windows(network, 3).astype(np.float32)
    target = Target(backend, form, "int8", batch=3, placement=placement, typed=False)
    logits, gates = run_outputs(lower(exposed(network, np.float32), target).model, x)
    (plain,) = run_outputs(lower(build(network, np.float32), target).model, x)
    np.testing.assert_array_equal(logits, plain)
    wanted = outputs(exposed(network), x.astype(np.float64))[1]
    block = layout_of(exposed(network)).blocks[0].values
    assert np.abs(gates[:, :block] - wanted[:, :block]).max() < 1e-5, "the first block is not quantised"
    assert 1e-4 < np.abs(gates - wanted).max() < 0.2
