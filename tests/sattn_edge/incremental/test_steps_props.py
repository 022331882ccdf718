"""Whatever the network, the hop and the phase: every window's logits by steps are those of the whole window."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from sattn_edge.incremental import Plan, plans_for, read_chain, step_graph, write_step
from sattn_edge.plan_names import PLANS
from tests.helpers_lowering import EXACT, Layer, Network, build, networks
from tests.helpers_steps import evaluator, step_over

RELAXED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


def largest_difference(network: Network, plan: Plan, *, streams: int = 1, windows: int = 3) -> float:
    """Of the logit scale, over some windows of every phase."""
    model, hop = build(network), plan.advance // plan.phases
    step = write_step(model, plan, streams)
    onnx.checker.check_model(step.model, full_check=True)
    assert sum(state.begin.size for state in step.states) == streams * plan.state_values
    length = network.series + (windows - 1) * plan.advance + plan.phases * hop
    signal = np.random.default_rng(network.seed + 1).normal(size=(streams, length, network.modal))
    whole, steps = evaluator(model), evaluator(step.model)
    seen, worst = 0, 0.0
    for phase in range(plan.phases):
        for first, logits in step_over(step, signal, phase, hop, steps):
            (wanted,) = whole({"window": signal[:, None, first : first + network.series]})
            worst = max(worst, np.abs(logits - wanted).max() / max(1.0, np.abs(wanted).max()))
            seen += 1
    assert seen >= windows * plan.phases
    return float(worst)


@pytest.mark.parametrize("name", PLANS)
@RELAXED
@given(network=networks(max_depth=4), hop=st.integers(1, 16), longer=st.integers(0, 80), streams=st.integers(1, 2))
def test_steps_are_exact(name, network, hop, longer, streams):
    network = replace(network, series=network.series + longer)
    plan = plans_for(read_chain(build(network)), hop).plans.get(name)
    assume(plan is not None)
    assert largest_difference(network, plan, streams=streams) <= EXACT


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("hop", [16, 32, 48, 24])
@pytest.mark.parametrize("series", [256, 200, 203])
def test_lengths_and_hops_that_do_not_divide(name, series, hop):
    network = Network(tuple(Layer(n) for n in (3, 4, 5, 6)), series=series, modal=2)
    found = plans_for(read_chain(build(network)), hop)
    assert found.phases == (2 if hop == 24 else 1)
    if name not in found.plans:
        pytest.skip(found.reasons[name])
    assert largest_difference(network, found.plans[name]) <= EXACT


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("bands", [(1 << 14, 1 << 18), (0, 1 << 18), (0, 0)], ids=["band", "by time", "gathered"])
@pytest.mark.parametrize(
    "layer",
    [
        Layer(4, attention_m=3),
        Layer(4, attention_m=2, attention=5, pooling="mean+max"),
        Layer(4, pooling="max", norm=False),
        Layer(4, attention=1),
    ],
    ids=["gate over both axes", "both axes and poolings", "maximum alone", "gate without time"],
)
def test_gates_of_every_kind(name, layer, bands, streams, monkeypatch):
    monkeypatch.setattr(step_graph, "_LARGE_BAND", bands[0])
    monkeypatch.setattr(step_graph, "_LARGEST_BAND", bands[1])
    network = Network((layer, Layer(3)), series=64, modal=4, zero_scales=1)
    plan = plans_for(read_chain(build(network)), 8).plans[name]
    assert largest_difference(network, plan, streams=streams) <= EXACT


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("hop", [2, 4, 10])
def test_columns_that_see_padding_alone(name, hop):
    """They could be had before the signal begins, when no step is taken yet."""
    network = Network((Layer(3, stride=1, pad=6), Layer(4, kernel=2, pad=4)), series=40, modal=2)
    plan = plans_for(read_chain(build(network)), hop).plans[name]
    assert largest_difference(network, plan) <= EXACT


def with_numbers_in_nodes(model: onnx.ModelProto) -> None:
    """A Clip whose bounds, and an addition to the logits whose operand, are Constant nodes."""
    nodes = model.graph.node
    relu = next(node for node in nodes if node.op_type == "Relu")
    relu.op_type = "Clip"
    relu.input.extend(["low", "high"])
    nodes[-1].output[0] = "plain"
    nodes.append(helper.make_node("Add", ["plain", "offset"], ["logits"], "add offset"))
    for name, value in (("low", -0.5), ("high", 0.5), ("offset", 3.0)):
        number = numpy_helper.from_array(np.array(value))
        nodes.insert(0, helper.make_node("Constant", [], [name], f"make {name}", value=number))


def with_numbers_computed(model: onnx.ModelProto) -> None:
    """An addition to the logits whose operand is made by nodes of its own."""
    nodes = model.graph.node
    nodes[-1].output[0] = "plain"
    nodes.append(helper.make_node("Add", ["plain", "offset"], ["logits"], "add offset"))
    nodes.insert(0, helper.make_node("Exp", ["exponent"], ["offset"], "make offset"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.5]), "exponent"))


def with_names_of_ours(model: onnx.ModelProto) -> None:
    """Nodes and a number that are called what a step calls its own."""
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.name = "sum"
    relu.op_type = "Mul"
    relu.input.append("samples")
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.7), "samples"))


def without_names(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize(
    "change",
    [with_numbers_in_nodes, with_numbers_computed, with_names_of_ours, without_names],
    ids=lambda c: c.__name__,
)
def test_graphs_written_in_other_ways(name, change, monkeypatch):
    network = Network((Layer(3), Layer(4)), series=64, modal=2)
    model = build(network)
    change(model)
    onnx.checker.check_model(model, full_check=True)
    monkeypatch.setattr(f"{__name__}.build", lambda _: model)
    step = write_step(model, plans_for(read_chain(model), 8).plans[name])
    names = [node.name for node in step.model.graph.node if node.name]
    assert len(set(names)) == len(names)  # or ONNX Runtime refuses it
    assert largest_difference(network, step.plan) <= EXACT


def test_a_column_too_few_is_seen():
    """The check can fail: a plan that takes one deviating column for a steady one gives other logits."""
    network = Network((Layer(3), Layer(4)), series=64, modal=2)
    plan = plans_for(read_chain(build(network)), 8).plans["edges"]
    groups = plan.sums.groups.copy()
    row = int(np.flatnonzero(groups[0])[0])
    groups[0, row], groups[-1, row] = 0.0, 1.0
    assert largest_difference(network, replace(plan, sums=replace(plan.sums, groups=groups))) > 1e-3


@pytest.mark.parametrize("name", PLANS)
def test_a_step_of_many_columns_does_not_grow_with_their_square(name):
    """2048 new columns of the first map, whose gate as a matrix would be 4 million numbers."""
    model = build(Network((Layer(2), Layer(2, attention_m=3)), series=16384, modal=2))
    step = write_step(model, plans_for(read_chain(model), 4096).plans[name])
    assert max(math.prod(tensor.dims) for tensor in step.model.graph.initializer) < 500_000
