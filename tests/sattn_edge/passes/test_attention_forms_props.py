"""The forms of the attention block compute what the block computes: random networks, in double, to 1e-12."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from sattn_edge.graph import Graph, set_attribute
from sattn_edge.passes import Pass
from sattn_edge.passes.composed import Composed
from sattn_edge.passes.fold_batch_norm import SMALLEST, FoldBatchNorm
from sattn_edge.passes.folded import Folded
from sattn_edge.passes.inline import InlineFunctions
from sattn_edge.passes.mean_conv import MeanConv
from sattn_edge.passes.taps import Taps
from tests.helpers_lowering import Layer, Network, assert_exact, build, networks, rewrite, windows

FORMS: list[Pass] = [Folded(), Taps(), MeanConv(), Composed()]
DIVIDING = ("folded", "taps")
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


def check_shapes(model: ModelProto) -> None:
    """Every value has a shape, known but for the batch."""
    graph = Graph(model, shapes=True)
    for node in model.graph.node:
        shape = graph.shapes[node.output[0]]
        assert None not in shape[1:], (node.name, shape)


def check(model: ModelProto, form: Pass, x: np.ndarray, forms: int, folds: int) -> None:
    """A form writes `forms` blocks, exactly, and with the BatchNormalization of `folds` of them in the conv too."""
    written, (report,) = rewrite(model, form)
    assert report.changed == forms
    check_shapes(written)
    assert_exact(model, written, x)
    whole, reports = rewrite(written, InlineFunctions(), FoldBatchNorm())
    assert reports[-1].changed == folds, reports[-1].near_misses
    assert not whole.functions
    check_shapes(whole)
    assert_exact(model, whole, x)


def scales(model: ModelProto, i: int) -> np.ndarray:
    """|k| of block i, relative to the largest."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    size = np.abs(arrays[f"gamma{i}"]) / np.sqrt(arrays[f"var{i}"] + 1e-5)
    return size / max(size.max(), 1e-300)


def expected(model: ModelProto, network: Network, form: Pass) -> tuple[int, int]:
    """How many blocks a form writes, and how many BatchNormalizations can then be folded."""
    forms = folds = 0
    for i, layer in enumerate(network.layers):
        done = layer.pooling == "mean" or form.name == "taps"
        forms += done
        if not layer.norm or layer.pooling != "mean":
            continue  # a maximum can't be divided by the scale
        folds += not (form.name in DIVIDING and scales(model, i).min() < SMALLEST)
    return forms, folds


@st.composite
def uneven(draw: st.DrawFn) -> Network:
    """Networks whose gates pad more on one side: any share of what keeps the length."""
    network = draw(networks())
    tops = [draw(st.integers(0, layer.attention - 1)) for layer in network.layers]
    layers = [
        replace(la, attention_pads=(top, la.attention - 1 - top)) for la, top in zip(network.layers, tops, strict=True)
    ]
    return replace(network, layers=tuple(layers))


@st.composite
def both_axes(draw: st.DrawFn) -> Network:
    """Networks whose main convs and gates mix channels too; the pooling is the mean."""
    network = draw(networks(poolings=("mean",), max_depth=3))
    layers = [
        replace(la, kernel_m=draw(st.sampled_from([1, 3])), attention_m=draw(st.integers(1, 4)))
        for la in network.layers
    ]
    return replace(network, layers=tuple(layers))


@each_form
@settings(max_examples=60)
@given(network=uneven())
def test_any_network_is_computed_exactly(form: Pass, network: Network) -> None:
    model = build(network)
    check(model, form, windows(network), *expected(model, network, form))


@pytest.mark.parametrize("form", [Folded(), MeanConv()], ids=lambda form: form.name)
@settings(max_examples=60)
@given(network=both_axes())
def test_gates_over_both_axes_are_computed_exactly(form: Pass, network: Network) -> None:
    model = build(network)
    check(model, form, windows(network), *expected(model, network, form))


