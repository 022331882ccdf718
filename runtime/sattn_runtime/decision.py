"""From logits to a decision: softmax score, and a mean over the last windows where asked for."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from sattn_edge.errors import UsageError
from sattn_runtime.attention import Moments

NON_FINITE = "non-finite input"
WRONG_RATE = "wrong rate"
OVERFLOW = "non-finite logits"
LOW_SCORE = "score below the limit"
SETTLING = "no label has held long enough"


@dataclass(slots=True)
class Decision:
    """What was decided on one window. Samples count from the start of the stream, `last_sample` inclusive.

    `label` (and `index`, its place in the contract) is None where the window could not be judged; `reason` then
    says why. `score` is the softmax score of the label, `logits` the network's own. `latency_ns` holds the
    stages up to the decision, in the order of `sattn_runtime.latency.STAGES`, the last of which ended at the monotonic
    time `done_ns`. `filled` of the window's samples were
    missing and made up. `attention` is there where it was asked for. `sequence` is the source's own
    number of the first sample, where it numbers them.
    """

    window: int
    first_sample: int
    last_sample: int
    index: int | None
    label: str | None
    score: float | None
    logits: list[float] | None
    latency_ns: tuple[int, ...]
    done_ns: int
    reason: str | None = None
    attention: Moments | None = None
    filled: int = 0
    sequence: int | None = None


def softmax(logits: list[float]) -> list[float]:
    """Scores that add up to 1. Python floats: for some ten classes faster than any array call."""
    top = max(logits)
    powers = [math.exp(v - top) for v in logits]
    total = sum(powers)
    return [p / total for p in powers]


class Smoother:
    """The mean score over the last `count` windows; 1 leaves every window to itself."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise UsageError("smoothing", f"got {count} windows", "1 or more")
        self.count = count
        self._last: deque[list[float]] = deque(maxlen=count)

    def scores(self, logits: list[float]) -> list[float] | None:
        """The score of every class after this window; None as in `decide`."""
        if not all(map(math.isfinite, logits)):
            return None
        self._last.append(softmax(logits))
        return [sum(column) / len(self._last) for column in zip(*self._last, strict=True)]

    def decide(self, logits: list[float]) -> tuple[int, float] | None:
        """(class, score) after this window; None where a logit is NaN or infinite, and nothing is remembered."""
        top, total = max(logits), 0.0
        for value in logits:
            total += math.exp(value - top) + 0.0 * value  # the last term is NaN for what is not finite, else nothing
        if total != total:
            return None
        if self.count == 1:
            # The class from the logits themselves: two scores can round to the same number.
            return logits.index(top), 1.0 / total
        self._last.append(softmax(logits))
        mean = [sum(column) / len(self._last) for column in zip(*self._last, strict=True)]
        index = mean.index(max(mean))
        return index, mean[index]

    def reset(self) -> None:
        """Forgets the windows before a gap."""
        self._last.clear()

    def delay_samples(self, hop: int) -> float:
        """How far the mean lies behind the newest window."""
        return (self.count - 1) / 2 * hop
