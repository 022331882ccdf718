"""Equalising maps changes no logit, in double precision, for any factors above zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from sattn_edge.passes.equalise import Equalise
from tests.helpers_lowering import Layer, Network, assert_exact, build, networks, rewrite, windows


def factors_for(network: Network, seed: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    widths = [layer.width for layer in network.layers]
    return {f"conv{i + 1}": list(10 ** rng.uniform(-2, 2, size=w)) for i, w in enumerate(widths[:-1])}


@given(networks(norms=False), st.integers(0, 1000))
def test_rule_1_the_network_computes_what_it_did(network, seed):
    model = build(network)
    factors = factors_for(network, seed)
    made, (report,) = rewrite(model, Equalise(factors))
    assert report.changed == len(network.layers) - 1
    assert not report.near_misses
    assert_exact(model, made, windows(network))


def test_control_weights_left_as_they_were_change_the_logits():
    network = Network()
    model = build(network)
    made, _ = rewrite(model, Equalise(factors_for(network, 1)))
    conv = next(n for n in made.graph.node if n.name == "conv1")
    conv.input[1] = "w1"
    with pytest.raises(AssertionError, match="difference"):
        assert_exact(model, made, windows(network))


def test_maps_that_two_layers_read_are_left_alone():
    network = Network((Layer(4), Layer(4), Layer(4)))
    model = build(network)
    norm = next(n for n in model.graph.node if n.name == "bn1")
    norm.input[1] = "gamma0"  # one constant for two layers
    made, _ = rewrite(model, Equalise({"conv1": [1.0, 2.0, 3.0, 4.0], "conv2": [5.0, 6.0, 7.0, 8.0]}))
    assert_exact(model, made, windows(network))
    kept = next(t for t in made.graph.initializer if t.name == "gamma0")
    assert np.array_equal(
        numpy_helper.to_array(kept),
        numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "gamma0")),
    )


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Network(), "its input comes from Div, not from Relu"),
        (Network((Layer(4, norm=False), Layer(4))), "there is no BatchNormalization in front of its Relu"),
    ],
)
def test_a_product_that_can_not_be_served_says_why(network, reason):
    name = "conv0" if reason.startswith("its input") else "conv1"
    _, (report,) = rewrite(build(network), Equalise({name: [2.0] * 4}))
    assert report.changed == 0
    assert [miss.reason for miss in report.near_misses] == [reason]


def test_an_input_that_something_else_reads_is_left_alone():
    network = Network()
    model = build(network)
    pool = next(n for n in model.graph.node if n.name == "pool")
    pool.input[0] = "r0"
    fc = next(t for t in model.graph.initializer if t.name == "fc.weight")
    fc.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(fc)[:, : 4 * 3].copy(), "fc.weight"))
    _, (report,) = rewrite(model, Equalise({"conv1": [2.0] * 4}))
    assert [miss.reason for miss in report.near_misses] == ["something else reads its input"]
