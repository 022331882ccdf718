"""What each channel looks like over a set of windows: kept in the model file, to compare live input with.

Overlapping windows count their common samples more than once, as the network sees them.
"""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray

from sattn_edge.axis_statistics import axis_statistics
from sattn_edge.contract import Contract
from sattn_edge.errors import UsageError
from sattn_edge.windows import WindowSet

QUANTILES = (0.001, 0.01, 0.5, 0.99, 0.999)


class Extent(TypedDict):
    """The least and the greatest over windows."""

    min: float
    max: float


class ChannelStatistics(TypedDict):
    """One channel, in its physical unit."""

    name: str
    mean: float
    std: float
    min: float
    max: float
    quantiles: dict[str, float]  # "0.001" to "0.999": values that occur, the nearest in rank
    longest_equal_samples: int  # the longest run of equal values inside a window
    window_mean: Extent


class UnitStatistics(TypedDict):
    """The channels of one unit together, by their places in the contract."""

    unit: str
    channels: list[int]
    window_rms: Extent  # the root of the channels' summed mean squares: whichever way up a sensor lies


class _Always(TypedDict):
    windows: int
    channels: list[ChannelStatistics]
    units: list[UnitStatistics]


class WindowStatistics(_Always, total=False):
    """A set of windows; plain values, ready for JSON."""

    axes: dict[str, Any]  # `axes.AxisRecord`, where there are enough people or recordings to learn one from


def channel_statistics(windows: WindowSet, contract: Contract) -> WindowStatistics:
    """Statistics of each channel over all windows x [n, 1, series, modal], in the contract's order.

    Raises:
        UsageError: the windows have another number of channels than the contract.
    """
    x = windows.x
    if x.shape[-1] != contract.modal:
        raise UsageError(windows.source, f"has {x.shape[-1]} channels", f"the contract has {contract.modal}")
    runs = longest_runs(x[:, 0])
    channels = [_one(x[:, 0, :, i], c.name, int(runs[i])) for i, c in enumerate(contract.channel)]
    found: WindowStatistics = {"windows": len(x), "channels": channels, "units": _units(x[:, 0], contract)}
    axes = axis_statistics(windows, contract)
    if axes is not None:
        found["axes"] = msgspec.json.decode(msgspec.json.encode(axes))
    return found


def _units(x: NDArray[np.float32], contract: Contract) -> list[UnitStatistics]:
    """Windows [n, series, modal] by unit. A channel without a unit is on its own: nothing says what it goes with."""
    groups: dict[str, list[int]] = {}
    for i, channel in enumerate(contract.channel):
        groups.setdefault(channel.unit or f"\n{i}", []).append(i)
    # Window by window, so that the order of windows has no part in how a sum is rounded.
    square = np.stack([np.square(window.astype(np.float64)).mean(axis=0) for window in x])
    return [
        {"unit": contract.channel[places[0]].unit, "channels": places, "window_rms": _extent(square[:, places])}
        for places in groups.values()
    ]


def _extent(square: NDArray[np.float64]) -> Extent:
    level = np.sqrt(square.sum(axis=1))
    return {"min": float(level.min()), "max": float(level.max())}


def _one(values: NDArray[np.float32], name: str, run: int) -> ChannelStatistics:
    means = [float(window.astype(np.float64).mean()) for window in values]
    # Ranks and not interpolation: values that occur, the same whatever the numpy release.
    ordered = np.sort(values, axis=None).astype(np.float64)
    last = len(ordered) - 1
    return {
        "name": name,
        "mean": float(ordered.mean()),
        "std": float(ordered.std()),
        "min": float(ordered[0]),
        "max": float(ordered[-1]),
        "quantiles": {str(q): float(ordered[round(q * last)]) for q in QUANTILES},
        "longest_equal_samples": run,
        "window_mean": {"min": min(means), "max": max(means)},
    }


def longest_runs(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """Each channel's longest run of equal consecutive values in windows [n, series, modal]: int64 [modal]."""
    run = np.ones((x.shape[0], x.shape[2]), np.int64)
    longest = run.copy()
    for time in range(1, x.shape[1]):  # over time and not over windows: few steps, each over all windows
        run = np.where(x[:, time] == x[:, time - 1], run + 1, 1)
        np.maximum(longest, run, out=longest)
    over_all: NDArray[np.int64] = longest.max(axis=0)
    return over_all
