"""Which moments of a window the network looked at: the gates of all blocks on the window's own time axis.

    gates [values] -> block by block: mean over modal -> from its steps to samples -> mean over each bin -> relative
                   -> product over the blocks -> relative                                              [bins]

*Bins* share the window out among them in order, at most 32 and no more than the finest gate has steps. A step of a
block speaks for the sample it is centred on; between two steps the gate is taken as a straight line, in front of the
first and behind the last it stays. *Relative* is divided by its own mean over the window: 1 is the average moment, 2
twice that. The blocks stand one behind another, so what passes a moment is scaled by each of their gates: hence the
product. It says how open the gates were, not what the moment contributed to the label.

Everything up to the division is linear in the gates and known beforehand, so a window costs one small matrix product
for each block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge.attention_output import AttentionBlock, AttentionLayout
from sattn_edge.engine import Engine, no_attention

MOST_BINS = 32
_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Moments:
    """Where the network looked in one window.

    relative: one weight a bin, 1 is the average. peak_sample: the middle of the bin with the largest, counted like
    the samples of the stream.
    """

    relative: list[float]
    peak_sample: int


class MomentView:
    """Puts the gates of windows of `series` samples together. `bins` are so many; `edges` [bins + 1] their samples."""

    def __init__(self, layout: AttentionLayout, series: int) -> None:
        self.bins = min(MOST_BINS, series, max(block.steps for block in layout.blocks))
        self.edges = np.arange(self.bins + 1) * series // self.bins
        self._middles: list[int] = ((self.edges[:-1] + self.edges[1:] - 1) // 2).tolist()
        ends = np.cumsum([0, *(block.values for block in layout.blocks)]).tolist()
        weights = [_to_bins(block, self.edges).astype(np.float32) for block in layout.blocks]
        self._blocks = list(zip(ends[:-1], ends[1:], weights, strict=True))

    def of(self, gates: NDArray[np.float32], first_sample: int = 0) -> Moments | None:
        """The gates [values] of a window that begins at `first_sample`.

        None where one is not a finite number, and where no moment passes all of them.
        """
        if not np.isfinite(gates).all():
            return None
        product = self.profiles(gates).prod(axis=0)
        total = float(product.sum())
        if total <= 0:  # each gate was open only where another was closed
            return None
        relative = (product * (self.bins / total)).round(3).tolist()
        return Moments(relative, first_sample + self._middles[int(product.argmax())])

    def profiles(self, gates: NDArray[np.float32]) -> NDArray[np.float64]:
        """The gates [values] block by block, relative: [blocks, bins], 1 throughout where one is closed throughout."""
        rows = np.empty((len(self._blocks), self.bins))
        for row, (begin, end, weights) in zip(rows, self._blocks, strict=True):
            row[:] = weights @ gates[begin:end]
        means = rows.sum(axis=1, keepdims=True) / self.bins
        if not means.all():
            closed = means[:, 0] == 0
            rows[closed], means[closed] = 1.0, 1.0
        relative: NDArray[np.float64] = rows / means
        return relative


def moment_view(engine: Engine) -> MomentView:
    """The view for an engine's windows.

    Raises:
        UsageError: its model file does not give the gates.
    """
    if engine.gates is None:
        raise no_attention()
    return MomentView(engine.gates, engine.contract.window)


def _to_bins(block: AttentionBlock, edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """What makes a block's profile [bins] of its flattened gate: [bins, steps * modal], each row adds up to 1."""
    samples = np.arange(edges[-1])
    # Where each sample lies among the steps; np.interp of every unit vector would say the same, more slowly.
    at = np.clip((samples - block.first_sample) / block.samples_per_step, 0, block.steps - 1)
    lower = np.minimum(at.astype(np.int64), max(block.steps - 2, 0))
    share, upper = at - lower, np.minimum(lower + 1, block.steps - 1)
    bins = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    each = 1 / np.diff(edges)[bins]
    profile = np.zeros((len(edges) - 1, block.steps))
    np.add.at(profile, (bins, lower), (1 - share) * each)
    np.add.at(profile, (bins, upper), share * each)
    return np.repeat(profile / block.modal, block.modal, axis=1)


def sparkline(values: Sequence[float]) -> str:
    """Weights as bars, one character each, from the least to the largest of them; half-high where all are equal.

    Gates differ by a few percent as often as by a factor of two, and bars from 0 on would all look alike.
    """
    if not values:
        return ""
    least, span = min(values), max(values) - min(values)
    if span <= 0:
        return _LEVELS[len(_LEVELS) // 2 - 1] * len(values)
    last = len(_LEVELS) - 1
    return "".join(_LEVELS[round((value - least) / span * last)] for value in values)


def watch_row(moments: Moments | None) -> str:
    """The row of a live view for the latest window: bars over its time, how far they reach, and the highest moment."""
    if moments is None:
        return "-"
    low, high = min(moments.relative), max(moments.relative)
    return f"{sparkline(moments.relative)}  {low:.2f} to {high:.2f} x, most at sample {moments.peak_sample:,}"
