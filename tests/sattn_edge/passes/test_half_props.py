"""Graphs typed float16, in every attention form: what they must look like, and how far they may be from float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from sattn_edge.calibration_table import LayerChoice
from sattn_edge.graph import Graph
from sattn_edge.half_emulator import HalfRun, emulate
from sattn_edge.passes.base import Pass
from sattn_edge.passes.fold_batch_norm import FoldBatchNorm
from sattn_edge.passes.folded import Folded
from sattn_edge.passes.gemm import TENSORRT, TENSORRT_HALF, GemmForm
from sattn_edge.passes.half import MOVES, PRODUCTS, Half
from sattn_edge.passes.half_typing import element_types, write_types
from sattn_edge.passes.inline import InlineFunctions
from sattn_edge.passes.quantize_tensorrt import QuantizeTensorRT
from sattn_edge.passes.raise_opset import RaiseOpset
from sattn_edge.passes.taps import Taps
from tests.helpers_lowering import Layer, Network, build, networks, rewrite, windows

BOUND = 1e-3
BOUND_TINY = 4e-3  # of networks with a map or two, where no errors cancel out: 1.2e-3 was seen
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
FORMS: dict[str, tuple[Pass, ...]] = {
    "reference": (InlineFunctions(),),
    "folded": (Folded(), InlineFunctions(), FoldBatchNorm()),
    "taps": (Taps(), InlineFunctions(), FoldBatchNorm()),
    "gemm": (GemmForm(TENSORRT), InlineFunctions()),
    "gemm-even": (GemmForm(TENSORRT_HALF), InlineFunctions()),
}
forms = st.sampled_from(sorted(FORMS))
DEEP = Network((Layer(16), Layer(32), Layer(32), Layer(48)), series=64, modal=4)


def lowered(network: Network, form: str) -> ModelProto:
    return rewrite(build(network, np.float32), *FORMS[form])[0]


def everything(model: ModelProto) -> ModelProto:
    """The control: every node float16, as a converter without rules types a graph."""
    made = ModelProto()
    made.CopyFrom(model)
    graph = Graph(made)
    types = element_types(made)
    floats = [n for n in made.graph.node if any(types.get(name) == FLOAT for name in (*n.input, *n.output))]
    write_types(graph, types, floats)
    return made


def difference(run: HalfRun, wanted: np.ndarray) -> float:
    return float(np.abs(run.logits - wanted).max() / np.abs(wanted).max())


def check_types(model: ModelProto) -> None:
    """Every node of one float type, casts only where types meet, and once for each value."""
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    types, graph = element_types(model), Graph(model)
    casts = [n for n in model.graph.node if n.op_type == "Cast"]
    for node in (n for n in model.graph.node if n.op_type != "Cast"):
        held = {types[name] for name in (*node.input, *node.output) if name} & {FLOAT, FLOAT16}
        assert len(held) <= 1, f"{node.name} mixes types"
        if FLOAT16 in held:
            assert node.op_type in PRODUCTS | MOVES | {"QuantizeLinear", "DequantizeLinear"}
    assert len({n.input[0] for n in casts}) == len(casts), "a value is cast twice"
    for cast in casts:
        assert cast.input[0] not in graph.initializers, "a constant is cast"
        assert types[cast.input[0]] != types[cast.output[0]]
        assert cast.output[0] in graph.outputs or graph.consumers[cast.output[0]], "a cast nobody reads"
        assert "Cast" not in {n.op_type for n in graph.consumers[cast.output[0]]}, "two casts in a row"


def integers(model: ModelProto) -> dict[str, bytes]:
    kinds = (FLOAT, FLOAT16)
    return {t.name: t.SerializeToString() for t in model.graph.initializer if t.data_type not in kinds}


@settings(max_examples=60)
@given(network=networks(), form=forms)
def test_typed_graphs_are_well_typed(network: Network, form: str) -> None:
    before = lowered(network, form)
    after, (report,) = rewrite(before, Half())
    check_types(after)
    for row in (*after.graph.input, *after.graph.output):
        assert row.type.tensor_type.elem_type == FLOAT
    assert integers(after) == integers(before)
    products = [n for n in after.graph.node if n.op_type in PRODUCTS]
    assert report.changed == sum(element_types(after)[n.output[0]] == FLOAT16 for n in products)
    shapes = Graph(after, shapes=True).shapes
    wanted = Graph(before, shapes=True).shapes
    assert all(shapes[name] == shape for name, shape in wanted.items())


@pytest.mark.parametrize("wrong", ["twice", "unread"])
def test_casts_that_are_not_needed_are_seen(wrong: str) -> None:
    """The control of the check above."""
    model = rewrite(lowered(DEEP, "reference"), Half())[0]
    at, cast = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "Cast")
    more = onnx.helper.make_node("Cast", [cast.input[0]], ["more"], name="more", to=FLOAT16)
    model.graph.node.insert(at, more)
    if wrong == "unread":
        more = model.graph.node[at]
        more.input[0] = next(n.output[0] for n in model.graph.node if n.op_type == "Sub")
    with pytest.raises(AssertionError, match=wrong if wrong == "twice" else "nobody reads"):
        check_types(model)


@settings(max_examples=40)
@given(network=networks(), form=forms)
def test_int8_graphs_are_well_typed(network: Network, form: str) -> None:
    choices = {f"conv{i}": LayerChoice(f"conv{i}", True, low=-3.0, high=3.0) for i in range(1, len(network.layers))}
    before = rewrite(lowered(network, form), QuantizeTensorRT(choices), RaiseOpset(19))[0]
    after = rewrite(before, Half())[0]
    check_types(after)
    assert emulate(after, windows(network, 4).astype(np.float32)).overflow == ()


@pytest.mark.parametrize("form", sorted(FORMS))
def test_int8_agrees_and_does_not_with_another_scale(form: str) -> None:
    """Beside INT8 in float32; the control has a DequantizeLinear with 1.2 times the scale of its QuantizeLinear."""
    network = replace(DEEP, seed=1)
    before = lowered(network, form)
    choices = {f"conv{i}": LayerChoice(f"conv{i}", True, low=-3.0, high=3.0) for i in (1, 2, 3)}
    before = rewrite(before, QuantizeTensorRT(choices), RaiseOpset(19))[0]
    after = rewrite(before, Half())[0]
    x = windows(network, 32).astype(np.float32)
    wanted = emulate(before, x).logits
    assert difference(emulate(after, x), wanted) <= BOUND
    for i in (1, 2, 3):
        back = next(n for n in after.graph.node if n.name == f"conv{i}.input.dequantize")
        scale = next(t for t in after.graph.initializer if t.name == back.input[1])
        value = onnx.numpy_helper.to_array(scale)
        scale.CopyFrom(onnx.numpy_helper.from_array((value * 1.2).astype(value.dtype), scale.name))
    assert difference(emulate(after, x), wanted) > BOUND


@settings(max_examples=60)
@given(network=networks(), form=forms)
def test_typed_graphs_agree(network: Network, form: str) -> None:
    before = lowered(network, form)
    x = windows(network, 4).astype(np.float32)
    wanted = emulate(before, x).logits
    run = emulate(rewrite(before, Half())[0], x)
    assert run.overflow == ()
    assert difference(run, wanted) <= BOUND_TINY


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_deep_network_agrees_with_margin(form: str, seed: int) -> None:
    network = replace(DEEP, seed=seed)
    before = lowered(network, form)
    x = windows(network, 32).astype(np.float32)
    wanted = emulate(before, x).logits
    run = emulate(rewrite(before, Half())[0], x)
    assert difference(run, wanted) <= BOUND / 2
    assert run.headroom > 100


def test_everything_in_float16_does_not_agree() -> None:
    """The control of the bounds: raw units of 20000, a normalisation in float16, and logits rounded."""
    network = DEEP
    before = lowered(network, "taps")
    mean = next(t for t in before.graph.initializer if t.name == "mean")
    offset = np.full(tuple(mean.dims), 20000, np.float32)
    mean.CopyFrom(onnx.numpy_helper.from_array(offset, "mean"))
    x = (windows(network, 32) + 20000).astype(np.float32)
    wanted = emulate(before, x).logits
    assert difference(emulate(rewrite(before, Half())[0], x), wanted) <= BOUND
    assert difference(emulate(everything(before), x), wanted) > 3 * BOUND
