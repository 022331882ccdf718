"""Exchanged axes: how much better a window looks like those of training with two channels of a unit exchanged.

A window's features are the mean and the log standard deviation of each channel, [2 modal]. Training windows are one
multivariate t distribution over them: its covariance, and tails heavy enough that a single odd window counts for
little. The score of a pair is the log likelihood of the features with the two channels exchanged less that of the
features as they come, in nats, no more than `MOST_NATS` either way: below 0 where they lie right, above where they were
exchanged. Of a window whose channels really were exchanged it is the same number with the other sign.

What mean score is out of the ordinary over a stretch of windows is learnt at export (`axis_statistics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract

FEWEST_GROUPS = 4
MOST_CHANNELS = 32
MOST_PAIRS = 64
MOST_STRETCH = 4096
MOST_NATS = 8.0
_FREEDOM = 4.0  # of the t distribution: heavy tails, and still a covariance
_LEAST_FREE = 1e-3  # of a feature's deviation that the others do not explain
_LARGEST = 1e50
_MOST_LISTED = 12
_FLAT = 1e-6  # of the mean square: what float32 sums leave of a variance of 0

Vector = NDArray[np.float64]


class WatchedPair(msgspec.Struct, frozen=True):
    """Two channels by their places; margin: nats a window, above which they are exchanged.

    seen: the part of the training stretches where an exchange would have been seen.
    """

    channels: tuple[int, int]
    margin: float
    seen: float


class AxisRecord(msgspec.Struct, frozen=True):
    """As it lies in the model file, as `statistics.axes`. Features: the means, then the log deviations.

    most_distance: of a stretch that looks like training; least_level: only windows above this level say anything, None:
    all do; floor: added to the variances [modal], whose logarithm is taken; correlation: below the diagonal, by row.
    """

    stretch_windows: int
    most_distance: float
    least_level: float | None
    floor: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    correlation: tuple[float, ...]
    pairs: tuple[WatchedPair, ...]


class AxisModel:
    """The distribution of features: mean [2 modal] and precision [2 modal, 2 modal]; scores some pairs by it."""

    def __init__(self, mean: Vector, precision: Vector, pairs: Sequence[tuple[int, int]]) -> None:
        self.mean, self.precision, self.pairs = mean, precision, tuple(pairs)
        modal = len(mean) // 2
        a, b = np.array(self.pairs, np.intp).reshape(-1, 2).T
        # Exchanging adds u to feature a and takes it from b, and v the same of the log deviations: e and f have 1 at a
        # and -1 at b. So z' P z grows by 2 (u e + v f)' P z + (u e + v f)' P (u e + v f).
        rows, first, last = np.arange(2 * len(a)), np.concatenate([a, a + modal]), np.concatenate([b, b + modal])
        self._steps = np.zeros((2 * len(a), 2 * modal))
        self._steps[rows, first], self._steps[rows, last] = 1.0, -1.0
        e, f = self._steps[: len(a)], self._steps[len(a) :]
        self._squares = [np.einsum("pi,ij,pj->p", x, precision, y) for x, y in ((e, e), (e, f), (f, f))]

    def scores(self, features: Vector) -> tuple[Vector, Vector, Vector]:
        """Of features [n, 2 modal]: scores [n, pairs], distances with the pair exchanged [n, pairs] and as is [n]."""
        count, (ee, ef, ff) = len(self.pairs), self._squares
        z = features - self.mean
        pull = z @ self.precision
        square = (pull * z).sum(axis=1)
        by, along = -(features @ self._steps.T), pull @ self._steps.T
        u, v = by[:, :count], by[:, count:]
        grown = 2 * (u * along[:, :count] + v * along[:, count:]) + u * u * ee + 2 * u * v * ef + v * v * ff
        here = np.log1p(square / _FREEDOM)
        back = np.log1p(np.maximum(square[:, None] + grown, 0.0) / _FREEDOM)
        nats = (_FREEDOM + len(self.mean)) / 2 * (here[:, None] - back)
        # Not np.clip, einsum: of one window those take half of the time.
        return np.minimum(np.maximum(nats, -MOST_NATS), MOST_NATS), back, here


def candidates(contract: Contract) -> list[tuple[int, int]]:
    """The pairs of channels of one unit; a channel without a unit goes with none."""
    units = [c.unit for c in contract.channel]
    return [(a, b) for a, b in combinations(range(contract.modal), 2) if units[a] and units[a] == units[b]]


def flat(mean: Vector, square: Vector) -> NDArray[np.bool_]:
    """Where a channel of a window, by its mean and mean square, hardly moves: such windows say nothing of axes."""
    return square - mean * mean <= _FLAT * square


def window_features(mean: Vector, square: Vector, floor: Vector) -> Vector:
    """Features [..., 2 modal] of windows' means and mean squares [..., modal]."""
    spread = 0.5 * np.log(np.maximum(square - mean * mean, 0.0) + floor)
    return np.concatenate([mean, spread], axis=-1)


