"""Opset 17 to 19 and above: the same numbers, written as the newer definitions ask."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from sattn_edge.engine_onnxruntime import session
from sattn_edge.graph import attribute, opset_of
from sattn_edge.passes.inline import InlineFunctions
from sattn_edge.passes.raise_opset import RaiseOpset
from tests.helpers_lowering import Network, assert_exact, build, networks, rewrite, windows


def plain(network: Network, dtype: type[np.floating] = np.float64) -> ModelProto:
    return rewrite(build(network, dtype), InlineFunctions())[0]


@settings(max_examples=40)
@given(network=networks(), version=st.integers(18, 22))
def test_raised_graphs_are_exact(network: Network, version: int) -> None:
    before = plain(network)
    after, (report,) = rewrite(before, RaiseOpset(version))
    onnx.checker.check_model(after, full_check=True)
    assert (opset_of(after), report.changed) == (version, 1)
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    assert_exact(before, after, windows(network))


def test_raised_graphs_without_their_axes_are_not() -> None:
    """The control, and what TensorRT 8.x makes of them: a mean over everything."""
    network = Network()
    before = plain(network)
    after = rewrite(before, RaiseOpset(19))[0]
    for node in (n for n in after.graph.node if n.op_type == "ReduceMean" and n.name != "pool"):
        del node.input[1:]
    with pytest.raises(AssertionError, match="difference"):
        assert_exact(before, after, windows(network))


def test_raised_graphs_run_on_onnx_runtime() -> None:
    network = Network()
    x = windows(network).astype(np.float32)
    before = plain(network, np.float32)
    after = rewrite(before, RaiseOpset(22))[0]
    old, new = (session(m.SerializeToString(), "model").run(None, {"window": x})[0] for m in (before, after))
    np.testing.assert_array_equal(old, new)


def test_axes_become_initializers() -> None:
    after = rewrite(plain(Network()), RaiseOpset(19))[0]
    constants = {t.name: numpy_helper.to_array(t).tolist() for t in after.graph.initializer}
    axes = [constants[n.input[1]] for n in after.graph.node if n.op_type == "ReduceMean"]
    assert axes == [[1], [1], [2]]
    assert not any(attribute(n, "axes") for n in after.graph.node)
    assert "Constant" not in {n.op_type for n in after.graph.node}


def test_a_split_in_equal_parts_says_into_how_many() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Split", ["x"], ["a", "b"], axis=1),
            helper.make_node("Split", ["a", "sizes"], ["c", "d"], axis=1),
            helper.make_node("ReduceMax", ["c"], ["e"]),
            helper.make_node("Mul", ["e", "d"], ["y"]),
        ],
        "splits",
        [helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [2, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, [2, 3])],
        [numpy_helper.from_array(np.array([1, 3]), "sizes")],
    )
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    after = rewrite(before, RaiseOpset(20))[0]
    assert [attribute(n, "num_outputs") for n in after.graph.node] == [2, None, None, None]
    assert_exact(before, after, np.arange(16.0).reshape(2, 8))


@pytest.mark.parametrize(("version", "ir_version"), [(18, 8), (19, 9), (20, 9), (21, 10), (22, 10)])
def test_rule_2_ir_version(version: int, ir_version: int) -> None:
    model = plain(Network())
    model.metadata_props.add(key="sattn_edge.format", value="1")
    made = rewrite(model, RaiseOpset(version))[0]
    assert made.ir_version == ir_version
    assert [(p.key, p.value) for p in made.metadata_props] == [("sattn_edge.format", "1")]
    model.ir_version = 10
    assert rewrite(model, RaiseOpset(version))[0].ir_version == 10


def test_rule_1_a_model_there_already_is_left_alone() -> None:
    model = rewrite(plain(Network()), RaiseOpset(19))[0]
    made, (report,) = rewrite(model, RaiseOpset(19))
    assert report.changed == 0
    assert made == model


@pytest.mark.parametrize("version", [16, 23])
def test_versions_out_of_reach(version: int) -> None:
    with pytest.raises(ValueError, match=f"opset {version}: allowed are 17 to 22"):
        RaiseOpset(version)


def test_rule_1_nothing_is_lowered() -> None:
    model = rewrite(plain(Network()), RaiseOpset(20))[0]
    with pytest.raises(ValueError, match="a model with opset 20 can't be raised to opset 19"):
        RaiseOpset(19)(model)


def test_rule_3_functions_come_inlined() -> None:
    with pytest.raises(ValueError, match="a model with functions"):
        RaiseOpset(19)(build(Network()))


def test_rule_3_a_graph_that_quantises_nothing_may_stay_where_it_is():
    model = build(Network())
    made, (report, _) = rewrite(model, RaiseOpset(19, for_scales=True), InlineFunctions())
    assert report.changed == 0
    assert made.opset_import[0].version == 17
