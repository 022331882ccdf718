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
_RANGE, _LEAST = 24, 10  # places that a range takes, and that a sparkline has at least


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


def picture(shown: Shown, width: int, height: int | None = None) -> list[str]:
    """The lines of the view, none wider than `width`, no more than `height` as long as there is a choice.

    What is in the way goes first: the ranges where it is narrow, the last channels where it is low.
    """
    names = [f"{c} ({u})" if u else c for c, u in zip(shown.channels, shown.units, strict=True)]
    below = [*_attention(shown, width), "", *_decision(shown, width), "", *_figures(shown, width)]
    most = len(names) if height is None else max(1, height - 1 - len(below))
    some = names if len(names) <= most else names[: max(1, most - 1)]
    room, with_range = _room(names, width)
    lines = [f"{shown.stream}, the last {shown.seconds:g} s"]
    for i, name in enumerate(some):
        column = shown.samples[:, i] if len(shown.samples) else np.zeros(0, np.float32)
        text = f"{name.ljust(_longest(names))}  {sparkline(column, room)}"
        lines.append(f"{text}  {_range(column)}" if with_range else text)
    if len(some) < len(names):
        lines.append(f"... and {len(names) - len(some)} more channels")
    return [line[:width] for line in lines + below]


def _longest(names: Sequence[str]) -> int:
    return max(map(len, names), default=0)


def _room(names: Sequence[str], width: int) -> tuple[int, bool]:
    """Blocks of a sparkline, and whether a range fits behind it: half a number would be another number."""
    room = width - _longest(names) - 2
    return (room - _RANGE, True) if room - _RANGE >= _LEAST else (max(_LEAST, room), False)


def _attention(shown: Shown, width: int) -> list[str]:
    if shown.attention is None:
        return []
    room, wide = _room(shown.channels, width)
    weights = sparkline(np.asarray(shown.attention, np.float32), room)
    return [f"attention  {weights}" + ("  over the latest window" if wide else "")]


def _range(column: NDArray[np.float32]) -> str:
    good = column[np.isfinite(column)]
    if not len(good):
        return "no finite value"
    return f"{good.min():9.3g} to {good.max():.3g}"


def _decision(shown: Shown, width: int) -> list[str]:
    if shown.window < 0:
        return ["waiting for the first window"]
    lasting = f"for {shown.lasting_s:.1f} s" if shown.lasting_s else "new"
    head = f"window {shown.window:,}:"
    if shown.label is None:
        return _wrapped(head, [f"no decision ({shown.reason}), {lasting}"], width)
    score = shown.score or 0.0
    text = f" {score:.2f}, {lasting}"
    bar = max(1, min(_BAR, width - 2 - len(text)))
    full = round(score * bar)
    return _wrapped(head, [shown.label, f"{'█' * full}{'░' * (bar - full)}{text}"], width)


def _figures(shown: Shown, width: int) -> list[str]:
    latency = [f"{name} {microseconds(value)}" for name, value in shown.latency_us.items()]
    latency.append(f"deadline {microseconds(shown.deadline_us)}")
    counts = [f"{name} {number:,}" for name, number in shown.counts.items()]
    return _wrapped("latency ", latency, width) + _wrapped("counts  ", counts, width)


def _wrapped(head: str, parts: Sequence[str], width: int) -> list[str]:
    """The parts behind `head`, on as many lines as they need."""
    lines, text = [], f"{head} {parts[0]}"
    for part in parts[1:]:
        if len(text) + 2 + len(part) <= width:
            text += f"  {part}"
        else:
            lines.append(text)
            text = f"  {part}"
    return [*lines, text]