def level(features: Vector) -> Vector:
    """How lively windows are, [...]: the mean log deviation, which an exchange does not change."""
    mean: Vector = features[..., features.shape[-1] // 2 :].mean(axis=-1)
    return mean


def fit(count: int, total: Vector, products: Vector, shrink: float) -> tuple[Vector, Vector, Vector]:
    """Mean, deviations and correlations [2 modal, 2 modal], drawn towards 0, of sums over windows."""
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    deviation = np.maximum(deviation, 1e-6 * (np.abs(mean) + 1e-6))  # a feature that never varied
    correlation = (1 - shrink) * covariance / np.outer(deviation, deviation)
    np.fill_diagonal(correlation, 1.0)
    return mean, deviation, correlation


def model_of(mean: Vector, deviation: Vector, correlation: Vector, pairs: Sequence[tuple[int, int]]) -> AxisModel:
    """The model of a fit.

    Raises:
        numpy.linalg.LinAlgError: no correlations are like that, or features follow from one another.
    """
    if np.linalg.cholesky(correlation).diagonal().min() < _LEAST_FREE:
        raise np.linalg.LinAlgError("not positive definite")
    precision: Vector = np.linalg.inv(correlation) / np.outer(deviation, deviation)
    return AxisModel(mean, precision, pairs)


def read_axes(statistics: Mapping[str, Any] | None, modal: int) -> AxisRecord | None:
    """What a file's statistics know of axes; None if they have nothing, or nothing that can be used."""
    raw = statistics.get("axes") if statistics else None
    if raw is None:
        return None
    try:
        record = msgspec.convert(raw, AxisRecord)
    except msgspec.ValidationError:
        return None
    return record if _usable(record, modal) else None


def _usable(record: AxisRecord, modal: int) -> bool:
    size = 2 * modal
    lengths = (len(record.floor), len(record.mean), len(record.deviation), len(record.correlation))
    if modal > MOST_CHANNELS or lengths != (modal, size, size, size * (size - 1) // 2):
        return False
    if len(record.pairs) > MOST_PAIRS or not all(0 <= a < b < modal for a, b in (p.channels for p in record.pairs)):
        return False
    positive = np.array([record.most_distance, *record.floor, *record.deviation, *(p.margin for p in record.pairs)])
    others = np.array([record.least_level or 0.0, *record.mean, *record.correlation])
    # Comparisons that NaN fails. The bounds keep whatever a sensor gives from overflowing.
    if not ((positive > 1 / _LARGEST).all() and (positive < _LARGEST).all() and (np.abs(others) < _LARGEST).all()):
        return False
    return 1 <= record.stretch_windows <= MOST_STRETCH and _sound(record)


def _sound(record: AxisRecord) -> bool:
    try:
        recorded_model(record)
    except np.linalg.LinAlgError:
        return False
    return True


def recorded_model(record: AxisRecord) -> AxisModel:
    """The model of a record, for the pairs it watches."""
    size = len(record.mean)
    correlation = np.zeros((size, size))
    correlation[np.tril_indices(size, -1)] = record.correlation
    correlation += correlation.T + np.eye(size)
    return model_of(np.array(record.mean), np.array(record.deviation), correlation, [p.channels for p in record.pairs])


def axes_text(statistics: Mapping[str, Any] | None, contract: Contract) -> str | None:
    """Which exchanged axes are told and which can't be; None where no two channels share a unit.

    Channels are named as the contract does.
    """
    pairs = candidates(contract)
    if not pairs or not statistics:
        return None
    record = read_axes(statistics, contract.modal)
    if record is None:
        needs = f"windows of {FEWEST_GROUPS} people or recordings, and up to {MOST_CHANNELS} channels"
        return f"not watched: that takes {needs}"
    watched = [pair.channels for pair in record.pairs]
    told = _listed(watched, contract)
    rest = _listed([pair for pair in pairs if pair not in watched], contract)
    text = f"exchanges are told of {told}" if told else "no exchange can be told"
    return f"{text}; not of {rest}" if told and rest else text


def _listed(pairs: Sequence[tuple[int, int]], contract: Contract) -> str:
    names = [f"{contract.channel_names[a]}/{contract.channel_names[b]}" for a, b in pairs]
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more
