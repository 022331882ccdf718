"""People whose channels can be told apart only by how they go together."""

from __future__ import annotations

from typing import Any

import numpy as np

from sattn_edge.contract import Channel, Contract
from sattn_edge.statistics import channel_statistics
from sattn_edge.windows import WindowSet

WINDOW, RATE = 32, 50.0
NAMES = ("ax", "ay", "az", "wx")
STRETCH = 94  # a minute of windows of 0.64 s


def axes_contract(units: tuple[str, ...] = ("g", "g", "g", "rad/s"), window: int = WINDOW) -> Contract:
    rows = tuple(Channel(n, u) for n, u in zip(NAMES, units, strict=True))
    return Contract(RATE, window, window, ("rest", "walk", "run"), rows)


def person(seed: int, windows: int = 300) -> np.ndarray:
    """Samples [windows * WINDOW, 4]; ax always has twice the level of ay, and az that of ay.

    How much is going on varies by a factor of thirty, so that no channel alone is out of the ordinary.
    """
    rng = np.random.default_rng(seed)
    going_on = np.exp(rng.uniform(-1.7, 1.7, size=(windows, 1, 1)))
    noise = rng.normal(size=(windows, WINDOW, 4)) * [0.4, 0.2, 0.2, 1.0] * np.exp(rng.normal(size=4) * 0.03)
    return (going_on * noise).reshape(-1, 4).astype(np.float32)


def exchanged(x: np.ndarray, a: int, b: int) -> np.ndarray:
    x = x.copy()
    x[:, [a, b]] = x[:, [b, a]]
    return x


def people(count: int = 10, **changes: Any) -> WindowSet:
    """Windows of so many people; changes: other fields of the set."""
    x = np.concatenate([person(i).reshape(-1, 1, WINDOW, 4) for i in range(count)])
    each = len(x) // count
    fields: dict[str, Any] = {
        "x": x,
        "y": None,
        "group": np.repeat([f"p{i}" for i in range(count)], each),
        "start": np.tile(np.arange(each) * WINDOW, count),
        "source": "people",
        "digest": "",
    }
    return WindowSet(**(fields | changes))


def axes_statistics(contract: Contract | None = None) -> Any:
    return channel_statistics(people(), contract or axes_contract())
