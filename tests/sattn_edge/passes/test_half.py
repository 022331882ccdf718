"""Each rule of the float16 pass: with it a node stays float32, without it the node is float16 (the control)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.calibration_table import LayerChoice
from sattn_edge.graph import Graph
from sattn_edge.half_emulator import emulate
from sattn_edge.passes.half import RULES, SMALLEST_NORMAL, Half, float16_scale
from sattn_edge.passes.half_typing import element_types
from sattn_edge.passes.inline import InlineFunctions
from sattn_edge.passes.quantize_tensorrt import QuantizeTensorRT
from sattn_edge.passes.raise_opset import RaiseOpset
from tests.helpers_lowering import Layer, Network, build, rewrite, windows

THREE = Network((Layer(8), Layer(12), Layer(6)))
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def plain(network: Network = THREE, dtype: type[np.floating] = np.float32) -> ModelProto:
    return rewrite(build(network, dtype), InlineFunctions())[0]


def tiny(nodes: Sequence[NodeProto], shape: Sequence[int | str], **constants: np.ndarray) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("window", FLOAT, ["batch", 1, 16, 3])],
        [helper.make_tensor_value_info("logits", FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def kinds(model: ModelProto) -> dict[str, int]:
    """The type of each node's first output, by the node's name."""
    types = element_types(model)
    return {n.name: types[n.output[0]] for n in model.graph.node}


def half_products(model: ModelProto) -> list[str]:
    found = kinds(model)
    return [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and found[n.name] == FLOAT16]


def set_constant(model: ModelProto, name: str, value: np.ndarray) -> None:
    value = value.astype(constant(model, name).dtype)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def constant(model: ModelProto, name: str) -> np.ndarray:
    value = Graph(model).constant(name)
    assert value is not None
    return value


def test_rule_1_products_are_float16_and_the_rest_is_not() -> None:
    made, (report,) = rewrite(plain(), Half())
    assert half_products(made) == ["conv1", "conv2"]
    moves = {"relu0", "relu1"}
    others = {n.name for n in made.graph.node if n.op_type not in ("Conv", "Gemm", "Cast")} - moves
    assert {kinds(made)[name] for name in others} == {FLOAT}
    assert (report.changed, report.details[0]) == (2, "float16, with 4 casts: conv1, conv2")
    assert report.details[1:] == (
        "rule 1, computed between products: 1 Sub, 1 Div, 4 ReduceMean, 3 Sigmoid, 3 Mul, 3 BatchNormalization",
        "rule 2, reads the window: conv0",
        "rule 3, makes the logits: fc",
        "rule 4, one map from float32: conv__1, conv__2, conv__3",
    )


def test_casts_stand_behind_the_product_and_before_the_next() -> None:
    made = rewrite(plain(), Half())[0]
    casts = [(n.name, n.input[0], n.attribute[0].i) for n in made.graph.node if n.op_type == "Cast"]
    assert casts == [
        ("z0.half", "z0", FLOAT16),
        ("y1.single", "y1", FLOAT),
        ("z1.half", "z1", FLOAT16),
        ("y2.single", "y2", FLOAT),
    ]


def test_inputs_and_outputs_stay_float32() -> None:
    made = rewrite(plain(), Half(RULES - {2, 3}))[0]
    rows = [*made.graph.input, *made.graph.output]
    assert [(row.name, row.type.tensor_type.elem_type) for row in rows] == [("window", FLOAT), ("logits", FLOAT)]
    assert half_products(made)[-1:] == ["fc"]
    assert made.graph.node[-1].op_type == "Cast"
    assert list(made.graph.node[-1].input) == ["logits.half"]


def test_rule_2_what_reads_the_window() -> None:
    for network in (THREE, Network(THREE.layers, normalised=False)):
        assert "conv0" not in half_products(rewrite(plain(network), Half())[0])
        assert "conv0" in half_products(rewrite(plain(network), Half(RULES - {2}))[0])


def test_rule_2_raw_units_need_it() -> None:
    """Windows near 1e5 with a detail of 1: inf in float16, exact enough where the normalisation is float32."""
    network = Network(THREE.layers, modal=2)
    model = plain(network)
    set_constant(model, "mean", np.full((1, 1, 1, 2), 1e5))
    x = (windows(network, 8) + 1e5).astype(np.float32)
    wanted = emulate(model, x).logits
    run = emulate(rewrite(model, Half())[0], x)
    assert run.overflow == ()
    assert np.abs(run.logits - wanted).max() <= 1e-3 * np.abs(wanted).max()

    bare = plain(Network(THREE.layers, modal=2, normalised=False))
    assert emulate(rewrite(bare, Half(RULES - {2}))[0], x).overflow == ("window.half",)


def test_rule_3_what_makes_the_logits() -> None:
    assert "fc" not in half_products(rewrite(plain(), Half())[0])
    assert "fc" in half_products(rewrite(plain(), Half(RULES - {3}))[0])


def test_rule_3_a_mean_behind_the_last_product_ends_it() -> None:
    nodes = [
        helper.make_node("Conv", ["window", "w0"], ["a"], name="one", pads=[1, 0, 1, 0]),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="two", pads=[1, 0, 1, 0]),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="three", pads=[1, 0, 1, 0]),
        helper.make_node("ReduceMean", ["c"], ["logits"], name="mean", axes=[2, 3], keepdims=0),
    ]
    rng = np.random.default_rng(0)
    weights = {"w0": rng.normal(size=(4, 1, 3, 1)), "w1": rng.normal(size=(4, 4, 3, 1))}
    model = tiny(nodes, ["batch", 4], **{name: w.astype(np.float32) for name, w in weights.items()})
    assert half_products(rewrite(model, Half())[0]) == ["two", "three"]


def test_rule_4_a_gate_of_one_map() -> None:
    gates = [f"conv__{i}" for i in (1, 2, 3)]
    assert not set(gates) & set(half_products(rewrite(plain(), Half())[0]))
    assert set(gates) <= set(half_products(rewrite(plain(), Half(RULES - {4}))[0]))


def test_rule_4_not_where_a_float16_product_reads_the_same() -> None:
    network = Network((Layer(8), Layer(1), Layer(6)), modal=2)
    made = rewrite(plain(network), Half())[0]
    assert "conv1" not in half_products(made)
    model = plain(network)
    other = helper.make_node("Conv", ["r0", "w1"], ["side"], name="side", pads=[1, 0, 1, 0], strides=[2, 1])
    set_constant(model, "w1", np.ones((1, 8, 3, 1)))
    model.graph.node.insert(len(model.graph.node) - 3, other)
    assert {"conv1", "side"} <= set(half_products(rewrite(model, Half())[0]))


@pytest.mark.parametrize("large", [1e5, 65520.0])
def test_rule_5_weights_that_become_inf(large: float) -> None:
    model = plain()
    weight = constant(model, "w1").copy()
    weight[0, 0, 0, 0] = large
    set_constant(model, "w1", weight)
    made, (report,) = rewrite(model, Half())
    assert half_products(made) == ["conv2"]
    assert "rule 5, a constant outside float16: conv1" in report.details
    assert half_products(rewrite(model, Half(RULES - {5}))[0]) == ["conv1", "conv2"]


@pytest.mark.parametrize(("normals", "kept"), [(0.99, True), (1.01, False), (0, False)])
def test_rule_5_weights_that_are_all_too_small(normals: float, kept: bool) -> None:
    model = plain()
    weight = constant(model, "w1")
    set_constant(model, "w1", weight / np.abs(weight).max() * SMALLEST_NORMAL * normals)
    assert ("conv1" not in half_products(rewrite(model, Half())[0])) == kept


def test_rule_5_one_small_weight_does_no_harm() -> None:
    model = plain()
    weight = constant(model, "w1").copy()
    weight[0, 0, 0, 0] = 1e-9
    set_constant(model, "w1", weight)
    assert half_products(rewrite(model, Half())[0]) == ["conv1", "conv2"]


def test_a_product_of_two_computed_values_stays_float32() -> None:
    nodes = [
        helper.make_node("Transpose", ["window"], ["t"], name="turn", perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["t", "window"], ["p"], name="square"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "w"], ["g"], name="inner"),
        helper.make_node("MatMul", ["g", "v"], ["logits"], name="outer"),
    ]
    w, v = np.ones((9, 5), np.float32), np.ones((5, 2), np.float32)
    made = rewrite(tiny(nodes, ["batch", 2], w=w, v=v), Half())[0]
    assert half_products(made) == ["inner"]


def test_a_constant_that_both_read_gets_a_twin() -> None:
    nodes = [
        helper.make_node("Conv", ["window", "w0"], ["a"], name="one", pads=[1, 0, 1, 0]),
        helper.make_node("Conv", ["a", "w"], ["b"], name="two", pads=[1, 0, 1, 0]),
        helper.make_node("Reshape", ["b", "rows"], ["c"], name="rows"),
        helper.make_node("Reshape", ["w", "sizes"], ["d"], name="reshape"),
        helper.make_node("Gemm", ["c", "d"], ["logits"], name="fc"),
    ]
    w0, w = np.full((4, 1, 3, 1), 0.1, np.float32), np.full((16, 4, 3, 1), 0.1, np.float32)
    model = tiny(nodes, ["rows", 1], w0=w0, w=w, sizes=np.array([192, 1]), rows=np.array([-1, 192]))
    made = rewrite(model, Half())[0]
    assert constant(made, "w").dtype == np.float32
    assert constant(made, "w.half").dtype == np.float16
    assert constant(made, "w0").dtype == np.float32


def test_constant_nodes_are_converted_and_not_cast() -> None:
    model = plain()
    weight = next(t for t in model.graph.initializer if t.name == "w1")
    made = helper.make_node("Constant", [], ["w1"], name="constant", value=weight)
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, made)
    after = rewrite(model, Half())[0]
    assert constant(after, "w1").dtype == np.float16
    assert "Constant" not in {n.op_type for n in after.graph.node}


def test_a_typed_graph_is_left_alone() -> None:
    made = rewrite(plain(), Half())[0]
    again, (report,) = rewrite(made, Half())
    assert again == made
    assert (report.changed, report.near_misses[0].reason) == (0, "the graph holds float16 already")


def test_a_graph_in_double_is_left_alone() -> None:
    model = plain(dtype=np.float64)
    made, (report,) = rewrite(model, Half())
    assert made == model
    assert (report.changed, report.near_misses[0].reason) == (0, "the graph holds no float32")


def test_a_graph_without_inner_products_is_left_alone() -> None:
    model = plain(Network((Layer(8),)))
    made, (report,) = rewrite(model, Half())
    assert made == model
    assert report.changed == 0
    assert "rule 2, reads the window: conv0" in report.details


def test_functions_come_inlined() -> None:
    with pytest.raises(ValueError, match="functions must be inlined"):
        Half()(build(THREE, np.float32))


def quantised(**scales: np.ndarray) -> ModelProto:
    """conv1 in INT8, with scales (by the end of their name) set afterwards."""
    choice = LayerChoice("conv1", True, low=-4.0, high=4.0)
    model = rewrite(plain(), QuantizeTensorRT({"conv1": choice}), RaiseOpset(19))[0]
    for name, value in scales.items():
        full = {"input": "conv1.input.scale", "weight": "conv1.weight.dequantize.scale"}[name]
        set_constant(model, full, np.broadcast_to(value, constant(model, full).shape))
    return model


def test_rule_6_scales_become_float16() -> None:
    made = rewrite(quantised(), Half())[0]
    onnx.checker.check_model(made, full_check=True)
    found = kinds(made)
    assert half_products(made) == ["conv1", "conv2"]
    assert {found["conv1.input.dequantize"], found["conv1.weight.dequantize"]} == {FLOAT16}
    assert constant(made, "conv1.weight.dequantize.scale").dtype == np.float16
    assert constant(made, "conv1.weight.int8").dtype == np.int8


def test_rule_6_quantising_follows_what_it_reads_with_the_same_scale() -> None:
    """Q reads float32 here, and no cast stands in front of it; its scale is the float16 one all the same."""
    model = quantised(input=np.float32(0.0123))
    made = rewrite(model, Half())[0]
    quantise = next(n for n in made.graph.node if n.op_type == "QuantizeLinear")
    assert element_types(made)[quantise.input[0]] == FLOAT
    scale = constant(made, quantise.input[1])
    assert (scale.dtype, float(scale)) == (np.float32, float(np.float16(0.0123)))
    assert float(scale) != float(np.float32(0.0123))
    back = next(n for n in made.graph.node if n.name == "conv1.input.dequantize")
    assert float(constant(made, back.input[1])) == float(scale)


@pytest.mark.parametrize("which", ["input", "weight"])
@pytest.mark.parametrize("scale", [1.03e-5, 1e-9, 7e4])
def test_rule_6_scales_that_float16_does_not_hold(which: str, scale: float) -> None:
    made, (report,) = rewrite(quantised(**{which: np.float32(scale)}), Half())
    onnx.checker.check_model(made, full_check=True)
    found = kinds(made)
    assert half_products(made) == ["conv2"]
    assert {found["conv1.input.dequantize"], found["conv1.weight.dequantize"]} == {FLOAT}
    assert [line for line in report.details if line.startswith("rule 6") and "conv1" in line]
    assert float(constant(made, f"conv1.{'input' if which == 'input' else 'weight.dequantize'}.scale").flat[0]) == (
        float(np.float32(scale))
    )


def test_rule_6_a_small_scale_that_float16_holds_exactly_will_do() -> None:
    assert "conv1" in half_products(rewrite(quantised(weight=np.float32(100 * 2.0**-24)), Half())[0])


def test_rule_6_a_channel_of_zeros_may_have_any_scale() -> None:
    model = quantised()
    weight, scale = "conv1.weight.int8", "conv1.weight.dequantize.scale"
    levels, scales = constant(model, weight).copy(), constant(model, scale).copy()
    levels[3], scales[3] = 0, 2.0**-100
    set_constant(model, weight, levels)
    set_constant(model, scale, scales)
    made = rewrite(model, Half())[0]
    assert "conv1" in half_products(made)
    assert constant(made, scale)[3] == SMALLEST_NORMAL

    levels[3, 0] = 1
    set_constant(model, weight, levels)
    node = next(n for n in model.graph.node if n.name == "conv1.weight.dequantize")
    assert float16_scale(Graph(model), node) is None
    assert "conv1" not in half_products(rewrite(model, Half())[0])


def test_float16_scales_need_opset_19() -> None:
    choice = LayerChoice("conv1", True, low=-4.0, high=4.0)
    model = rewrite(plain(), QuantizeTensorRT({"conv1": choice}))[0]
    with pytest.raises(ValueError, match="float16 scales need opset 19, the graph has 17"):
        Half()(model)
