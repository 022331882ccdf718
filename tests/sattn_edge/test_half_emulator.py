"""The emulator beside float16 worked out by hand in numpy, and overflow that ONNX Runtime hides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.engine_onnxruntime import session
from sattn_edge.half_emulator import emulate
from sattn_edge.passes.fix_batch import FixBatch
from sattn_edge.passes.half import Half
from sattn_edge.passes.inline import InlineFunctions
from tests.helpers_lowering import Layer, Network, build, networks, rewrite, windows

node = helper.make_node
TO_HALF = node("Cast", ["window"], ["x"], name="enter", to=TensorProto.FLOAT16)


def to_single(value: str) -> NodeProto:
    return node("Cast", [value], ["logits"], name="leave", to=TensorProto.FLOAT)


def model_of(nodes: Sequence[NodeProto], opset: int = 17, width: int = 4, **constants: np.ndarray) -> ModelProto:
    """A model from window float32 [n, width] to logits, its constants typed as given."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def half(*values: float) -> np.ndarray:
    return np.array(values, np.float16)


def by_onnx_runtime(model: ModelProto, x: np.ndarray, *, optimise: bool = True) -> np.ndarray:
    return session(model.SerializeToString(), "model", optimise=optimise).run(None, {"window": x})[0]


@settings(max_examples=60)
@example(seed=1056, size=1e-7)  # divides by 0
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-7, 1e-4, 1.0, 50.0]))
def test_every_node_is_rounded_as_numpy_rounds(seed: int, size: float) -> None:
    """Bit for bit, subnormal numbers included; the sum inside the product is exact in float32 here."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(5, 4)) * size).astype(np.float32)
    a, b, c = (rng.normal(size=4).astype(np.float16) for _ in range(3))
    w = (rng.integers(-64, 64, size=(4, 3)) / 32).astype(np.float16)
    nodes = [
        TO_HALF,
        node("Mul", ["x", "a"], ["p"]),
        node("Add", ["p", "b"], ["q"]),
        node("Div", ["q", "c"], ["r"]),
        node("Sub", ["r", "x"], ["s"]),
        node("Relu", ["s"], ["t"]),
        node("MatMul", ["t", "w"], ["y"]),
        to_single("y"),
    ]
    run = emulate(model_of(nodes, a=a, b=b, c=c, w=w), x)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a c that is small becomes 0
        h = x.astype(np.float16)
        t = np.maximum((h * a + b) / c - h, 0)
        wanted = (t.astype(np.float64) @ w.astype(np.float64)).astype(np.float32).astype(np.float16)
    np.testing.assert_array_equal(run.logits, wanted.astype(np.float32))


def test_rounding_once_at_the_end_is_not_the_same() -> None:
    """The control: what ONNX Runtime makes of the same graph."""
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    nodes = [TO_HALF, node("Mul", ["x", "a"], ["p"]), node("Add", ["p", "b"], ["y"]), to_single("y")]
    model = model_of(nodes, a=half(1.1, 1.2, 1.3, 1.4), b=half(-1, 2, -3, 4))
    assert (by_onnx_runtime(model, x) != emulate(model, x).logits).any()


def overflowing() -> ModelProto:
    nodes = [
        TO_HALF,
        node("Mul", ["x", "thousand"], ["a"], name="first"),
        node("Mul", ["a", "more"], ["b"], name="second"),
        node("Div", ["b", "less"], ["c"], name="third"),
        to_single("c"),
    ]
    return model_of(nodes, thousand=half(1000), more=half(300), less=half(250))


def test_overflow_that_onnx_runtime_hides_is_found() -> None:
    x = np.array([[1.0, 0.1, 0.0, -0.2]], np.float32)
    assert by_onnx_runtime(overflowing(), x)[0, 0] == 1200
    run = emulate(overflowing(), x)
    assert run.logits[0, 0] == np.inf
    assert run.overflow == ("second",)
    assert (run.largest["first"], run.largest["second"], run.headroom) == (1000, np.inf, 0)


def test_headroom_without_overflow() -> None:
    run = emulate(overflowing(), np.array([[0.1, 0.1, 0.0, -0.2]], np.float32))
    assert run.overflow == ()
    assert run.largest["second"] == pytest.approx(60000, rel=1e-3)
    assert run.headroom == pytest.approx(65504 / 60000, rel=1e-3)


def test_overflow_behind_a_sigmoid_is_found_and_only_where_it_began() -> None:
    nodes = [
        TO_HALF,
        node("Mul", ["x", "large"], ["a"], name="large"),
        node("Add", ["a", "a"], ["b"], name="double"),
        node("Sub", ["b", "b"], ["c"], name="nan"),
        node("Sigmoid", ["b"], ["d"], name="sigmoid"),
        to_single("d"),
    ]
    run = emulate(model_of(nodes, large=half(60000)), np.ones((3, 4), np.float32))
    assert np.isfinite(run.logits).all()
    assert run.overflow == ("double",)
    assert run.largest["nan"] == np.inf


def test_each_chunk_is_judged_by_itself() -> None:
    x = np.zeros((10, 4), np.float32)
    x[7] = 1
    assert emulate(overflowing(), x, batch=2).overflow == ("second",)
    assert emulate(overflowing(), x[:7], batch=2).overflow == ()


def test_inputs_that_are_not_finite_are_not_blamed_on_a_node() -> None:
    assert emulate(overflowing(), np.full((1, 4), np.nan, np.float32)).overflow == ()


def test_a_cast_that_overflows_is_named() -> None:
    assert emulate(overflowing(), np.full((1, 4), 7e4, np.float32)).overflow == ("enter",)


def test_nodes_without_a_name_are_told_by_their_values() -> None:
    nodes = [TO_HALF, node("Mul", ["x", "c"], ["a"]), node("Mul", ["a", "c"], ["b"]), to_single("b")]
    run = emulate(model_of(nodes, c=half(300)), np.ones((1, 4), np.float32))
    assert run.overflow == ("b",)
    assert set(run.largest) == {"enter", "a", "b"}


@pytest.mark.parametrize("levels", [np.int8, np.uint8])
def test_quantised_values_are_computed(levels: type[np.generic]) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 4)).astype(np.float32)
    scale, zero = half(0.0137), np.zeros((), levels)
    weight, factors = rng.integers(-127, 127, size=(4, 3)).astype(np.int8), half(0.01, 0.02, 0.003)
    nodes = [
        TO_HALF,
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="d"),
        node("DequantizeLinear", ["weight", "factors"], ["w"], name="w", axis=1),
        node("MatMul", ["d", "w"], ["y"]),
        to_single("y"),
    ]
    model = model_of(nodes, 19, scale=scale.reshape(()), zero=zero, weight=weight, factors=factors)
    bounds = np.iinfo(levels)
    q = np.clip(np.rint(x.astype(np.float16).astype(np.float32) / np.float32(scale)), bounds.min, bounds.max)
    d = (q * np.float32(scale)).astype(np.float16).astype(np.float64)
    w = (weight * factors.astype(np.float32)).astype(np.float16).astype(np.float64)
    run = emulate(model, x)
    np.testing.assert_allclose(run.logits, (d @ w).astype(np.float16), rtol=1e-3, atol=1e-6)
    assert run.largest["d"] == np.abs(d).max()
    assert run.largest["w"] == np.abs(w).max()


def test_constants_and_casts_in_nodes() -> None:
    nodes = [
        TO_HALF,
        node("Constant", [], ["c"], value=numpy_helper.from_array(half(1.1))),
        node("Mul", ["x", "c"], ["y"]),
        to_single("y"),
    ]
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(emulate(model_of(nodes), x).logits, np.full((2, 4), np.float32(np.float16(1.1))))


@settings(max_examples=10)
@given(network=networks())
def test_a_float32_graph_is_what_onnx_runtime_says(network: Network) -> None:
    model = rewrite(build(network, np.float32), InlineFunctions())[0]
    x = windows(network).astype(np.float32)
    run = emulate(model, x)
    np.testing.assert_array_equal(run.logits, by_onnx_runtime(model, x, optimise=False))
    assert (run.overflow, run.largest, run.headroom) == ((), {}, np.inf)


def test_a_fixed_batch_gives_the_same() -> None:
    network = Network((Layer(8), Layer(8), Layer(8)))
    free = rewrite(build(network, np.float32), InlineFunctions(), Half())[0]
    fixed = rewrite(free, FixBatch(3))[0]
    x = windows(network, 7).astype(np.float32)
    one, other = emulate(free, x, batch=2), emulate(fixed, x)
    assert one.logits.shape == (7, network.classes)
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-6)
    assert one.largest == pytest.approx(other.largest, rel=1e-3)


def test_what_a_caller_must_not_do() -> None:
    network = Network()
    x = windows(network).astype(np.float32)
    with pytest.raises(ValueError, match="functions must be inlined"):
        emulate(build(network, np.float32), x)
    with pytest.raises(ValueError, match="no windows"):
        emulate(rewrite(build(network, np.float32), InlineFunctions())[0], x[:0])