@pytest.mark.parametrize("form", [MeanConv(), Composed()], ids=lambda form: form.name)
@settings(max_examples=60)
@given(
    network=networks(poolings=("mean",), max_depth=1),
    dilation=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_main_convs_with_dilation_and_uneven_pads(
    form: Pass, network: Network, dilation: int, pads: tuple[int, int]
) -> None:
    reach = dilation * (network.layers[0].kernel - 1) + 1
    bottom = max(pads[1], reach - network.series - pads[0])
    model = build(network)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    set_attribute(conv, "dilations", [dilation, 1])
    set_attribute(conv, "pads", [pads[0], 0, bottom, 0])
    check(model, form, windows(network), *expected(model, network, form))


@settings(max_examples=60)
@given(network=networks(poolings=("mean",)), smallest=st.floats(1.01 * SMALLEST, 1), scale=st.floats(1e-6, 1))
def test_scales_as_small_as_are_divided_by_stay_exact(network: Network, smallest: float, scale: float) -> None:
    """Each product with a scale and the division by it round once, whatever the scale: 1e-12 needs no condition."""
    network = replace(network, zero_scales=0, layers=tuple(replace(la, norm=True) for la in network.layers))
    model = build(network)
    for row in model.graph.initializer:
        if row.name.startswith("gamma"):
            signs = np.sign(numpy_helper.to_array(row))
            gamma = signs * np.linspace(smallest, 1, len(signs)) * scale
            deviation = np.sqrt(array(model, row.name.replace("gamma", "var")) + 1e-5)
            row.CopyFrom(numpy_helper.from_array(gamma * deviation, row.name))
    check(model, Folded(), windows(network), len(network.layers), len(network.layers))


# -- controls: each form with one thing wrong is told from the right one


def array(model: ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def alter(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    row = next(t for t in model.graph.initializer if t.name == name)
    row.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(row)), name))


def shift_pads(pads: np.ndarray) -> np.ndarray:
    return pads + np.array([0, 0, 1, 0, 0, 0, -1, 0])


def unmasked(mask: np.ndarray) -> np.ndarray:
    return np.full_like(mask, mask.max())


def flat(bias: np.ndarray) -> np.ndarray:
    return np.full_like(bias, bias[0, 0, 1, 0])


@pytest.mark.parametrize(
    ("form", "name", "change"),
    [
        (Folded(), "att1.conv.weight", lambda w: w * w.shape[1]),
        (Taps(), "att1.pads", shift_pads),
        (MeanConv(), "att1.mean.bias", np.zeros_like),
        (Composed(), "att1.mask", unmasked),
        (Composed(), "att1.bias", flat),
    ],
    ids=["sum for mean", "taps one late", "no bias", "end not masked", "bias not masked"],
)
def test_a_form_with_one_thing_wrong_is_told_apart(form: Pass, name: str, change: Any) -> None:
    network = Network()
    model, x = build(network), windows(network)
    written, _ = rewrite(model, form)
    assert_exact(model, written, x)
    alter(written, name, change)
    with pytest.raises(AssertionError, match="difference"):
        assert_exact(model, written, x)


@pytest.mark.parametrize("form", [Folded(), Taps()], ids=lambda form: form.name)
def test_a_gate_that_reads_the_scaled_map_is_told_apart(form: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network((Layer(4), Layer(6)))
    model, x = build(network), windows(network)
    passes = (form, InlineFunctions(), FoldBatchNorm())
    assert_exact(model, rewrite(model, *passes)[0], x)

    def forget(graph: Any, reader: Any, k: np.ndarray, dtype: Any) -> None:
        real(graph, reader, np.ones_like(k), dtype)

    module = "sattn_edge.passes.fold_batch_norm"
    real = __import__(module, fromlist=["_divide"])._divide
    monkeypatch.setattr(f"{module}._divide", forget)
    with pytest.raises(AssertionError, match="difference"):
        assert_exact(model, rewrite(model, *passes)[0], x)


def test_a_shape_that_gets_lost_is_told() -> None:
    model = build(Network())
    model.graph.node.append(helper.make_node("Reshape", ["r0", "computed"], ["lost"], name="lost"))
    with pytest.raises(KeyError, match="lost"):
        check_shapes(model)
