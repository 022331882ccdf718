"""Positions against what can be seen from outside: which samples of the window a step of a map depends on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sattn_edge.graph import Graph
from sattn_edge.receptive_field import Position, positions, spread_evenly
from tests.helpers_lowering import Layer, Network, build

SERIES = 128
EDGE = 20  # samples: more than lie between two neighbours that a step reads, so a step further in reads no padding
Windowed = tuple[str, int, int, int, int]  # operator, kernel, stride, padding in front, dilation


def chain(layers: list[Windowed]) -> ModelProto:
    """Layers one behind another on [128, 1, 128, 1], weights of one; the value behind layer i is `v{i + 1}`."""
    nodes, arrays, length = [], {}, SERIES
    for i, (op, kernel, stride, pad, dilation) in enumerate(layers):
        window = {"kernel_shape": [kernel, 1], "strides": [stride, 1], "pads": [pad, 0, 0, 0]}
        inputs = [f"v{i}"]
        if op == "Conv":
            window["dilations"] = [dilation, 1]
            arrays[f"w{i}"] = np.ones((1, 1, kernel, 1))
            inputs.append(f"w{i}")
        nodes.append(helper.make_node(op, inputs, [f"v{i + 1}"], name=f"layer{i}", **window))
        length = (length + pad - ((kernel - 1) * (dilation if op == "Conv" else 1) + 1)) // stride + 1
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("v0", TensorProto.DOUBLE, [SERIES, 1, SERIES, 1])],
        [helper.make_tensor_value_info(f"v{len(layers)}", TensorProto.DOUBLE, [SERIES, 1, length, 1])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def seen_middles(model: ModelProto) -> dict[int, float]:
    """The middle of the samples each step depends on, of the steps that read no padding."""
    impulses = np.eye(SERIES).reshape(SERIES, 1, SERIES, 1)  # window i is 1 at sample i
    made = ReferenceEvaluator(model).run(None, {"v0": impulses})[0][:, 0, :, 0]
    seen = {step: np.flatnonzero(made[:, step]) for step in range(made.shape[1])}
    return {
        step: (samples[0] + samples[-1]) / 2
        for step, samples in seen.items()
        if samples.size and samples[0] >= EDGE and samples[-1] < SERIES - EDGE
    }


@st.composite
def chains(draw: st.DrawFn) -> list[Windowed]:
    layers, length = [], SERIES
    for _ in range(draw(st.integers(1, 3))):
        op = draw(st.sampled_from(["Conv", "Conv", "AveragePool"]))
        kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        pad, dilation = draw(st.integers(0, kernel - 1)), draw(st.integers(1, 2)) if op == "Conv" else 1
        after = (length + pad - ((kernel - 1) * dilation + 1)) // stride + 1
        if after >= 8:
            layers.append((op, kernel, stride, pad, dilation))
            length = after
    return layers or [("Conv", 3, 2, 1, 1)]


@given(layers=chains())
def test_a_step_is_centred_on_the_samples_it_depends_on(layers):
    model = chain(layers)
    graph = Graph(model, shapes=True)
    found = positions(graph)[f"v{len(layers)}"]
    middles = seen_middles(model)
    assert middles
    for step, middle in middles.items():
        assert found.first + step * found.step == pytest.approx(middle)


def test_control_a_padding_more_would_be_seen():
    model = chain([("Conv", 3, 2, 1, 1)])
    right = positions(Graph(model, shapes=True))["v1"]
    wrong = positions(Graph(chain([("Conv", 3, 2, 2, 1)]), shapes=True))["v1"]
    assert (right, wrong) == (Position(0.0, 2.0), Position(-1.0, 2.0))
    assert seen_middles(model)[20] == right.first + 20 * right.step != wrong.first + 20 * wrong.step


def test_blocks_normalisation_and_activations_keep_the_time():
    network = Network((Layer(4), Layer(4, kernel=5, stride=3, pad=0), Layer(4, kernel=3, pad=1)), series=64)
    where = positions(Graph(build(network), shapes=True))
    assert where["normalised"] == Position(0.0, 1.0)
    assert where["y0"] == where["g0"] == where["z0"] == where["r0"] == Position(0.0, 2.0)
    assert where["y1"] == where["r1"] == Position(4.0, 6.0)  # 5 steps of 2 from 0: middle at 4
    assert where["y2"] == Position(4.0, 12.0)
    assert "logits" not in where
    assert "flattened" not in where


def test_what_moves_time_is_not_followed():
    model = build(Network((Layer(4), Layer(4))))
    for node in model.graph.node:
        if node.name == "relu0":
            node.CopyFrom(helper.make_node("Transpose", [node.input[0]], list(node.output), perm=[0, 1, 2, 3]))
    where = positions(Graph(model, shapes=True))
    assert "y0" in where
    assert "y1" not in where


def test_steps_spread_evenly_fill_the_window():
    at = spread_evenly(4, 32)
    assert at == Position(3.5, 8.0)
    assert [at.first + at.step * i for i in range(4)] == [3.5, 11.5, 19.5, 27.5]  # middles of 0-7, 8-15, ...
