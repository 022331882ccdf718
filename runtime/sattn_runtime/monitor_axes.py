"""Exchanged axes, told by how the means and levels of all channels go together (`sattn_edge.axes`).

A pair is exchanged when over a stretch of windows (a minute of them, for most contracts) its mean score is above the
margin that the model file gives for it, and the stretch with the two exchanged looks like training; of several, the
one furthest above. It is over when a whole stretch speaks against it. Which pairs are watched, and by what margin, was
learnt at export.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.axes import flat, level, read_axes, recorded_model, window_features
from sattn_edge.contract import Contract


class AxisWatch:
    """One stream's stretch of windows.

    fault: names of the two channels and what is told of them, as of the last window; None where nothing is wrong.
    """

    def __init__(self, contract: Contract, statistics: Mapping[str, Any] | None) -> None:
        self.fault: tuple[str, str] | None = None
        record = read_axes(statistics, contract.modal)
        self.watches = record is not None and bool(record.pairs)
        if record is None or not record.pairs:
            return
        self._model, self._floor = recorded_model(record), np.array(record.floor)
        self._margin = np.array([pair.margin for pair in record.pairs])
        names = contract.channel_names
        self._names = [f"{names[a]} and {names[b]}" for a, b in self._model.pairs]
        self._scores = np.zeros((record.stretch_windows, len(self._names)))
        self._distances = np.zeros_like(self._scores)
        self._most_distance = record.most_distance
        self._seen = 0
        self._least_level = record.least_level
        self._at: int | None = None  # the pair that is exchanged

    def restart(self) -> None:
        """Forgets the stretch so far; what is wrong stays so until a whole new one says otherwise."""
        self._seen = 0

    def add(self, mean: NDArray[np.float64], square: NDArray[np.float64]) -> None:
        """One more window: means and mean squares [modal]."""
        if flat(mean, square).any():
            return
        features = window_features(mean, square, self._floor)
        if self._least_level is not None and level(features) <= self._least_level:
            return
        scores, distances, _ = self._model.scores(features[None])
        at = self._seen % len(self._scores)
        self._scores[at], self._distances[at] = scores[0], distances[0]
        self._seen += 1
        if self._seen >= len(self._scores):
            self._judge(self._scores.mean(axis=0), self._distances.mean(axis=0))

    def _judge(self, score: NDArray[np.float64], distance: NDArray[np.float64]) -> None:
        if self._at is not None and score[self._at] > 0:
            return
        above = np.where(distance <= self._most_distance, score - self._margin, -np.inf)
        best = int(above.argmax())
        self._at, self.fault = None, None
        if above[best] > 0:
            self._at = best
            over = f"{score[best]:.2g} nats a window over {len(self._scores)} windows"
            self.fault = (self._names[best], f"exchanged they look like training, by {over}")
