"""The contract: what the network's input means, written by a person as TOML, carried in the model file as JSON.

rate_hz = 50.0
window = 128                    # samples
hop = 64                        # samples from one window to the next
labels = ["walking", "sitting"]

[[channel]]                     # one table per sensor channel, in the network's order
name = "acc_x"
unit = "g"
mean = 0.8                      # physical units; mean and std go together
std = 0.4
min = -8.0                      # valid range, optional
max = 8.0

[network]                       # only what a state_dict can't tell
stride = 2
pooling = "mean"
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from sattn_edge.errors import ContractError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

# What float32 holds; normalisation is computed in it.
_SMALLEST, _LARGEST = 1.1754944e-38, 3.4028234e38

Pooling = Literal["mean", "max", "mean+max"]


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One sensor channel. `mean`, `std`, `min`, `max` are in `unit`; without mean and std nothing is normalised."""

    name: str
    unit: str = ""
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None


class NetworkHints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a state_dict can't tell of the reference network."""

    stride: int = 2
    pooling: Pooling | None = None


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sampling rate, window and hop in samples, labels in class order, channels in the network's order."""

    rate_hz: float
    window: int
    hop: int
    labels: tuple[str, ...]
    channel: tuple[Channel, ...]
    network: NetworkHints = NetworkHints()

    @property
    def modal(self) -> int:
        """The number of sensor channels."""
        return len(self.channel)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels' names in the network's order."""
        return tuple(c.name for c in self.channel)

    @property
    def means(self) -> tuple[float, ...]:
        """Per-channel mean in physical units, 0 where the contract gives none."""
        return tuple(c.mean if c.mean is not None else 0.0 for c in self.channel)

    @property
    def stds(self) -> tuple[float, ...]:
        """Per-channel standard deviation in physical units, 1 where the contract gives none."""
        return tuple(c.std if c.std is not None else 1.0 for c in self.channel)

    @property
    def hop_s(self) -> float:
        """Seconds from one window to the next."""
        return self.hop / self.rate_hz

    @property
    def window_s(self) -> float:
        """Seconds a window spans."""
        return self.window / self.rate_hz


def load_contract(path: Path) -> Contract:
    """Reads and checks a contract file.

    Raises:
        ContractError: not there, not TOML, an unknown or missing key, or a value that can't be.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(str(path), f"can't be read ({error})", "a contract is a TOML file") from error
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5000 digits is a plain ValueError
        raise ContractError(str(path), f"is not TOML ({error})", "a contract is a TOML file") from error
    return contract_from_dict(raw, str(path))


def contract_from_dict(raw: object, subject: str) -> Contract:
    """Builds and checks a contract from plain dicts and lists; `subject` names it in errors."""
    if isinstance(raw, dict):
        _check_keys(raw, subject)
    try:
        contract = msgspec.convert(raw, Contract)
    except msgspec.ValidationError as error:
        raise ContractError(subject, _plain(str(error)), todo=_HOW) from error
    check(contract, subject)
    return contract


_HOW = "a contract has rate_hz, window, hop, labels and one [[channel]] with a name for each sensor channel"


def _plain(message: str) -> str:
    """Msgspec's message in a user's words: its `$.channel[0]` is `channel[0]` in the file."""
    message = message.replace("Object missing required field", "missing key")
    return message.replace(" - at `$.", " at `").replace(" - at `$`", "")


def _check_keys(raw: dict[str, Any], subject: str) -> None:
    """Unknown keys, with the nearest known one; msgspec alone would name the first and suggest nothing."""
    _known(raw, Contract, subject)
    channels = raw.get("channel")
    for i, row in enumerate(channels if isinstance(channels, list) else []):
        if isinstance(row, dict):
            _known(row, Channel, f"{subject}, channel {row.get('name', i)!r}")
    network = raw.get("network")
    if isinstance(network, dict):
        _known(network, NetworkHints, f"{subject}, [network]")


def _known(raw: dict[str, Any], kind: type, subject: str) -> None:
    known = list(get_type_hints(kind))
    unknown = [key for key in raw if key not in known]
    if unknown:
        raise ContractError(subject, f"unknown key '{unknown[0]}'", did_you_mean(unknown[0], known))


def check(contract: Contract, subject: str) -> None:
    """Everything a type can't say. Raises ContractError naming the first thing that can't be."""
    _positive(contract, subject)
    if not contract.labels:
        raise ContractError(subject, "labels is empty", "one label per class, in the order of the logits")
    if not contract.channel:
        raise ContractError(subject, "there is no [[channel]]", "one per sensor channel, in the network's order")
    _no_repeats(list(contract.labels), "label", subject)
    _no_repeats(list(contract.channel_names), "channel", subject)
    for channel in contract.channel:
        _check_channel(channel, f"{subject}, channel '{channel.name}'")
    given = [c.mean is not None for c in contract.channel]
    if any(given) and not all(given):
        name = contract.channel[given.index(False)].name
        raise ContractError(f"{subject}, channel '{name}'", "mean and std are missing, other channels have them")


def _positive(contract: Contract, subject: str) -> None:
    if not (math.isfinite(contract.rate_hz) and contract.rate_hz > 0):
        raise ContractError(subject, f"rate_hz is {contract.rate_hz}", "samples a second, above 0")
    for key, value in (
        ("window", contract.window),
        ("hop", contract.hop),
        ("stride", contract.network.stride),
    ):
        if value < 1:
            raise ContractError(subject, f"{key} is {value}", "a number of samples, 1 or more")


def _no_repeats(names: list[str], kind: str, subject: str) -> None:
    for i, name in enumerate(names):
        if not name.strip():
            raise ContractError(subject, f"{kind} {i} has an empty name", f"every {kind} has a name")
        if not name.isprintable():
            raise ContractError(subject, f"{kind} {i} is named {name!r}", "a name without control characters")
        if name in names[:i]:
            raise ContractError(subject, f"{kind} '{name}' stands twice", f"every {kind} has its own name")


def _check_channel(channel: Channel, subject: str) -> None:
    if (channel.mean is None) != (channel.std is None):
        raise ContractError(subject, "only one of mean and std is given", "both, or neither")
    for key in ("mean", "std", "min", "max"):
        value = getattr(channel, key)
        if value is not None and not math.isfinite(value):
            raise ContractError(subject, f"{key} is {value}", "a finite number")
    if not channel.unit.isprintable():
        raise ContractError(subject, f"unit is {channel.unit!r}", "a unit without control characters")
    if channel.std is not None and channel.std <= 0:
        raise ContractError(
            subject, f"std is {channel.std}", "above 0", "leave a constant channel out, or give its std as 1"
        )
    if channel.std is not None and not (_SMALLEST <= channel.std <= _LARGEST and abs(channel.mean or 0) <= _LARGEST):
        raise ContractError(
            subject,
            f"mean {channel.mean:g} and std {channel.std:g} do not fit float32",
            f"std from {_SMALLEST:.2g}, both up to {_LARGEST:.2g}",
            "give the channel another unit",
        )
    if channel.min is not None and channel.max is not None and channel.min >= channel.max:
        raise ContractError(subject, f"min {channel.min} is not below max {channel.max}")
