"""The parser of the fake: what it refuses, and what it takes though it should not."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sattn_runtime.testing.fake_tensorrt_network import read_as_parsers_do
from tests.sattn_runtime.testing.helpers_fake_tensorrt import (
    NETWORK,
    Process,
    expected,
    graph,
    window,
)


@pytest.mark.parametrize("data", [b"", b"hello " * 40], ids=["empty", "text"])
def test_garbage_parses_to_a_network_without_outputs(monkeypatch, data):
    process = Process(monkeypatch)
    network, parser, done = process.parse(data)
    assert (done, parser.num_errors, network.num_inputs, network.num_outputs) == (True, 0, 0, 0)
    assert network.get_output(0) is None
    assert process.trt.Builder(process.log).build_serialized_network(network, process.config()) is None
    assert "Network must have at least one output" in process.said()


@given(st.binary(max_size=64))
def test_whatever_it_is_given_it_can_read_it_or_says_that_it_can_not(data):
    try:
        read = read_as_parsers_do(data)
    except DecodeError:
        return
    assert isinstance(read, ModelProto)


def test_what_comes_before_the_end_of_a_group_is_read():
    front = ModelProto(producer_name="someone", ir_version=8)
    end = bytes([13 << 3 | 4])
    assert read_as_parsers_do(front.SerializeToString() + end + b"rest") == front
    with pytest.raises(DecodeError):
        read_as_parsers_do(front.SerializeToString() + b"\x08")


def test_a_good_graph_parses_to_its_inputs_and_outputs(monkeypatch):
    process = Process(monkeypatch)
    network, parser, done = process.parse(graph())
    assert (done, parser.num_errors, network.num_inputs, network.num_outputs) == (True, 0, 1, 1)
    tensor = network.get_input(0)
    assert (tensor.name, tensor.shape, tensor.dtype) == ("window", (1, 1, 32, 3), process.trt.DataType.FLOAT)
    assert not isinstance(tensor.shape, tuple)
    assert network.get_output(0).shape == (1, 4)
    assert process.parse(graph(free=True))[0].get_input(0).shape == (-1, 1, 32, 3)
    assert parser.parse(graph().SerializeToString()) is False
    assert "non-empty network" in process.said()


def change(kind: str):
    model = graph("reference")
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    if kind == "operator":
        node.op_type = "Twist"
    elif kind == "unsupported":
        node.op_type = "Det"
    elif kind == "dangling":
        node.input[0] = "nowhere"
    return model


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        ("operator", "INVALID_NODE", "Plugin not found"),
        ("unsupported", "UNSUPPORTED_NODE", "false"),
        ("dangling", "INVALID_GRAPH", "not registered"),
    ],
)
def test_a_node_that_is_refused_is_named(monkeypatch, kind, code, text):
    process = Process(monkeypatch)
    network, parser, done = process.parse(change(kind))
    error = parser.get_error(0)
    assert (done, parser.num_errors, network.num_outputs) == (False, 1, 0)
    assert (error.code(), error.node_name()) == (getattr(process.trt.ErrorCode, code), "conv0")
    assert text in error.desc()
    assert process.parse(change("none"))[2]


def test_a_truncated_graph_is_refused(monkeypatch):
    _, parser, done = Process(monkeypatch).parse(graph().SerializeToString()[:500])
    assert not done
    assert parser.get_error(0).code().name == "MODEL_DESERIALIZE_FAILED"
    assert parser.get_error(1) is None


def test_a_zero_point_and_a_quantised_bias_are_refused(monkeypatch):
    model = graph("reference", "int8")
    points = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and t.name.endswith("zero_point")]
    points[0].CopyFrom(numpy_helper.from_array(np.array(3, np.int8), points[0].name))
    assert "Non-zero zero point" in Process(monkeypatch).parse(model)[1].get_error(0).desc()
    model = graph("reference", "int8")
    packed = next(node for node in model.graph.node if node.op_type == "DequantizeLinear").input[0]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.int32), "bias"))
    node = helper.make_node("DequantizeLinear", ["bias", model.graph.node[0].input[1]], ["dequantised"], name="bias")
    model.graph.node.append(node)
    assert packed != "bias"
    assert "input has type Int32" in Process(monkeypatch).parse(model)[1].get_error(0).desc()


# ---------------------------------------------------------------------- releases


def test_8_6_wants_an_explicit_batch(monkeypatch):
    process = Process(monkeypatch, release="8.6.1")
    assert not process.parse(graph(), flags=0)[2]
    assert "explicit batch" in process.said()
    assert Process(monkeypatch, release="8.6.1").parse(graph())[2]
    assert Process(monkeypatch, release="10.3.0").parse(graph(), flags=0)[2]


def test_8_6_refuses_float16_scales_and_new_opsets(monkeypatch):
    old = Process(monkeypatch, release="8.6.1")
    assert not old.parse(graph(precision="int8"))[2]
    assert "opset 19 is not supported" in old.said()
    model = graph(precision="int8")
    model.opset_import[0].version = 17
    _, parser, done = old.parse(model)
    assert not done
    assert "the scale must be Float" in parser.get_error(0).desc()
    assert old.parse(graph(precision="int8", typed=False))[2]
    assert Process(monkeypatch, release="10.3.0").parse(graph(precision="int8"))[2]


def mean_by_input():
    """The reference form in opset 18: the axes of every mean are an input."""
    model = graph("reference")
    model.opset_import[0].version = 18
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and node.name != "pool":
            axes = next(a for a in node.attribute if a.name == "axes")
            model.graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), f"{node.name}.axes"))
            node.attribute.remove(axes)
            node.input.append(f"{node.name}.axes")
        elif node.name == "pool":
            node.op_type, _ = "AveragePool", node.ClearField("attribute")
            node.attribute.append(helper.make_attribute("kernel_shape", [NETWORK.lengths()[-1], 1]))
    return model


def test_8_6_averages_over_everything_where_axes_are_an_input(monkeypatch):
    model, x = mean_by_input(), window()
    wanted = expected(model, x)
    difference = {}
    for release in ("8.6.1", "10.3.0"):
        process = Process(monkeypatch, release=release)
        got = process.infer(process.engine(process.plan(model)), x)
        assert got.shape == wanted.shape
        difference[release] = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert difference["10.3.0"] < 1e-6
    assert difference["8.6.1"] > 1e-3
