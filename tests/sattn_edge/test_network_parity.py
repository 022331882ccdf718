"""The reference network against its definition, written out by hand with torch.nn.functional."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch.nn import functional as F

from sattn_edge.errors import UsageError
from sattn_edge.network import SpatialAttentionModule, SpatialAttentionNeuralNetwork
from tests.helpers_nets import NETS, SHARED


def _by_hand(x, state, widths, stride, pooling):
    """The network as the design defines it, from nothing but a state_dict."""
    for i in range(len(widths)):
        conv, gate, norm = f"layer.{4 * i}", f"layer.{4 * i + 1}.att_fc.0", f"layer.{4 * i + 2}"
        kernel = state[f"{conv}.weight"].shape[2]
        x = F.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], (stride, 1), (kernel // 2, 0))
        mean, top = x.sum(1, keepdim=True) / x.shape[1], x.max(1, keepdim=True).values
        pooled = {"mean": mean, "max": top, "mean+max": torch.cat([mean, top], 1)}[pooling]
        kt, km = state[f"{gate}.weight"].shape[2:]
        logit = F.conv2d(pooled, state[f"{gate}.weight"], state[f"{gate}.bias"], 1, (kt // 2, km // 2))
        x = x / (1 + torch.exp(-logit))
        shape = (1, -1, 1, 1)
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-5)
        x = (x - state[f"{norm}.running_mean"].view(shape)) * scale.view(shape) + state[f"{norm}.bias"].view(shape)
        x = x.clamp(min=0)
    return x.mean(2).flatten(1) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize(
    ("widths", "kernel", "stride", "pooling", "attention_kernel", "window", "modal"),
    [
        ((64, 128, 256, 512), 3, 2, "mean", 3, 128, 9),
        ((4,), 3, 1, "max", 5, 37, 1),
        ((4, 6), 4, 2, "mean+max", 7, 40, 3),
        ((3, 5, 7, 4, 2), 5, 3, "mean", (3, 3), 301, 12),
        ((8, 8, 8), 7, 2, "max", 1, 200, 2),
    ],
)
def test_network_is_its_definition(widths, kernel, stride, pooling, attention_kernel, window, modal) -> None:
    torch.manual_seed(1)
    network = SpatialAttentionNeuralNetwork(
        (99, 1, window, modal),
        5,
        widths,
        kernel=kernel,
        stride=stride,
        pooling=pooling,
        attention_kernel=attention_kernel,
    ).double()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.3)
    x = torch.randn(3, 1, window, modal, dtype=torch.float64)
    with torch.no_grad():
        ours = network.eval()(x)
    theirs = _by_hand(x, network.state_dict(), widths, stride, pooling)
    assert ours.shape == (3, 5)
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()
    if pooling != "mean+max":  # the comparison can tell one pooling from the other
        other = _by_hand(x, network.state_dict(), widths, stride, "max" if pooling == "mean" else "mean")
        assert (ours - other).abs().max() > 1e-6 * theirs.abs().max()


def test_names_are_the_fixed_ones() -> None:
    names = set(SpatialAttentionNeuralNetwork((1, 1, 128, 9), 6).state_dict())
    assert {"layer.0.weight", "layer.1.att_fc.0.weight", "layer.2.running_mean", "layer.14.bias", "fc.weight"} <= names
    assert SpatialAttentionNeuralNetwork((1, 1, 128, 9), 6).state_dict()["fc.weight"].shape == (6, 512 * 9)


@pytest.mark.parametrize("kernel", [2, (3, 2), 0])
def test_even_attention_kernel_is_refused(kernel) -> None:
    with pytest.raises(UsageError, match="odd numbers, so that the map keeps its shape"):
        SpatialAttentionModule(kernel)


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(UsageError, match="got 'median'; mean, max or mean\\+max"):
        SpatialAttentionModule(3, "median")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETS)
def test_foreign_state_dicts_load_unchanged(name: str) -> None:
    path = SHARED / f"{name}_net.pt"
    if not path.exists():
        pytest.skip("the foreign checkpoints are not beside the repository")
    state = torch.load(path, weights_only=True)
    classes, features = state["fc.weight"].shape
    network = SpatialAttentionNeuralNetwork((1, 1, 128, features // 512), classes)
    network.load_state_dict(state, strict=True)
