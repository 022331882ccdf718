"""Golden windows: the few windows whose logits a model file carries, to be reproduced by every engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.model_file import golden_limit
from sattn_edge.windows import WindowSet

DEFAULT_COUNT = 32
_SEED = 0
_SMOOTH = 5  # samples a synthetic signal is averaged over, so that it has a sensor's memory and is no white noise


def choose_golden(windows: WindowSet, contract: Contract) -> NDArray[np.float32]:
    """Evenly spread windows of every label, float32 [n, 1, series, modal], in the order they were recorded.

    Labels take turns, so that a rare class is there too; without labels the spread is over all windows.
    """
    count = min(DEFAULT_COUNT, golden_limit(contract.window, contract.modal), len(windows.x))
    labels = windows.y if windows.y is not None else np.zeros(len(windows.x), np.int16)
    queues = [_spread(np.flatnonzero(labels == label), count) for label in np.unique(labels)]
    picked: list[int] = []
    for turn in range(count):
        picked += [int(queue[turn]) for queue in queues if turn < len(queue)]
    chosen: NDArray[np.float32] = windows.x[np.sort(picked[:count])]
    return chosen


def _spread(indices: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """At most `count` of the indices, evenly spaced, in an order whose every beginning is spread too."""
    if len(indices) > count:
        indices = indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
    n = len(indices)
    order = np.argsort([int(f"{i:016b}"[::-1], 2) for i in range(n)]) if n else np.zeros(0, int)
    return indices[order]


def draw_golden(contract: Contract) -> NDArray[np.float32]:
    """Synthetic windows from the contract's statistics with a fixed seed, float32 [n, 1, series, modal].

    A smoothed random signal with each channel's mean and std, inside the channel's valid range. Nobody's data.
    """
    count = min(DEFAULT_COUNT, golden_limit(contract.window, contract.modal))
    rng = np.random.default_rng(_SEED)
    noise = rng.standard_normal((count, contract.window + _SMOOTH - 1, contract.modal))
    runs = np.lib.stride_tricks.sliding_window_view(noise, _SMOOTH, axis=1)
    signal = runs.mean(axis=-1) * np.sqrt(_SMOOTH)
    # A level per window and channel: real windows differ in level more than within (posture, offset).
    signal = signal * 0.7 + rng.standard_normal((count, 1, contract.modal)) * 0.7
    x = signal * np.asarray(contract.stds) + np.asarray(contract.means)
    low = [-np.inf if c.min is None else c.min for c in contract.channel]
    high = [np.inf if c.max is None else c.max for c in contract.channel]
    drawn: NDArray[np.float32] = np.clip(x, low, high).astype(np.float32)[:, None]
    return drawn
