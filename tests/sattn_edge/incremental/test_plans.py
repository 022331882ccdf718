"""What there is for a network and a hop, what it costs, and what is said where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from sattn_edge.cost import cost
from sattn_edge.incremental import NotIncremental, plans_for, read_chain
from tests.helpers_lowering import Layer, Network, build

WIDTHS = (64, 128, 256, 512)


def reference(series: int, modal: int = 9) -> Network:
    return Network(tuple(Layer(width) for width in WIDTHS), series=series, modal=modal, classes=6)


@pytest.mark.parametrize("series", [256, 1024])
def test_a_step_costs_the_same_whatever_the_window(series):
    # By hand, hop 16: 9, 7, 5 and 4 columns of the four convolutions.
    found = plans_for(read_chain(build(reference(series))), 16)
    assert [len(stage.taps) for stage in found.plans["stateful"].stages] == [9, 7, 5, 4]
    by_hand = 9 * (9 * 64 * 3 + 7 * 128 * 192 + 5 * 256 * 384 + 4 * 512 * 768)
    assert found.plans["stateful"].multiply_adds == pytest.approx(by_hand, rel=0.01)


def test_the_whole_window_is_counted_as_inspect_counts_it():
    model = build(reference(128))
    convolutions = plans_for(read_chain(model), 16).full_multiply_adds
    assert convolutions == pytest.approx(cost(model).multiply_adds, rel=0.01)


def test_the_short_window_holds_a_head_a_group_and_a_tail():
    # 3 columns deviate at the start and 2 at the end: hop + 5 * 16 samples, and a multiple of the hop from the window.
    assert plans_for(read_chain(build(reference(1024))), 16).plans["edges"].samples == 96
    assert plans_for(read_chain(build(reference(2048))), 64).plans["edges"].samples == 192


def test_phases_of_a_hop_that_is_no_multiple_of_the_stride():
    found = plans_for(read_chain(build(reference(1024))), 24)
    assert (found.phases, found.plans["stateful"].advance) == (2, 48)


@pytest.mark.parametrize(
    ("series", "hop", "words"),
    [
        (128, 128, "windows of 128 samples every 128 do not overlap"),
        (200, 25, "only windows 400 samples apart share columns, and a window has 200"),
        (64, 16, "deviates at an end of the window: 64 is too short"),
    ],
)
def test_why_there_is_no_plan(series, hop, words):
    found = plans_for(read_chain(build(reference(series))), hop)
    assert not found.plans
    assert words in found.reasons["edges"]
    assert words in found.reasons["stateful"]


def test_why_there_are_no_edges():
    found = plans_for(read_chain(build(reference(128))), 64)
    assert set(found.plans) == {"stateful"}
    assert found.reasons["edges"] == "its short window needs 144 samples, and a window less one step of 64 has 64"


def test_what_is_global_in_time_is_named():
    model = build(Network((Layer(3), Layer(4)), series=32))
    node = next(n for n in model.graph.node if n.name == "relu0")
    node.CopyFrom(helper.make_node("Softmax", ["z0"], ["r0"], name="over_time", axis=2))
    with pytest.raises(NotIncremental, match=r"over_time \(Softmax\): Softmax is neither followed along time nor"):
        read_chain(model)


def test_what_differs_along_time_is_named():
    model = build(Network((Layer(3),), series=32, normalised=False))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 32, 1)), "ramp"))
    model.graph.node.insert(0, helper.make_node("Mul", ["window", "ramp"], ["ramped"], name="taper"))
    next(n for n in model.graph.node if n.name == "conv0").input[0] = "ramped"
    with pytest.raises(NotIncremental, match=r"taper \(Mul\): its constant of shape \[1, 1, 32, 1\] differs along"):
        read_chain(model)


def test_a_map_that_two_nodes_read_is_named():
    model = build(Network((Layer(3, norm=False),), series=32))
    node = next(n for n in model.graph.node if n.name == "relu0")
    node.output[0] = "plain"
    model.graph.node.insert(
        list(model.graph.node).index(node) + 1, helper.make_node("Add", ["plain", "g0"], ["r0"], name="residual")
    )
    with pytest.raises(NotIncremental, match="'g0': it is read by"):
        read_chain(model)


def test_a_bias_that_does_not_fit_is_named():
    model = build(Network((Layer(3),), series=32, classes=4))
    gemm = next(n for n in model.graph.node if n.op_type == "Gemm")
    bias = next(t for t in model.graph.initializer if t.name == gemm.input[2])
    bias.CopyFrom(numpy_helper.from_array(np.ones(3), bias.name))
    with pytest.raises(NotIncremental, match=r"\(Gemm\): its bias of shape \[3\] is not one number for each class"):
        read_chain(model)


def test_a_pool_that_drops_its_axis_by_an_odd_number_is_not_followed():
    model = build(Network((Layer(3),), series=32))
    pool = next(n for n in model.graph.node if n.op_type == "ReduceMean")
    next(a for a in pool.attribute if a.name == "keepdims").i = -4
    with pytest.raises(NotIncremental, match="ReduceMean is neither followed along time nor the mean over all of it"):
        read_chain(model)


@pytest.mark.parametrize("op_type", ["MaxPool", "LpPool"])
def test_a_pool_over_all_of_time_that_is_no_mean_is_not_followed(op_type):
    model = build(Network((Layer(3),), series=32, pool="AveragePool"))
    pool = next(n for n in model.graph.node if n.op_type == "AveragePool")
    read_chain(model)
    pool.op_type = op_type
    with pytest.raises(NotIncremental, match=f"{op_type} is neither followed along time nor the mean over all of it"):
        read_chain(model)
