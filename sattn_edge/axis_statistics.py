"""Which exchanged axes can be told, and by what margin: learnt from the training windows alone.

Each group (person, or recording where no persons are known) is scored by the distribution of all the others' windows.
Of fewer than four nothing is learnt: parts of one session say nothing of the next. A group's *worst* is the highest
mean score of any of its stretches: windows in a row, and windows in a row of one label, since somebody may do one
thing for as long as that.

The margins are where a further group's worst is above any of them with a chance of one in a thousand, by the spread of
the worsts (the prediction bounds of normal distributions), and no less than half of what an exchange usually shows; few
groups make them wide. How far from training a stretch may be that has its axes put right is the mean of the groups'
furthest. Scores change their sign when channels are exchanged, so the same stretches tell how often an exchange would
be seen: where that is in less than half of them, the pair can't be told apart and is not watched.

All this is done twice, with all windows and with the livelier half, since which way up a sensor at rest lies is often
no more than chance. What watches more is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge.axes import (
    FEWEST_GROUPS,
    MOST_CHANNELS,
    MOST_PAIRS,
    AxisRecord,
    WatchedPair,
    candidates,
    fit,
    flat,
    level,
    model_of,
    window_features,
)
from sattn_edge.contract import Contract
from sattn_edge.recording_base import NO_LABEL
from sattn_edge.windows import WindowSet

STRETCH_S = 60.0
_MOST_WINDOWS, _FEWEST_WINDOWS = 128, 8  # of a stretch
_SHRINK = 0.05
_FLOOR = 0.01  # of a channel's standard deviation: below that, how still a window is says nothing
_LEAST_MARGIN = 1.0  # nats a window
_LEAST_PART = 0.5  # of what an exchange usually shows
_SEEN = 0.5
_TAIL = 1e-3  # the chance that a further group is out of any margin

Array = NDArray[np.float64]
Pairs = list[tuple[int, int]]


def stretch_windows(contract: Contract) -> int:
    """How many windows' worth of samples are looked at together."""
    return int(min(_MOST_WINDOWS, max(_FEWEST_WINDOWS, round(STRETCH_S / contract.window_s))))


def axis_statistics(windows: WindowSet, contract: Contract) -> AxisRecord | None:
    """None where no two channels have a unit in common, or the windows are too few to learn from."""
    pairs = candidates(contract)
    if not pairs or contract.modal > MOST_CHANNELS:
        return None
    x = windows.x[:, 0]
    mean = np.stack([window.mean(axis=0, dtype=np.float64) for window in x])
    square = np.stack([np.square(window.astype(np.float64)).mean(axis=0) for window in x])
    usable = ~flat(mean, square).any(axis=1)
    if not usable.any():
        return None
    overall = mean.mean(axis=0)
    floor = np.square(_FLOOR) * (square.mean(axis=0) - overall * overall)
    rows = np.flatnonzero(usable)
    features = window_features(mean[rows], square[rows], floor)
    lively, groups = level(features), _groups(windows)
    labels = windows.y if windows.y is not None else np.full(len(x), NO_LABEL, np.int16)
    length = stretch_windows(contract)
    overlapping = max(1, round(length * contract.window / _hop(windows, contract)))
    best: AxisRecord | None = None
    for least in (None, float(f"{np.median(lively):.6g}")):
        chosen = np.arange(len(rows)) if least is None else np.flatnonzero(lively > least)
        half = _Half(features[chosen], groups[rows[chosen]], labels[rows[chosen]], floor, least)
        found = _learn(half, length, overlapping, pairs)
        if found is not None and (best is None or _watched(found) > _watched(best)):
            best = found
    return best


@dataclass(frozen=True)
class _Half:
    """Windows that say something: features [n, 2 modal], whom and what they are of [n].

    floor, level: as in `AxisRecord`.
    """

    features: Array
    groups: NDArray[np.generic]
    labels: NDArray[np.int16]
    floor: Array
    level: float | None


def _watched(record: AxisRecord) -> float:
    """How many exchanges would be seen."""
    return sum(pair.seen for pair in record.pairs)


def _learn(half: _Half, length: int, overlapping: int, pairs: Pairs) -> AxisRecord | None:
    """From stretches of `length` windows' worth of samples, which are `overlapping` windows of the set."""
    folds = _folds(half.groups, overlapping)
    if len(folds) < FEWEST_GROUPS:
        return None
    try:
        held = [_hold_out(half, fold, overlapping, pairs) for fold in folds]
    except np.linalg.LinAlgError:  # nothing but constants, up to rounding
        return None
    return _record(half, length, pairs, held)


