"""A stream's windows inferred step by step: the same logits, from the samples of one hop.

Steps end where windows end, one every hop, and begin to do so as soon as there are samples: by the time the first
window is whole, all that it shares with the next ones is there. After a gap the states restart, and so does this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import COPIED_IN, COPIED_OUT, INFERRED, Engine

if TYPE_CHECKING:
    from sattn_edge.incremental.engine import Snapshot, StepEngine


@dataclass(frozen=True, eq=False)
class IncrementalSnapshot:
    """Where a stream's steps stand. number: of the next one, 0 where the first window ends."""

    number: int
    states: Snapshot


class Incremental:
    """The steps of one stream. Windows have to be given in order, each once, also those that nobody decides on."""

    def __init__(self, engine: StepEngine, hop: int) -> None:
        plan = engine.plan
        self.engine, self._hop, self._stepper = engine, hop, engine.stepper()
        self._window, self._advance, self._phases = plan.chain.series, plan.advance, plan.phases
        self._number = self._first = -((self._window - 1) // hop)

    @property
    def filling(self) -> bool:
        """Whether the first window is still to come."""
        return self._number <= 0

    def restart(self) -> None:
        """The signal begins anew."""
        self._stepper.restart()
        self._number = self._first

    def fill(self, begun: NDArray[np.float32], *, finite: bool = True) -> None:
        """Takes the steps that end within the first window. begun: what there is of it, [n, modal]."""
        while self._number < 0 and self._end <= len(begun):
            self._step(begun[: self._end], finite=finite)

    def infer(self, window: NDArray[np.float32], stamps: list[int], *, finite: bool = True) -> NDArray[np.float32]:
        """The next window [series, modal] to logits [classes], which hold until the next step.

        Where it is not `finite`, values that are no numbers count as 0, so that they spoil no window but their own,
        which has to be left undecided. Fills `stamps` as an engine does.
        """
        self.fill(window, finite=finite)
        stamps[COPIED_IN] = monotonic_ns()
        logits = self._step(window, finite=finite)
        stamps[INFERRED] = stamps[COPIED_OUT] = monotonic_ns()
        return logits

    def logits(
        self, window: NDArray[np.float32], stamps: list[int], engine: Engine, *, finite: bool = True
    ) -> list[float]:
        """Like `infer`, and by the whole window where that overflows.

        What overflowed in one window stays in the sums of the next ones, which by themselves may not.
        """
        logits: list[float] = self.infer(window, stamps, finite=finite).tolist()
        if all(map(math.isfinite, logits)):
            return logits
        whole: list[float] = engine.infer_stamped(window[None, None], stamps)[0].tolist()
        return whole

    @property
    def _end(self) -> int:
        """Where the next step ends, in samples behind the first window's first."""
        return self._window + self._number * self._hop

    def _step(self, until: NDArray[np.float32], *, finite: bool) -> NDArray[np.float32]:
        """The next step, whose samples end where `until` does."""
        samples, phase = self._stepper.samples, self._number % self._phases
        self._number += 1
        if len(until) < len(samples):  # what lies before the signal's begin is in no window, and may be anything
            samples[: -len(until)] = 0.0
            samples[-len(until) :] = until
        else:
            samples[:] = until[-len(samples) :]
        if not finite:
            np.nan_to_num(samples, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return self._stepper.step(phase)

    def snapshot(self) -> IncrementalSnapshot:
        """What it takes to go on from here, copied."""
        return IncrementalSnapshot(self._number, self._stepper.snapshot())

    def restore(self, snapshot: IncrementalSnapshot) -> None:
        """Goes on from there. Raises UsageError on a snapshot of another plan."""
        self._stepper.restore(snapshot.states)
        self._number = snapshot.number
