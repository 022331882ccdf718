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
        self._length = record.stretch_windows
        self._ring = np.zeros((self._length, 2, len(self._names)))  # scores and distances of the last windows
        self._sums = np.zeros(self._ring.shape[1:])
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
        now = np.concatenate(self._model.scores(features[None])[:2])
        at = self._seen % self._length
        if at:
            self._sums += now - self._ring[at]
            self._ring[at] = now
        else:  # anew, now and then, or rounding adds up
            self._ring[at] = now
            self._sums = self._ring.sum(axis=0)
        self._seen += 1
        if self._seen >= self._length:
            self._judge(*(self._sums / self._length))

    def _judge(self, score: NDArray[np.float64], distance: NDArray[np.float64]) -> None:
        if self._at is not None and score[self._at] > 0:
            return
        self._at, self.fault = None, None
        above = score - self._margin
        above[distance > self._most_distance] = 0.0
        best = int(above.argmax())
        if above[best] > 0:
            self._at = best
            over = f"{score[best]:.2g} nats a window over {self._length} windows"
            self.fault = (self._names[best], f"exchanged they look like training, by {over}")
