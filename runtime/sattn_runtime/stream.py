"""A stream: mutable state around an immutable engine. Samples in, decisions out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import Engine
from sattn_edge.errors import UsageError
from sattn_edge.windows import gaps
from sattn_runtime.attention import moment_view
from sattn_runtime.decision import NON_FINITE, OVERFLOW, Decision, Smoother
from sattn_runtime.ring import Ring
from sattn_runtime.sources.base import Chunk


@dataclass(frozen=True)
class Gap:
    """A hole in the stream: it lies before `sample`, lasts `seconds`, and cost `dropped` waiting samples."""

    sample: int
    seconds: float
    dropped: int


class Stream:
    """One sensor's stream through an engine.

    Args:
        engine: shared freely between streams of one thread.
        hop: samples from one window to the next; the contract's if None.
        smooth: decide on the mean score of this many windows; 1 leaves every window to itself.
        attention: tell with every decision which moments of its window the network looked at.

    Raises:
        UsageError: numbers below 1, or attention of an engine that has no `gates`.

    Windows begin at samples 0, hop, 2 * hop, ... and again behind every gap: no window spans one.
    """

    def __init__(self, engine: Engine, hop: int | None = None, smooth: int = 1, *, attention: bool = False) -> None:
        contract = engine.contract
        self.engine = engine
        self.ring = Ring(contract.window, hop if hop is not None else contract.hop, contract.modal)
        self.windows = 0
        self.gaps: list[Gap] = []
        self.unjudged = 0
        self._labels = contract.labels
        self._rate_hz = contract.rate_hz
        self._smoother = Smoother(smooth)
        self._moments = moment_view(engine) if attention else None
        self._shape = (1, 1, contract.window, contract.modal)
        self._stamps = [0, 0, 0]
        self._last_bad = -1  # the newest sample with NaN or Inf
        self._seen_end = 0  # samples in the ring once the chunk at hand is through
        self._last_time_s: float | None = None

    @property
    def delay_samples(self) -> float:
        """Algorithmic delay: from the middle of what a decision speaks of to the sample that completes it."""
        return (self.ring.window - 1) / 2 + self._smoother.delay_samples(self.ring.hop)

    def push(self, samples: NDArray[np.float32], timestamp_s: NDArray[np.float64] | None = None) -> list[Decision]:
        """Takes samples `[n, modal]` in physical units, returns the decisions they complete (often none).

        Raises:
            UsageError: another number of channels or dimensions.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 2 or samples.shape[1] != self.ring.modal:
            raise UsageError("samples", f"got shape {list(samples.shape)}", f"the contract says [n, {self.ring.modal}]")
        return list(self.process(Chunk(samples, monotonic_ns(), timestamp_s=timestamp_s)))

    def process(self, chunk: Chunk) -> Iterator[Decision]:
        """Like `push` for a chunk from a source, which also says when its samples arrived."""
        if chunk.timestamp_s is None:
            yield from self._feed(chunk, 0, len(chunk.samples))
            return
        begin = 0
        for at, seconds in self._holes(chunk.timestamp_s):
            yield from self._feed(chunk, begin, at)
            self._break(seconds)
            begin = at
        yield from self._feed(chunk, begin, len(chunk.samples))

    def _holes(self, timestamp_s: NDArray[np.float64]) -> list[tuple[int, float]]:
        """(first sample behind it, seconds) of every gap in a chunk, the one before its first sample included."""
        if not len(timestamp_s):
            return []
        before = [] if self._last_time_s is None else [self._last_time_s]
        joined = np.concatenate([before, timestamp_s])
        self._last_time_s = float(timestamp_s[-1])
        found = gaps(joined, self._rate_hz)
        return [(int(i) - len(before), float(joined[i] - joined[i - 1])) for i in found]

    def _break(self, seconds: float) -> None:
        dropped = self.ring.restart()
        self._smoother.reset()
        self.gaps.append(Gap(self.ring.samples, seconds, dropped))

    def _feed(self, chunk: Chunk, begin: int, end: int) -> Iterator[Decision]:
        samples = chunk.samples if end - begin == len(chunk.samples) else chunk.samples[begin:end]
        started = monotonic_ns()
        self._seen_end = self.ring.samples + end - begin
        if not chunk.finite:
            self._note_bad(samples)
        after = len(chunk.samples) - end + self._seen_end - self.ring.window
        for first, view in self.ring.feed(samples):
            due = started
            if chunk.arrival_ns is not None:
                # `after - first` of the chunk's samples came behind this window's last one.
                due = min(started, chunk.arrival_ns - (after - first) * chunk.period_ns)
            yield self._decide(first, view, due, started)
            started = monotonic_ns()

    def _note_bad(self, samples: NDArray[np.float32]) -> None:
        """Looks at every sample once, not at every window, and not where its source has done so."""
        good = np.isfinite(samples)
        # memchr over the booleans' bytes: cheaper than good.all() on the few samples of a hop.
        if good.tobytes().find(0) >= 0:
            self._last_bad = self.ring.samples + int(np.flatnonzero(~good.all(axis=1))[-1])

    def _decide(self, first: int, view: NDArray[np.float32], due: int, started: int) -> Decision:
        last = first + self.ring.window - 1
        assembled = monotonic_ns()
        number = self.windows
        self.windows += 1
        if self._last_bad >= first and not np.isfinite(view).all():
            self.unjudged += 1
            spent = (started - due, assembled - started, 0, 0, 0, monotonic_ns() - assembled)
            return Decision(number, first, last, None, None, None, None, spent, NON_FINITE)
        stamps = self._stamps
        moments = None
        if self._moments is None:
            logits: list[float] = self.engine.infer_stamped(view.reshape(self._shape), stamps)[0].tolist()
        else:
            found, gates = self.engine.infer_attention(view.reshape(self._shape), stamps)
            logits, moments = found[0].tolist(), self._moments.of(gates[0], first)
        decided = self._smoother.decide(logits)
        copied_in, inferred, copied_out = stamps
        spent = (
            started - due,
            assembled - started,
            copied_in - assembled,
            inferred - copied_in,
            copied_out - inferred,
            monotonic_ns() - copied_out,
        )
        if decided is None:
            self.unjudged += 1
            return Decision(number, first, last, None, None, None, None, spent, OVERFLOW)
        index, score = decided
        return Decision(number, first, last, index, self._labels[index], score, logits, spent, None, moments)
