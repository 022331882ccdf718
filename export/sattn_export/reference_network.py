"""The reference network from a state_dict: what its shapes tell is read from them, the rest comes from the contract."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch

from sattn_edge.contract import Contract, Pooling
from sattn_edge.errors import CheckpointError, ContractError
from sattn_edge.network import SpatialAttentionNeuralNetwork
from sattn_export.state_dict import COUNTER, StateDict

_BLOCK = 4  # Conv2d, SpatialAttentionModule, BatchNorm2d, ReLU


@dataclass(frozen=True)
class Architecture:
    """What the constructor of the reference network needs."""

    widths: tuple[int, ...]
    kernel: int
    stride: int
    pooling: Pooling
    attention_kernel: tuple[int, int]
    modal: int
    classes: int

    @property
    def least_window(self) -> int:
        """Samples below which some block would see padding only: one step of the last block."""
        return int(math.prod([self.stride] * len(self.widths)))

    def __str__(self) -> str:
        widths = "-".join(str(w) for w in self.widths)
        kt, km = self.attention_kernel
        return f"widths {widths}, kernel {self.kernel}, stride {self.stride}, gates {self.pooling} {kt}x{km}"


def build_reference(state: StateDict, contract: Contract, subject: str) -> SpatialAttentionNeuralNetwork:
    """The reference network with these weights, in inference mode.

    Raises:
        CheckpointError: keys missing, extra or misshapen, each named.
        ContractError: channels, labels, pooling or window that do not fit the weights.
    """
    shape = read_architecture(state, contract, subject)
    network = SpatialAttentionNeuralNetwork(
        (1, 1, contract.window, shape.modal),
        shape.classes,
        shape.widths,
        kernel=shape.kernel,
        stride=shape.stride,
        pooling=shape.pooling,
        attention_kernel=shape.attention_kernel,
    )
    _check_keys(state, network, subject)
    check_contract(contract, modal=shape.modal, classes=shape.classes)
    if contract.window < shape.least_window:
        raise ContractError(
            "contract, window",
            f"{contract.window} samples are too short for {len(shape.widths)} blocks of stride {shape.stride}",
            f"at least {shape.least_window}",
        )
    network.load_state_dict(state, strict=False)  # names and shapes are checked above
    return network.eval()


def check_contract(contract: Contract, *, modal: int, classes: int) -> None:
    """Raises ContractError where channels or labels are not as many as the network's."""
    if contract.modal != modal:
        raise ContractError(
            "contract, channels",
            f"it names {contract.modal} ({', '.join(contract.channel_names)})",
            f"the network takes {modal}",
            "give one [[channel]] per channel it was trained on",
        )
    if len(contract.labels) != classes:
        raise ContractError(
            "contract, labels", f"it names {len(contract.labels)}", f"the network has {classes} classes"
        )


def read_architecture(state: StateDict, contract: Contract, subject: str) -> Architecture:
    """Widths, kernels, channels and classes from the shapes; stride and pooling from the contract."""
    convs = _main_convs(state, subject)
    gates = [_need(state, f"layer.{i + 1}.att_fc.0.weight", subject, dims=4) for i in range(0, _BLOCK * len(convs), 4)]
    head = _need(state, "fc.weight", subject, dims=2)
    widths = tuple(int(w.shape[0]) for w in convs)
    if head.shape[1] % widths[-1]:
        raise CheckpointError(
            subject,
            f"'fc.weight' takes {head.shape[1]} values",
            f"a multiple of the last block's {widths[-1]} feature maps",
            _OTHER,
        )
    return Architecture(
        widths=widths,
        kernel=int(convs[0].shape[2]),
        stride=contract.network.stride,
        pooling=_pooling(gates[0], contract, subject),
        attention_kernel=_gate_kernel(gates[0], subject),
        modal=int(head.shape[1]) // widths[-1],
        classes=int(head.shape[0]),
    )


_OTHER = "for another network export package.module:factory with --weights"


def _main_convs(state: StateDict, subject: str) -> list[torch.Tensor]:
    """The weights of the main convolutions: `layer.0`, `layer.4`, ... without a hole."""
    pattern = re.compile(r"layer\.(\d+)\.weight")
    found = {int(m[1]): t for name, t in state.items() if (m := pattern.fullmatch(name)) and t.ndim == 4}
    if not found:
        some = ", ".join(list(state)[:3])
        raise CheckpointError(
            subject,
            f"has no 'layer.0.weight' (it has {some}, ...)",
            "a state_dict of the reference network",
            _OTHER,
        )
    convs = [_need(state, f"layer.{i}.weight", subject, dims=4) for i in range(0, max(found) + 1, _BLOCK)]
    for i, weight in enumerate(convs):
        if weight.shape[3] != 1:
            raise CheckpointError(
                subject,
                f"'layer.{i * _BLOCK}.weight' spans {weight.shape[3]} channels",
                "kernels along time only, [out, in, kernel, 1]",
                _OTHER,
            )
    return convs


def _need(state: StateDict, name: str, subject: str, *, dims: int) -> torch.Tensor:
    tensor = state.get(name)
    if tensor is None:
        raise CheckpointError(subject, f"lacks key '{name}'", "a state_dict of the reference network", _OTHER)
    if tensor.ndim != dims:
        raise CheckpointError(subject, f"'{name}' has shape {list(tensor.shape)}", f"{dims} dimensions", _OTHER)
    if 0 in tensor.shape:
        raise CheckpointError(subject, f"'{name}' is empty, {list(tensor.shape)}", "dimensions of 1 or more", _OTHER)
    return tensor


def _gate_kernel(gate: torch.Tensor, subject: str) -> tuple[int, int]:
    kt, km = int(gate.shape[2]), int(gate.shape[3])
    if kt % 2 == 0 or km % 2 == 0:
        raise CheckpointError(subject, f"'layer.1.att_fc.0.weight' spans {kt}x{km}", "odd numbers", _OTHER)
    return kt, km


def _pooling(gate: torch.Tensor, contract: Contract, subject: str) -> Pooling:
    """One input map: mean unless the contract says max. Two: both."""
    maps, asked = int(gate.shape[1]), contract.network.pooling
    if maps not in (1, 2):
        raise CheckpointError(subject, f"'layer.1.att_fc.0.weight' takes {maps} maps", "1 or 2 pooled maps", _OTHER)
    told: Pooling = "mean+max" if maps == 2 else (asked or "mean")
    if asked is not None and (asked == "mean+max") != (maps == 2):
        raise ContractError(
            "contract, [network] pooling", f"'{asked}'", f"the gates of {subject} take {maps} pooled map(s)"
        )
    return told


def _check_keys(state: StateDict, network: SpatialAttentionNeuralNetwork, subject: str) -> None:
    """Names every key that is missing, extra or misshapen, the first few in full."""
    wanted = network.state_dict()
    missing = [k for k in wanted if k not in state and not k.endswith(COUNTER)]
    extra = [k for k in state if k not in wanted]
    misshapen = [
        f"{k} {list(state[k].shape)} instead of {list(t.shape)}"
        for k, t in wanted.items()
        if k in state and state[k].shape != t.shape
    ]
    parts = [
        f"{kind} {_some(names)}"
        for kind, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if names
    ]
    if parts:
        raise CheckpointError(subject, "; ".join(parts), "exactly the keys of the reference network", _OTHER)


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
