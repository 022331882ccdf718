"""Q/DQ placements: the arithmetic they state, where they stand, and that integer kernels run them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sattn_edge.calibration_table import Agreement, LayerChoice, Placement
from sattn_edge.lowering import Target, lower
from sattn_edge.passes.quantize import quantize_weights, s8_scale, u8_scale
from sattn_edge.passes.quantize_onnxruntime import QuantizeOnnxRuntime
from sattn_edge.passes.quantize_tensorrt import QuantizeTensorRT, half_up
from tests.helpers_lowering import Layer, Network, build, rewrite, windows

NONE = Agreement(0, 0, 0.0, 0.0, 0.0)
REFERENCE = Network((Layer(16), Layer(32), Layer(64)), series=64, modal=5)


def choices(network: Network, high: float = 6.0) -> tuple[LayerChoice, ...]:
    return tuple(
        LayerChoice(f"conv{i}", True, "", "by hand", 0.0, high, -2 * high, 2 * high)
        for i in range(1, len(network.layers))
    )


def placement(network: Network, target: str, high: float = 6.0) -> Placement:
    return Placement(target, "u8" if target == "onnxruntime" else "s8", choices(network, high), NONE, NONE, True)


def run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0]


def product(op: str, weight: np.ndarray, bias: np.ndarray | None, rows: int) -> ModelProto:
    """x -> the one product `main`: Gemm on [rows, terms], or a 1x1 Conv on [1, terms, rows, 1]."""
    terms, outputs = weight.shape
    arrays = {"w": weight if op == "Gemm" else weight.T[:, :, None, None], **({} if bias is None else {"b": bias})}
    shapes = ([rows, terms], [rows, outputs]) if op == "Gemm" else ([1, terms, rows, 1], [1, outputs, rows, 1])
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *arrays], ["y"], name="main")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[0])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes[1])],
        [numpy_helper.from_array(np.ascontiguousarray(a, np.float32), n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@given(
    st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans(), st.floats(-3.0, 0.0)
)
def test_the_algebra_of_the_u8_product(seed, terms, outputs, biased, dead, low):
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(terms, outputs)), rng.normal(size=outputs) if biased else None
    if dead:
        weight[:, 0] = 0
    x = rng.uniform(low - 0.5, 4.5, size=(7, terms)).astype(np.float32)
    choice = LayerChoice("main", True, "", "", low, 4.0)
    made, (report,) = rewrite(product("Gemm", weight, bias, 7), QuantizeOnnxRuntime({"main": choice}))
    assert report.changed == 1
    scale, zero = u8_scale(low, 4.0)
    q = np.clip(np.rint(x / np.float32(scale)) + zero, 0, 255).astype(np.int64)
    found = quantize_weights(weight.astype(np.float32).astype(np.float64), 1, bias, scale)
    total = (q - zero) @ found.values.astype(np.int64)
    if bias is not None:
        steps = (np.float32(scale) * found.scales.astype(np.float32)).astype(np.float64)
        total = total + np.rint(bias.astype(np.float32).astype(np.float64) / steps)
    wanted = total * scale * found.scales
    assert np.abs(run(made, x) - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


@given(st.integers(0, 10**6), st.floats(-2.0, 0.0), st.floats(0.01, 1e3))
def test_u8_has_a_level_that_is_zero_and_reaches_both_ends(seed, low, high):
    scale, zero = u8_scale(low, high)
    assert 0 <= zero <= 255
    ends = np.array([low, high])
    levels = np.clip(np.rint(ends / scale) + zero, 0, 255)
    assert (np.abs((levels - zero) * scale - ends) <= 1.0001 * scale).all()


@given(st.integers(0, 10**6))
def test_the_error_of_a_product_is_what_rounding_allows(seed):
    rng = np.random.default_rng(seed)
    weight, x = rng.normal(size=(48, 6)).astype(np.float32), rng.uniform(0, 4, size=(9, 48)).astype(np.float32)
    source = product("Gemm", weight, None, 9)
    for one, scale in (
        (QuantizeOnnxRuntime({"main": LayerChoice("main", True, "", "", 0.0, 4.0)}), u8_scale(0, 4.0)[0]),
        (QuantizeTensorRT({"main": LayerChoice("main", True, "", "", 0.0, 4.0)}), s8_scale(4.0)),
    ):
        made, _ = rewrite(source, one)
        error = np.abs(run(made, x) - run(source, x))
        step = np.abs(weight).max(0) / 127
        bound = scale / 2 * (np.abs(weight) + step / 2).sum(0) + step / 2 * x.sum(1, keepdims=True)
        assert (error <= bound * (1 + 1e-4) + 1e-5).all()
        assert error.max() > 0.001 * bound.max()  # it was quantised at all


def test_a_bias_far_above_a_channels_weights_survives():
    weight, bias = np.full((4, 2), 1e-9), np.array([100.0, -100.0])
    made, _ = rewrite(
        product("Gemm", weight, bias, 3), QuantizeOnnxRuntime({"main": LayerChoice("main", True, "", "", 0.0, 1.0)})
    )
    assert np.allclose(run(made, np.ones((3, 4))), bias, rtol=1e-6)


def test_quantizing_moves_to_the_source_and_pads_with_its_zero():
    """Rows of the gemm form: Q in front of Pad and Gather gives what Q directly in front of the product gives."""
    network = REFERENCE
    source = build(network, np.float32)
    lowered = lower(source, Target("onnxruntime", "gemm")).model
    rows = {c.layer: LayerChoice(c.layer, True, "", "", -1.5, 5.0) for c in choices(network)}
    moved, _ = rewrite(lowered, QuantizeOnnxRuntime(rows))
    beside, _ = rewrite(lowered, QuantizeOnnxRuntime(rows))
    assert [n.op_type for n in moved.graph.node].count("QuantizeLinear") == 2
    by_output = {o: n for n in moved.graph.node for o in n.output}
    for name in rows:
        quantize = next(n for n in moved.graph.node if n.name == f"{name}.input.quantize")
        assert by_output[quantize.input[0]].op_type == "Relu"
        pad = next(n for n in moved.graph.node if n.name == f"{name}.pad")
        zero = numpy_helper.to_array(next(t for t in moved.graph.initializer if t.name == pad.input[2]))
        assert zero.dtype == np.uint8
        assert zero == u8_scale(-1.5, 5.0)[1]
        # The control: a pad of another level than the zero point is another network.
        wrong = next(t for t in beside.graph.initializer if t.name == pad.input[2])
        wrong.CopyFrom(numpy_helper.from_array(np.asarray(zero + 9, np.uint8), pad.input[2]))
    x = windows(network, 3).astype(np.float32)
    adjacent, _ = rewrite(lowered, QuantizeTensorRT(rows))
    scale = np.abs(run(lowered, x)).max()
    assert np.abs(run(moved, x) - run(lowered, x)).max() < 0.1 * scale
    assert np.abs(run(adjacent, x) - run(lowered, x)).max() < 0.1 * scale
    assert not np.allclose(run(moved, x), run(beside, x), atol=1e-4)


@pytest.mark.parametrize(("form", "kernel"), [("gemm", "QGemm"), ("reference", "QLinearConv"), ("taps", "QLinearConv")])
def test_the_main_products_run_as_integer_kernels(form, kernel, tmp_path):
    target = Target("onnxruntime", form, "int8", placement=placement(REFERENCE, "onnxruntime"))
    model = lower(build(REFERENCE, np.float32), target).model
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "run")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"window": windows(REFERENCE).astype(np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if event["name"].endswith("kernel_time")]
    assert ran.count(kernel) == 2
    assert ran.count("Conv") + ran.count("FusedConv") == (4 if form == "reference" else 1 if form == "taps" else 3)


def test_what_tensorrt_gets_obeys_its_parser():
    target = Target("tensorrt", "gemm", "int8", placement=placement(REFERENCE, "tensorrt"))
    model = lower(build(REFERENCE, np.float32), target).model
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    quantizing = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(quantizing) == 6  # two products: Q and DQ on the input, DQ on the weights
    for node in quantizing:
        zero = arrays[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        # Q has the type of what it reads, which stands between products; DQ feeds a float16 product.
        assert arrays[node.input[1]].dtype == (np.float32 if node.op_type == "QuantizeLinear" else np.float16)
        assert (arrays[node.input[1]] > 0).all()
        assert np.array_equal(arrays[node.input[1]], arrays[node.input[1]].astype(np.float16))
    assert model.opset_import[0].version >= 19
    assert model.ir_version <= 10
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


@pytest.mark.parametrize("one", [QuantizeOnnxRuntime, QuantizeTensorRT])
def test_weights_that_are_computed_are_a_near_miss(one):
    model = product("Gemm", np.ones((3, 2)), None, 4)
    model.graph.node.insert(0, helper.make_node("Relu", ["w"], ["w2"]))
    model.graph.node[1].input[1] = "w2"
    _, (report,) = rewrite(model, one({"main": LayerChoice("main", True, "", "", 0.0, 1.0)}))
    assert report.changed == 0
    assert [m.reason for m in report.near_misses] == ["its weights are computed"]


def test_a_conv_without_a_range_of_its_output_is_left_alone():
    model = product("Conv", np.ones((3, 2)), None, 4)
    _, (report,) = rewrite(model, QuantizeOnnxRuntime({"main": LayerChoice("main", True, "", "", 0.0, 1.0)}))
    assert [m.reason for m in report.near_misses] == ["its output has no range, which the integer convolution needs"]


@given(st.floats(1e-7, 6e4))
def test_scales_for_tensorrt_are_float16_numbers_not_smaller(scale):
    up = float(half_up(np.asarray(scale)))
    assert up == float(np.float16(up))
    assert scale <= up <= max(scale * (1 + 2**-9), scale + 2**-23)


def test_typing_a_tensorrt_graph_float16_keeps_its_levels():
    """The same int8 weights with scales of equal value, whatever the type of the rest."""
    made = []
    for typed in (True, False):
        target = Target("tensorrt", "gemm", "int8", placement=placement(REFERENCE, "tensorrt"), typed=typed)
        model = lower(build(REFERENCE, np.float32), target).model
        arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        made.append({n: a.astype(np.float64) for n, a in arrays.items() if "int8" in n or n.endswith(".scale")})
    assert made[0].keys() == made[1].keys()
    assert len(made[0]) >= 4
    for name, array in made[0].items():
        assert np.array_equal(array, made[1][name]), name


@pytest.mark.parametrize("op", ["Gemm", "Conv"])
@pytest.mark.parametrize("outputs", [16, 17, 24, 31, 32])
def test_rule_4_narrow_products_are_the_same_in_integers_and_in_floats(op, outputs):
    """What ONNX Runtime gives with its integer kernels and what the same graph says in floats."""
    rng = np.random.default_rng(outputs)
    weight, bias = rng.normal(size=(24, outputs)), rng.normal(size=outputs)
    source = product(op, weight, bias, 70)
    made, _ = rewrite(source, QuantizeOnnxRuntime({"main": LayerChoice("main", True, "", "", 0.0, 4.0, -30.0, 30.0)}))
    assert [n.op_type for n in made.graph.node].count("Slice") == (16 < outputs < 32)
    x = rng.uniform(0, 4, size=(70, 24) if op == "Gemm" else (1, 24, 70, 1)).astype(np.float32)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted = ort.InferenceSession(made.SerializeToString(), plain, providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    step = 60 / 255 if op == "Conv" else 1e-4
    for _ in range(3):
        assert np.abs(session.run(None, {"x": x})[0] - wanted).max() <= 1.01 * step
