"""What `--watch` shows, as lines of text from plain numbers: no terminal here, so that tests can look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge.text import microseconds

BLOCKS = "▁▂▃▄▅▆▇█"
NONE = "·"  # no sample, or none that is finite
_BAR = 24


@dataclass(frozen=True)
class Shown:
    """What one picture is made of.

    samples: float32 [n, modal], the latest, oldest first. attention: relative weight over the latest window's time,
    where the engine gives it.
    """

    stream: str
    channels: tuple[str, ...]
    units: tuple[str, ...]
    samples: NDArray[np.float32]
    seconds: float
    label: str | None
    reason: str | None
    score: float | None
    window: int
    lasting_s: float
    attention: Sequence[float] | None
    counts: dict[str, int]
    latency_us: dict[str, float]
    deadline_us: float


def sparkline(values: NDArray[np.float32], width: int) -> str:
    """`width` blocks, each the mean of its part of the values, between the least and the largest of those means."""
    if width < 1:
        return ""
    if not len(values):
        return NONE * width
    parts = np.array_split(values, width) if len(values) >= width else [values[i : i + 1] for i in range(len(values))]
    means = [float(good.mean()) if len(good := part[np.isfinite(part)]) else float("nan") for part in parts]
    known = [mean for mean in means if mean == mean]
    if not known:
        return NONE * width
    low, span = min(known), max(known) - min(known)
    top = len(BLOCKS) - 1
    text = "".join(
        NONE if mean != mean else BLOCKS[round((mean - low) / span * top) if span > 0 else top // 2] for mean in means
    )
    return text.rjust(width, NONE)


def picture(shown: Shown, width: int) -> list[str]:
    """The lines of the view, none wider than `width`."""
    names = [f"{c} ({u})" if u else c for c, u in zip(shown.channels, shown.units, strict=True)]
    most = max(map(len, names), default=0)
    room = max(10, width - most - 26)
    lines = [f"{shown.stream}, the last {shown.seconds:g} s"]
    for i, name in enumerate(names):
        column = shown.samples[:, i] if len(shown.samples) else np.zeros(0, np.float32)
        lines.append(f"{name.ljust(most)}  {sparkline(column, room)}  {_range(column)}")
    if shown.attention is not None:
        weights = np.asarray(shown.attention, np.float32)
        lines.append(f"{'attention'.ljust(most)}  {sparkline(weights, room)}  over the latest window")
    lines += ["", *_decision(shown), "", *_figures(shown)]
    return [line[:width] for line in lines]


def _range(column: NDArray[np.float32]) -> str:
    good = column[np.isfinite(column)]
    if not len(good):
        return "no finite value"
    return f"{good.min():9.3g} to {good.max():.3g}"


def _decision(shown: Shown) -> list[str]:
    if shown.window < 0:
        return ["waiting for the first window"]
    lasting = f"for {shown.lasting_s:.1f} s" if shown.lasting_s else "new"
    if shown.label is None:
        return [f"window {shown.window:,}: no decision ({shown.reason}), {lasting}"]
    score = shown.score or 0.0
    full = round(score * _BAR)
    return [f"window {shown.window:,}: {shown.label}  {'█' * full}{'░' * (_BAR - full)} {score:.2f}, {lasting}"]


def _figures(shown: Shown) -> list[str]:
    latency = "  ".join(f"{name} {microseconds(value)}" for name, value in shown.latency_us.items())
    counts = "  ".join(f"{name} {number:,}" for name, number in shown.counts.items())
    return [f"latency  {latency}  deadline {microseconds(shown.deadline_us)}", f"counts   {counts}"]
