"""From scores to a label that a person can act on: hysteresis, a minimum dwell, and no label at all below a score.

1. *Smoothing*: scores are means over the last windows (`decision.Smoother`).
2. *Hysteresis*: another label must lead the present one by so much score.
3. *Abstain*: below a score there is no label, and such a window speaks for none.
4. *Dwell*: a label is taken on when it has led for so many seconds of windows in a row. Until then the one before
   stays, and before the first there is none. A gap forgets it all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sattn_edge.errors import UsageError
from sattn_runtime.decision import LOW_SCORE, OVERFLOW, SETTLING, Decision, Smoother
from sattn_runtime.events import Event


@dataclass(frozen=True)
class DecisionOptions:
    """smooth: windows; hysteresis and abstain_below: scores, 0 to 1; dwell_s: seconds.

    With a dwell, of 0 seconds too, a stream tells where each state began and ended.
    """

    smooth: int = 1
    hysteresis: float = 0.0
    dwell_s: float | None = None
    abstain_below: float = 0.0

    def check(self) -> None:
        """Raises UsageError for what can't be."""
        Smoother(self.smooth)
        for name, value in (("hysteresis", self.hysteresis), ("abstain below", self.abstain_below)):
            if not 0 <= value <= 1:
                raise UsageError(name, f"got {value}", "a score, 0 to 1")
        if self.dwell_s is not None and not 0 <= self.dwell_s < math.inf:
            raise UsageError("dwell", f"got {self.dwell_s}", "seconds, 0 or more")


Verdict = tuple[int | None, float | None, str | None]
"""(class, score, None), or (None, None, reason)."""


class Decider:
    """One stream's labels. Logits in, a verdict out, window by window."""

    def __init__(self, options: DecisionOptions, hop: int, rate_hz: float) -> None:
        options.check()
        self._options, self._hop = options, hop
        self._smoother = Smoother(options.smooth)
        # A hair less, so that 0.3 s of 0.1 s are three windows.
        self.dwell = max(1, math.ceil((options.dwell_s or 0.0) * rate_hz / hop - 1e-9))
        self._plain = not options.hysteresis and not options.abstain_below and self.dwell == 1
        self._state: int | None = None
        self._rival: int | None = None
        self._run = 0  # windows in a row that the rival has led

    @property
    def smooth(self) -> Callable[[list[float]], tuple[int, float] | None] | None:
        """(class, score) of a window, None where `decide` must tell why; None where more than smoothing is asked."""
        return self._smoother.decide if self._plain else None

    def decide(self, logits: list[float]) -> Verdict:
        """The verdict after a window with these logits."""
        if self._plain:
            decided = self._smoother.decide(logits)
            return (None, None, OVERFLOW) if decided is None else (*decided, None)
        scores = self._smoother.scores(logits)
        if scores is None:
            self._forget_rival()
            return None, None, OVERFLOW
        self._weigh(scores)
        least = self._options.abstain_below
        if max(scores) < least:
            return None, None, LOW_SCORE
        if self._state is None:
            return None, None, SETTLING
        if scores[self._state] < least:
            return None, None, LOW_SCORE
        return self._state, scores[self._state], None

    def _weigh(self, scores: list[float]) -> None:
        """Lets the leading class become the state, or come nearer to it."""
        state, leader = self._state, scores.index(max(scores))
        stays = leader == state or (state is not None and scores[leader] - scores[state] < self._options.hysteresis)
        if stays or scores[leader] < self._options.abstain_below:
            self._forget_rival()
            return
        self._run = self._run + 1 if leader == self._rival else 1
        self._rival = leader
        if self._run >= self.dwell:
            self._state = leader
            self._forget_rival()

    def _forget_rival(self) -> None:
        self._rival, self._run = None, 0

    def unjudged(self) -> None:
        """A window that was not decided on breaks a row of windows."""
        self._forget_rival()

    def reset(self) -> None:
        """A gap: what was before it is no longer known to hold."""
        self._smoother.reset()
        self._state = None
        self._forget_rival()

    @property
    def delay_samples(self) -> float:
        """How far a change of label lies behind the window that first showed it."""
        return self._smoother.delay_samples(self._hop) + (self.dwell - 1) * self._hop


class States:
    """Where a label began to hold and where it ended.

    A state reaches from the first sample of the first window that led to it to the last sample of the last that had its
    label. Windows without a label end it when there are as many in a row as a dwell has, a gap ends it at once.
    """

    def __init__(self, dwell: int, rate_hz: float) -> None:
        self._dwell, self._rate_hz = dwell, rate_hz
        self._label: str | None = None
        self._last = 0  # last sample of the newest window with the label
        self._without = 0  # windows in a row without one
        self._firsts: list[int] = []  # first samples of the last `dwell` windows of this stretch

    def add(self, decision: Decision) -> list[Event]:
        """What a decision begins and ends."""
        self._firsts = [*self._firsts, decision.first_sample][-self._dwell :]
        if decision.label is None:
            self._without += 1
            return self.end() if self._without >= self._dwell else []
        events = [] if decision.label == self._label else self.end()
        if self._label is None:
            self._label = decision.label
            events.append(self._event("state_start", self._firsts[0]))
        self._last, self._without = decision.last_sample, 0
        return events

    def end(self) -> list[Event]:
        """The state ends here, if there is one."""
        if self._label is None:
            return []
        event = self._event("state_end", self._last)
        self._label = None
        return [event]

    def gap(self) -> list[Event]:
        """A gap: ends the state, and forgets the windows before it."""
        self._firsts, self._without = [], 0
        return self.end()

    def _event(self, kind: str, sample: int) -> Event:
        return Event(kind, sample, seconds=sample / self._rate_hz, label=self._label)
