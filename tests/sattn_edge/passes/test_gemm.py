"""Form gemm gives the numbers of the source graph, whatever the network and the options."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from sattn_edge.attention import DOMAIN
from sattn_edge.gate_operators import OPERATORS
from sattn_edge.graph import Graph
from sattn_edge.passes import gemm, gemm_gate, gemm_product, gemm_tail
from sattn_edge.passes.gemm import ONNXRUNTIME, TENSORRT, TENSORRT_HALF, GemmForm, GemmOptions
from sattn_edge.passes.inline import InlineFunctions
from tests.helpers_lowering import (
    POOLINGS,
    Layer,
    Network,
    assert_exact,
    build,
    evaluate,
    networks,
    operators,
    rewrite,
    windows,
)

ALL = [GemmOptions(*row) for row in product(("conv", "taps"), (1, 2), ("gemm", "taps"), ("matmul", "reduce"), (0, 16))]
FP32_BOUND = 2e-6
FOUR = tuple(Layer(4 + i, kernel=3 + i, pad=1, stride=1 + i % 2, attention=3 + i) for i in range(4))


def in_form(model: ModelProto, options: GemmOptions = ONNXRUNTIME) -> ModelProto:
    """The graph with every block and everything around the blocks over rows."""
    made, reports = rewrite(model, GemmForm(options))
    assert not reports[0].near_misses
    assert reports[0].changed == sum(node.domain == DOMAIN for node in model.graph.node)
    return made


@given(network=networks(), options=st.sampled_from(ALL), count=st.sampled_from([1, 3]))
@example(network=Network(FOUR, zero_scales=1), options=GemmOptions(mean_columns=3), count=2)
@settings(max_examples=60)
def test_it_is_exact(network: Network, options: GemmOptions, count: int) -> None:
    model = build(network)
    assert_exact(model, in_form(model, options), windows(network, count))


@pytest.mark.parametrize("options", ALL, ids=str)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_option_is_exact(options: GemmOptions, pooling: str) -> None:
    layers = (Layer(3, pooling=pooling), Layer(5, kernel=5, pad=2, stride=3, pooling=pooling, attention=4, bias=False))
    network = Network(layers, zero_scales=1, pool="AveragePool")
    model = build(network)
    assert_exact(model, in_form(model, options), windows(network))


def _unscaled_mean(linear: gemm_product.Linear, scale: np.ndarray, shift: float = 0.0) -> gemm_product.Linear:
    scaled = gemm_product.Linear(linear.weight * scale[:, None, None], linear.bias * scale + shift)
    return scaled if linear.mean_weight is None else scaled.with_mean()


def _no_pads(original: Callable) -> Callable:
    def padded(writer: object, name: str, source: object, pads: tuple[int, int]) -> str:
        return original(writer, name, source, (0, sum(pads)))

    return padded


def _reversed_steps(original: Callable) -> Callable:
    return lambda *arguments: original(*arguments)[::-1]


BREAKS = {
    "the scale goes into the mean too": (gemm_product.Linear, "scaled", lambda _: _unscaled_mean, ONNXRUNTIME),
    "the zeros stand at the wrong end": (gemm_product, "_padded", _no_pads, ONNXRUNTIME),
    "the gate's steps are the wrong way round": (gemm_gate, "_steps", _reversed_steps, TENSORRT),
    "the classifier keeps its order": (gemm_tail, "_in_row_order", lambda _: lambda weight, _rows: weight, ONNXRUNTIME),
    "nothing is added behind the gate": (
        gemm,
        "write_shift",
        lambda original: lambda writer, node, rows, shift, options: original(writer, node, rows, 0 * shift, options),
        ONNXRUNTIME,
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_control_a_wrong_rewrite_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, breaks, options = BREAKS[what]
    monkeypatch.setattr(owner, name, breaks(getattr(owner, name)))
    model = build(Network())
    with pytest.raises(AssertionError, match="difference"):
        assert_exact(model, in_form(model, options), windows(Network()), bound=1e-6)


@pytest.mark.parametrize("options", [ONNXRUNTIME, TENSORRT, TENSORRT_HALF], ids=["onnxruntime", "tensorrt", "half"])
def test_the_graph_stays_one_others_can_work_on(options: GemmOptions) -> None:
    source = build(Network(FOUR))
    made = in_form(source, options)
    assert set(operators(made)) <= OPERATORS
    graph = Graph(made, shapes=True)
    values = [value for node in made.graph.node for value in node.output]
    assert all(None not in graph.shapes[value][1:] for value in values)  # all but the batch
    read = {value for node in made.graph.node for value in node.input}
    assert {t.name for t in made.graph.initializer} <= read
    names = [node.name for node in made.graph.node]
    assert len(set(names)) == len(names)
    assert {f"conv{i}" for i in range(4)} <= set(names)


def test_products_carry_the_name_of_their_convolution_and_the_mean_as_last_column() -> None:
    model = in_form(build(Network((Layer(4), Layer(6)))))
    graph = Graph(model)
    for name, inputs, outputs in (("conv0", 3, 5), ("conv1", 12, 7)):
        node = next(n for n in model.graph.node if n.name == name)
        weight = graph.constant(node.input[1])
        assert node.op_type == "Gemm"
        assert weight is not None
        assert weight.shape == (inputs, outputs)


def logits(model: ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"window": x})[0]


def difference(before: ModelProto, after: ModelProto, x: np.ndarray) -> float:
    wanted = logits(before, x)
    return float(np.abs(logits(after, x) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("options", [ONNXRUNTIME, TENSORRT, TENSORRT_HALF], ids=["onnxruntime", "tensorrt", "half"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_in_float32_it_stays_within_rounding_on_onnxruntime(options: GemmOptions, pooling: str) -> None:
    network = Network(tuple(Layer(width, pooling=pooling) for width in (16, 32, 64)), series=64, modal=9)
    model, x = build(network, np.float32), windows(network, 3).astype(np.float32)
    plain, _ = rewrite(model, InlineFunctions())
    made = in_form(model, options)
    assert difference(plain, made, x) <= FP32_BOUND
    assert difference(plain, made, x[:1]) <= FP32_BOUND


def test_control_weights_of_fewer_bits_are_seen_in_float32() -> None:
    network = Network((Layer(16), Layer(32)))
    model, x = build(network, np.float32), windows(network, 3).astype(np.float32)
    made = in_form(model)
    for tensor in made.graph.initializer:
        if tensor.name == "conv1.weight":
            rounded = (np.frombuffer(tensor.raw_data, np.uint32) & np.uint32(0xFFFFE000)).tobytes()  # as TF32
            tensor.raw_data = rounded
    assert difference(rewrite(model, InlineFunctions())[0], made, x) > FP32_BOUND


def test_the_mean_needs_a_column() -> None:
    with pytest.raises(ValueError, match="0 columns"):
        GemmOptions(mean_columns=0)


def test_a_window_of_a_batch_is_what_it_is_alone() -> None:
    network = Network(FOUR)
    made, x = in_form(build(network), TENSORRT_HALF), windows(network, 3)
    alone = np.concatenate([evaluate(made, x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(evaluate(made, x), alone, rtol=0, atol=1e-13)
