"""Accuracy of a stream against its recording's labels. A window's label is the common label of all its samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_runtime.decision import Decision


class Score:
    """Counts decisions against labels over one or more streams: `confusion[truth][decision]`."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.confusion = [[0] * len(labels) for _ in labels]
        self.unscored = 0
        self.unjudged = 0
        # Memory views, because one of their elements is a Python int at once.
        self._beside: list[Score] = []
        self._truth: memoryview[int] | None = None
        self._since: memoryview[int] | None = None

    def beside(self) -> Score:
        """Another one that counts in the same table, for streams at the same time."""
        other = Score(self.labels)
        other.confusion = self.confusion
        self._beside.append(other)
        return other

    def begin(self, labels: NDArray[np.int16] | None) -> None:
        """A new stream with labels int16 [n] (-1 = none), or without any."""
        self._truth = self._since = None
        if labels is not None:
            # For each sample, where the run of its label began.
            changes = np.flatnonzero(np.diff(labels)) + 1
            since = np.zeros(len(labels), np.int64)
            since[changes] = changes
            np.maximum.accumulate(since, out=since)
            self._truth, self._since = np.ascontiguousarray(labels).data, since.data

    @property
    def scoring(self) -> bool:
        """Whether the stream at hand has labels."""
        return self._truth is not None

    def add(self, decision: Decision) -> str | None:
        """Counts one decision; returns its window's label, None where it has none."""
        if self._truth is None or self._since is None:
            return None
        truth = self._truth[decision.last_sample]
        if truth < 0 or self._since[decision.last_sample] > decision.first_sample:
            self.unscored += 1
            return None
        if decision.index is None:
            self.unjudged += 1
        else:
            self.confusion[truth][decision.index] += 1
        return self.labels[truth]

    def summary(self) -> dict[str, Any] | None:
        """Accuracy, macro F1, recall a class and the confusion matrix; None if no window had a label."""
        matrix = np.asarray(self.confusion)
        scored = int(matrix.sum())
        if not scored:
            return None
        right, truths, given = np.diag(matrix), matrix.sum(1), matrix.sum(0)
        present = truths > 0
        f1 = 2 * right / np.maximum(truths + given, 1)
        return {
            "windows": scored,
            "accuracy": float(right.sum() / scored),
            "macro_f1": float(f1[present].mean()),
            "unscored": self.unscored + sum(other.unscored for other in self._beside),
            "unjudged": self.unjudged + sum(other.unjudged for other in self._beside),
            "labels": list(self.labels),
            "confusion": matrix.tolist(),
        }
