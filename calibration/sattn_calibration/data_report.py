"""What a set of windows is made of: what a person should look at before trusting ranges that come from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_calibration.overlap import Positions, duplicates, effective_windows, overlapping, positions
from sattn_edge.contract import Channel, Contract
from sattn_edge.windows import WindowSet

SATURATED = 1e-3
"""A channel is called saturated where more than this share of its samples stay at the extreme value."""
UNSCORED = "(unscored)"


@dataclass(frozen=True, slots=True)
class ChannelReport:
    """One channel, in its unit, over all samples of all windows; shares are of 1.

    mean_offset: of the contract's mean, in its standard deviations; std_ratio: to the contract's; both None where it
    gives none. outside: beyond the contract's min and max. at_minimum, at_maximum: at the extreme value, and so is a
    neighbour in time; a sensor at its limit does that. dead: one value only.
    """

    name: str
    unit: str
    minimum: float
    maximum: float
    mean: float
    std: float
    mean_offset: float | None
    std_ratio: float | None
    outside: float
    at_minimum: float
    at_maximum: float
    dead: bool
    saturated: bool


@dataclass(frozen=True, slots=True)
class DataReport:
    """A set of windows.

    effective_windows: without overlap they would be so many. exceedance: the chance that the next such window goes
    beyond all of these in any one quantity, 1 / (n + 1) where windows come in no particular order. duplicates: equal
    to an earlier window. overlapping: share of the windows that share samples with another. order_from: how their
    place in time is known. classes and groups: windows of each; empty where not known.
    """

    source: str
    digest: str
    windows: int
    effective_windows: float
    exceedance: float
    duplicates: int
    overlapping: float
    order_from: str
    classes: dict[str, int]
    groups: dict[str, int]
    channels: tuple[ChannelReport, ...]

    @property
    def dead(self) -> tuple[str, ...]:
        """Channels with one value only."""
        return tuple(c.name for c in self.channels if c.dead)

    @property
    def saturated(self) -> tuple[str, ...]:
        """Channels at their limit for more than a thousandth of the time."""
        return tuple(c.name for c in self.channels if c.saturated)

    @property
    def missing_classes(self) -> tuple[str, ...]:
        """Labels no window has, where labels are known."""
        return tuple(name for name, count in self.classes.items() if not count)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def data_report(windows: WindowSet, contract: Contract) -> DataReport:
    """Describes windows x [n, 1, series, modal]; they have to be finite."""
    places = positions(windows, contract.hop)
    effective = effective_windows(windows, places)
    return DataReport(
        source=windows.source,
        digest=windows.digest,
        windows=len(windows.x),
        effective_windows=round(effective, 1),
        exceedance=1 / (effective + 1),
        duplicates=int(duplicates(windows.x).sum()),
        overlapping=_overlapping_share(places, windows.x.shape[2]),
        order_from=places.source,
        classes=_classes(windows, contract),
        groups=_groups(windows),
        channels=tuple(_channel(windows.x[:, 0, :, i], c) for i, c in enumerate(contract.channel)),
    )


def _overlapping_share(places: Positions, window: int) -> float:
    return float(overlapping(places, window).mean()) if places.source != "order" else 0.0


def _classes(windows: WindowSet, contract: Contract) -> dict[str, int]:
    if windows.y is None:
        return {}
    counts = {name: int((windows.y == i).sum()) for i, name in enumerate(contract.labels)}
    unscored = int((windows.y < 0).sum())
    return {**counts, UNSCORED: unscored} if unscored else counts


def _groups(windows: WindowSet) -> dict[str, int]:
    return dict(sorted(Counter(windows.group.tolist()).items())) if windows.group is not None else {}


def _channel(values: NDArray[np.float32], channel: Channel) -> ChannelReport:
    """One channel's values [n, series]."""
    low, high = float(values.min()), float(values.max())
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    dead = low == high
    at_minimum, at_maximum = (0.0, 0.0) if dead else (_stays(values == low), _stays(values == high))
    return ChannelReport(
        name=channel.name,
        unit=channel.unit,
        minimum=low,
        maximum=high,
        mean=mean,
        std=std,
        mean_offset=None if channel.mean is None or channel.std is None else (mean - channel.mean) / channel.std,
        std_ratio=None if channel.std is None else std / channel.std,
        outside=outside_share(values, channel),
        at_minimum=at_minimum,
        at_maximum=at_maximum,
        dead=dead,
        saturated=max(at_minimum, at_maximum) > SATURATED,
    )


def outside_share(values: NDArray[np.float32], channel: Channel) -> float:
    """The share of samples below the contract's min or above its max."""
    low = -np.inf if channel.min is None else np.float32(channel.min)
    high = np.inf if channel.max is None else np.float32(channel.max)
    return float(((values < low) | (values > high)).mean())


def _stays(at: NDArray[np.bool_]) -> float:
    """The share of samples [n, series] that are at a value together with a neighbour in time."""
    pairs = at[:, 1:] & at[:, :-1]
    both = np.zeros_like(at)
    both[:, 1:] |= pairs
    both[:, :-1] |= pairs
    return float(both.mean())