def _hop(windows: WindowSet, contract: Contract) -> int:
    """From one window to the next, in samples: what the windows say, or else the contract."""
    steps = np.diff(windows.start) if windows.start is not None else np.zeros(0)
    steps = steps[steps > 0]
    return min(int(np.median(steps)) if len(steps) else contract.hop, contract.window)


def _groups(windows: WindowSet) -> NDArray[np.generic]:
    """Whom each window is of: the group, or else the recording, which begins where `start` steps back."""
    if windows.group is not None:
        return windows.group
    if windows.start is None:
        return np.zeros(len(windows.x), np.int64)
    return np.cumsum(np.diff(windows.start, prepend=windows.start[:1]) < 0)


def _folds(group: NDArray[np.generic], length: int) -> list[NDArray[np.intp]]:
    """The windows of each group that is long enough for a stretch."""
    folds = [np.flatnonzero(group == name) for name in np.unique(group)]
    return [fold for fold in folds if len(fold) >= length]


@dataclass(frozen=True)
class _Held:
    """A group by the windows that are not of it: worst [pairs]; means [n, pairs] and distances [n] of its stretches."""

    worst: Array
    means: Array
    distances: Array


def _hold_out(half: _Half, fold: NDArray[np.intp], length: int, pairs: Pairs) -> _Held:
    features = half.features
    own = features[fold]
    rest = len(features) - len(fold)
    total, products = features.sum(axis=0) - own.sum(axis=0), features.T @ features - own.T @ own
    scores, _, here = model_of(*fit(rest, total, products, _SHRINK), pairs).scores(own)
    means = _sliding(scores, length)
    worst = means.max(axis=0)
    labels = half.labels[fold]
    for label in np.unique(labels[labels >= 0]):
        part = scores[labels == label]
        if len(part) >= length:
            worst = np.maximum(worst, _sliding(part, length).max(axis=0))
        elif 2 * len(part) >= length:
            worst = np.maximum(worst, part.mean(axis=0))
    return _Held(worst, means, _sliding(here[:, None], length)[:, 0])


def _sliding(scores: Array, length: int) -> Array:
    total = np.cumsum(np.concatenate([np.zeros_like(scores[:1]), scores]), axis=0)
    mean: Array = (total[length:] - total[:-length]) / length
    return mean


def _record(half: _Half, length: int, pairs: Pairs, held: list[_Held]) -> AxisRecord:
    features = half.features
    worst = np.stack([h.worst for h in held])
    factor = student_quantile(len(held) - 1, _TAIL / len(pairs)) * math.sqrt(1 + 1 / len(held))
    bound = worst.mean(axis=0) + factor * worst.std(axis=0, ddof=1)
    usual = np.stack([np.median(-h.means, axis=0) for h in held]).mean(axis=0)
    margin = np.maximum(np.maximum(bound, _LEAST_PART * usual), _LEAST_MARGIN)
    distance = float(np.mean([h.distances.max() for h in held]))
    near = [(h.distances <= distance)[:, None] for h in held]
    seen = np.stack([((-h.means > margin) & n).mean(axis=0) for h, n in zip(held, near, strict=True)]).mean(axis=0)
    order = sorted(range(len(pairs)), key=lambda i: (-seen[i], pairs[i]))
    watched = sorted(i for i in order[:MOST_PAIRS] if seen[i] >= _SEEN)
    mean, deviation, correlation = fit(len(features), features.sum(axis=0), features.T @ features, _SHRINK)
    return AxisRecord(
        length,
        float(f"{distance:.6g}"),
        half.level,
        _rounded(half.floor),
        _rounded(mean),
        _rounded(deviation),
        tuple(round(float(r), 4) for r in correlation[np.tril_indices(len(mean), -1)]),
        tuple(WatchedPair(pairs[i], round(float(margin[i]), 3), round(float(seen[i]), 3)) for i in watched),
    )


def student_quantile(freedom: int, tail: float) -> float:
    """Where Student's t distribution has `tail` (below a half) above it."""
    low, high = 0.0, 1e9
    while high - low > 1e-6 * high:
        middle = math.sqrt((low + 1e-9) * (high + 1e-9))
        low, high = (middle, high) if _student_tail(middle, freedom) > tail else (low, middle)
    return high


def _student_tail(t: float, freedom: int) -> float:
    """By the finite series for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    inner = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1 - inner) / 2


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
