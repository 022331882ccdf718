"""Reading the reference network's architecture from the shapes of a state_dict, and refusing what is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from sattn_edge.contract import contract_from_dict
from sattn_edge.errors import CheckpointError, ContractError, SattnEdgeError
from sattn_edge.network import SpatialAttentionNeuralNetwork
from sattn_export.reference_network import build_reference, read_architecture
from tests.sattn_export.helpers_export import Case, contract_dict, make_contract, make_network

pytestmark = pytest.mark.torch

CASES = st.builds(
    Case,
    window=st.integers(243, 300),
    modal=st.integers(1, 5),
    classes=st.integers(1, 5),
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    pooling=st.sampled_from(["mean", "max", "mean+max"]),
    attention=st.sampled_from([(1, 1), (3, 1), (5, 1), (7, 1), (3, 3), (1, 5)]),
)


@settings(max_examples=30, deadline=None)
@given(CASES)
def test_a_network_is_read_back_props(case: Case) -> None:
    network = make_network(case)
    contract = make_contract(case)
    shape = read_architecture(network.state_dict(), contract, "net.pt")
    assert (shape.widths, shape.kernel, shape.modal) == (case.widths, case.kernel, case.modal)
    assert (shape.classes, shape.pooling, shape.attention_kernel) == (case.classes, case.pooling, case.attention)
    assert shape.least_window == case.stride ** len(case.widths)
    built = build_reference(network.state_dict(), contract, "net.pt")
    assert isinstance(built, SpatialAttentionNeuralNetwork)
    assert not built.training
    x = torch.randn(2, 1, case.window, case.modal)
    with torch.no_grad():
        assert torch.equal(built(x), network(x))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_state_dicts_are_refused_by_name_props(data: st.DataObject) -> None:
    """A key less, a key more, another shape: always an error of ours, and one that names the key."""
    case = Case()
    state: dict[str, Any] = dict(make_network(case).state_dict())
    floats = sorted(k for k, v in state.items() if v.is_floating_point())
    key = data.draw(st.sampled_from(floats))
    kind = data.draw(st.sampled_from(["missing", "extra", "misshapen"]))
    if kind == "missing":
        del state[key]
    elif kind == "extra":
        key = data.draw(st.sampled_from(["extra.weight", "layer.99.bias", "fc.scale"]))
        state[key] = torch.zeros(3)
    else:
        shape = data.draw(st.lists(st.integers(0, 5), max_size=5).filter(lambda s: tuple(s) != state[key].shape))
        state[key] = torch.zeros(shape)
    with pytest.raises(SattnEdgeError) as caught:
        build_reference(state, make_contract(case), "net.pt")
    assert isinstance(caught.value, CheckpointError | ContractError)
    first_block = {"layer.4.weight", "fc.weight", "fc.bias", "layer.0.weight"}
    if key == "layer.1.att_fc.0.weight":  # another gate that could be: then the others are what differs
        assert "att_fc.0.weight" in str(caught.value)
    elif kind == "extra" or key not in first_block:  # those few are what everything else is judged by
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("layer.5.att_fc.0.bias"), "missing layer.5.att_fc.0.bias; exactly the keys of the reference"),
        (lambda s: s.update(junk=torch.zeros(2)), "extra junk; exactly the keys"),
        (lambda s: s.update({"layer.2.bias": torch.zeros(3)}), r"misshapen layer.2.bias \[3\] instead of \[4\]"),
        (lambda s: s.pop("fc.weight"), "lacks key 'fc.weight'"),
        (lambda s: s.update({"fc.weight": torch.zeros(4, 17)}), "'fc.weight' takes 17 values; a multiple of the last"),
        (lambda s: s.update({"layer.0.weight": torch.zeros(4, 1, 3, 3)}), "'layer.0.weight' spans 3 channels"),
        (lambda s: s.update({"layer.1.att_fc.0.weight": torch.zeros(1, 3, 3, 1)}), "takes 3 maps; 1 or 2 pooled maps"),
        (lambda s: s.update({"layer.1.att_fc.0.weight": torch.zeros(1, 1, 2, 1)}), "spans 2x1; odd numbers"),
        (lambda s: s.update({"layer.1.att_fc.0.weight": torch.zeros(1, 1, 3)}), r"has shape \[1, 1, 3\]; 4 dimensions"),
        (lambda s: s.update({"layer.4.weight": torch.zeros(0, 4, 3, 1)}), r"'layer.4.weight' is empty, \[0, 4, 3, 1\]"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("layer")], r"has no 'layer.0.weight' \(it has fc.weight"),
    ],
)
def test_what_is_wrong_is_said(change: Any, text: str) -> None:
    state: dict[str, Any] = dict(make_network(Case()).state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=f"net.pt: .*{text}"):
        build_reference(state, make_contract(Case()), "net.pt")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"window": 3}, "contract, window: 3 samples are too short for 2 blocks of stride 2; at least 4"),
        ({"labels": ["a", "b"]}, "contract, labels: it names 2; the network has 4 classes"),
        (
            {"channel": contract_dict(Case(modal=2))["channel"]},
            r"channels: it names 2 \(ch0, ch1\); the network takes 3",
        ),
        ({"network": {"pooling": "mean+max"}}, r"\[network\] pooling: 'mean\+max'; the gates of net.pt take 1 pooled"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused(changes: dict[str, Any], text: str) -> None:
    contract = contract_from_dict(contract_dict(Case(), **changes), "c.toml")
    with pytest.raises(ContractError, match=text):
        build_reference(make_network(Case()).state_dict(), contract, "net.pt")


def test_the_least_window_is_enough() -> None:
    contract = make_contract(Case(), window=4)
    network = build_reference(make_network(Case()).state_dict(), contract, "net.pt")
    assert network(torch.zeros(1, 1, 4, 3)).shape == (1, 4)


def test_two_pooled_maps_and_a_contract_that_says_max() -> None:
    state = make_network(Case(pooling="mean+max")).state_dict()
    with pytest.raises(ContractError, match=r"'max'; the gates of net.pt take 2 pooled"):
        build_reference(state, make_contract(Case(), network={"pooling": "max"}), "net.pt")
    told = read_architecture(state, make_contract(Case(), network={"stride": 2}), "net.pt")
    assert told.pooling == "mean+max"
