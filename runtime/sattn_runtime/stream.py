"""A stream: mutable state around an immutable engine. Samples in, decisions out."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import Engine
from sattn_edge.errors import UsageError
from sattn_runtime.attention import Moments, MomentView, moment_view
from sattn_runtime.decider import Decider, DecisionOptions, States, Verdict
from sattn_runtime.decision import OVERFLOW, Decision
from sattn_runtime.events import Event, EventLog, Gap
from sattn_runtime.filling import fill
from sattn_runtime.guard import Guard
from sattn_runtime.incremental import Incremental
from sattn_runtime.numbering import Places
from sattn_runtime.pieces import Break, Piece, Step
from sattn_runtime.resample import Resampler
from sattn_runtime.ring import Ring
from sattn_runtime.sample_clock import SampleClock
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stream_options import INTERPOLATE, StreamOptions
from sattn_runtime.stream_snapshot import Resumable

if TYPE_CHECKING:
    from sattn_edge.incremental.engine import StepEngine

__all__ = ["Gap", "Stream"]


class Stream(Resumable):
    """One sensor's stream through an engine.

    Args:
        engine: shared freely between streams of one thread.
        hop: samples from one window to the next; the contract's if None.
        smooth: decide on the mean score of this many windows; 1 leaves every window to itself.
        options: what to do about gaps, disorder and doubtful decisions; with it, `smooth` is that of its `decision`.
        statistics: those of the model file's training data; with them, input unlike it is not decided on.
        attention: tell with every decision which moments of its window the network looked at.
        steps: of the same model file and hop: windows are inferred by what they add to the one before.

    Raises:
        UsageError: numbers below 1, attention of an engine that has no `gates`, or attention and steps.

    Windows begin at samples 0, hop, 2 * hop, ... and again behind every gap: no window spans one, unless it was filled.
    """

    def __init__(
        self,
        engine: Engine,
        hop: int | None = None,
        smooth: int = 1,
        options: StreamOptions | None = None,
        statistics: Mapping[str, Any] | None = None,
        *,
        attention: bool = False,
        steps: StepEngine | None = None,
    ) -> None:
        contract = engine.contract
        options = options or StreamOptions(decision=DecisionOptions(smooth))
        options.check()
        self.engine, self.options = engine, options
        self.ring = Ring(contract.window, hop if hop is not None else contract.hop, contract.modal)
        rate_hz = options.resample_hz or contract.rate_hz
        self.clock = SampleClock(rate_hz, contract.modal, options.clock)
        self._resampler = Resampler(rate_hz, contract.rate_hz, contract.modal) if options.resample_hz else None
        self.log = EventLog()
        self.windows = self.unjudged = 0
        self.reasons: Counter[str] = Counter()  # why windows have no label
        self.received = self.filled = self.overload = 0
        self._labels = contract.labels
        if attention and steps is not None:
            raise UsageError("attention", "got steps too", "whole windows alone give it", "leave one out")
        self._moments = moment_view(engine) if attention else None
        self._decider = Decider(options.decision, self.ring.hop, contract.rate_hz)
        told = options.decision.dwell_s is not None
        self._states = States(self._decider.dwell, contract.rate_hz) if told else None
        self._smooth = None if told else self._decider.smooth
        self._shape = (1, 1, contract.window, contract.modal)
        self._stamps = [0, 0, 0]
        self._guard = Guard(contract, statistics, self.clock, monitored=options.monitor)
        self._steps = None if steps is None else Incremental(steps, self.ring.hop)
        self._timed = False  # whether any chunk had numbers or stamps
        self._fed = 0  # samples into the resampler
        self._most_filled = options.most_filled(contract.window)
        self._hole: Break | None = None
        self._last_row: NDArray[np.float32] | None = None  # kept only where it may be repeated
        self._places = Places(1.0 if self._resampler is None else self._resampler.step)
        self._held_from: int | None = None  # received samples before the first that is held back

    @property
    def gaps(self) -> deque[Gap]:
        """The last gaps."""
        return self.log.gaps

    @property
    def delay_samples(self) -> float:
        """Algorithmic delay: from the middle of what a decision speaks of to the sample that completes it."""
        resampling = 0.0 if self._resampler is None else self._resampler.delay_samples
        return (self.ring.window - 1) / 2 + self._decider.delay_samples + resampling

    @property
    def disorder_samples(self) -> int:
        """How many samples longer a decision may wait where samples are missing or out of order."""
        waits = self._most_filled if self.options.gap == INTERPOLATE else 0
        clock = self.options.clock
        return waits + max(clock.reorder or 0, round(clock.patience_s * self.clock.rate_hz))

    @property
    def samples(self) -> dict[str, int]:
        """Where every sample went, at every moment between two chunks.

        `in` + `filled` + `resampled` is the sum of the others. `resampled` is how many more samples, or fewer if below
        0, came out of the resampler than went in.
        """
        ring, order = self.ring, self.clock.order
        resampled = {} if self._resampler is None else {"resampled": ring.samples - self._fed}
        return {
            "in": self.received,
            "filled": self.filled,
            **resampled,
            "in_windows": ring.in_windows,
            "skipped": ring.skipped,
            "dropped": ring.dropped,
            "duplicate": order.duplicates,
            "late": order.late,
            "overload": self.overload,
            "waiting": ring.waiting,
            "held": order.held,
        }

    def push(self, samples: NDArray[np.float32], timestamp_s: NDArray[np.float64] | None = None) -> list[Decision]:
        """Takes samples `[n, modal]` in physical units, returns the decisions they complete (often none).

        Raises:
            UsageError: another number of channels or dimensions.
        """
        return list(self.process(Chunk(np.asarray(samples, np.float32), monotonic_ns(), timestamp_s=timestamp_s)))

    def process(self, chunk: Chunk) -> Iterator[Decision]:
        """Like `push` for a chunk from a source, which also says when its samples arrived."""
        samples = chunk.samples
        if samples.ndim != 2 or samples.shape[1] != self.ring.modal:
            raise UsageError("samples", f"got shape {list(samples.shape)}", f"the contract says [n, {self.ring.modal}]")
        if chunk.timestamp_s is None and chunk.sequence is None and not self._timed and self._resampler is None:
            self.received += len(samples)
            yield from self._feed(samples, chunk.arrival_ns, chunk.period_ns, chunk.finite)
            return
        steps = self.clock.take(chunk)
        self._timed = self._guard.active = True
        begin, self.received = self.received, self.received + len(samples)
        if not self.clock.order.held:
            self._held_from = None
        elif self._held_from is None:
            self._held_from = begin
        yield from self._follow(steps, begin)

    @property
    def untaken(self) -> int:
        """Received samples that are nowhere: of a chunk whose decisions were not asked for to the end."""
        found = self.samples
        arrived = found["in"] + found["filled"] + found.get("resampled", 0)
        return 2 * arrived - sum(found.values())

    @property
    def needed_from(self) -> int:
        """The first of the received samples that a window to come needs; those before it are done with."""
        row = self.ring.needed_from
        needed = row if self._places.plain else self._places.number(row)
        if self._resampler is not None:
            needed -= 2 * self._resampler.half
        return needed if self._held_from is None else min(needed, self._held_from)

    def expect(self, sequence: int, used: int = 0, skip: int = 0) -> None:
        """The stream goes on from an earlier one at this number of the source: what it leaves out is a gap.

        From there on `used` samples were in a window already, and the next window begins `skip` samples behind it.
        """
        self._timed = True
        self.ring.go_on(used, skip)
        self.clock.expect(sequence)

    def lost(self, samples: int) -> None:
        """So many samples were dropped before they came here: they are counted, and no window spans them."""
        self._timed = True
        self.received += samples
        self.overload += samples
        self.clock.lost(samples)
        self.log.add(Event("overload", self.received, samples))

    def finish(self) -> Iterator[Decision]:
        """The stream ends: decides on what was held back, and ends the state."""
        yield from self._follow(self.clock.flush(), self.received)
        self._tell(self._states.end() if self._states is not None else [])

    def _follow(self, steps: list[Step], begin: int) -> Iterator[Decision]:
        """Does what the clock says of a chunk whose first sample is number `begin`."""
        for step in steps:
            if isinstance(step, Piece):
                number = self._places.number(self.ring.samples) if step.at is None else begin + step.at
                if self._hole is not None:
                    hole, self._hole = self._hole, None
                    yield from self._cross(hole, step, number)
                yield from self._accept(step, number)
            elif isinstance(step, Break):
                self._hole = step
            else:
                step.sample = self.received
                self.log.add(step)

    def _accept(self, piece: Piece, number: int, step: float | None = None) -> Iterator[Decision]:
        """Takes consecutive samples, the first of which is number `number`, at the contract's rate or another."""
        resampler = self._resampler
        if self._most_filled:
            self._last_row = piece.samples[-1].copy()
        if resampler is None:
            self._places.mark(self.ring.samples, number, piece.number, step)
            yield from self._feed(piece.samples, piece.arrival_ns, piece.period_ns, piece.finite)
            return
        self._places.mark(self.ring.samples, max(0, number + resampler.position - resampler.taken))
        self._fed += len(piece.samples)
        made = resampler.push(piece.samples)
        arrival_ns = piece.arrival_ns
        if arrival_ns is not None:
            # The last output that came was complete so many input samples ago.
            newest = resampler.position + resampler.half - math.ceil(resampler.step)
            arrival_ns -= max(0, resampler.taken - 1 - newest) * piece.period_ns
        yield from self._feed(made, arrival_ns, round(piece.period_ns * resampler.step), piece.finite)

    def _cross(self, hole: Break, behind: Piece, number: int) -> Iterator[Decision]:
        """Fills a hole before a piece, or breaks the stream there."""
        missing = hole.missing
        if hole.cause == "gap" and missing is not None and missing <= self._most_filled and self._last_row is not None:
            self.log.add(Gap(number, hole.seconds, 0, missing, filled=missing, sequence=behind.number))
            yield from self._make_up(missing, self._last_row, behind, number)
            return
        dropped = self.ring.restart()
        if self._resampler is not None:
            self._resampler.reset()
        if self._steps is not None:
            self._steps.restart()
        self._guard.gap(self.ring.samples)
        self._decider.reset()
        self._tell(self._states.gap() if self._states is not None else [])
        self.log.add(Gap(number, hole.seconds, dropped, missing, hole.cause, sequence=behind.number))

    def _make_up(self, missing: int, before: NDArray[np.float32], behind: Piece, number: int) -> Iterator[Decision]:
        begin = self.ring.samples
        self._places.make_up(begin, begin + missing, begin - self.ring.window)
        self.filled += missing
        arrival_ns = behind.arrival_ns
        if arrival_ns is not None:
            arrival_ns -= (len(behind.samples) - 1) * behind.period_ns
        rows = fill(self.options.gap, missing, before, behind.samples[0])
        first = None if behind.number is None else behind.number - missing
        yield from self._accept(Piece(rows, arrival_ns, 0, False, None, first), max(number - 1, 0), 0.0)

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            self.log.add(event)

    def _feed(
        self, samples: NDArray[np.float32], arrival_ns: int | None, period_ns: int, finite: bool
    ) -> Iterator[Decision]:
        started = monotonic_ns()
        self._look(samples, finite)
        after = self.ring.samples + len(samples) - self.ring.window
        for first, view in self.ring.feed(samples):
            due = started
            if arrival_ns is not None:
                # `after - first` of the piece's samples came behind this window's last one.
                due = min(started, arrival_ns - (after - first) * period_ns)
            yield self._decide(first, view, due, started)
            started = monotonic_ns()
        if self._steps is not None and self._steps.filling:
            self._steps.fill(self.ring.begun, finite=self._guard.last_bad < 0)

    def _look(self, samples: NDArray[np.float32], finite: bool) -> None:
        """Looks at samples that are about to go into the ring."""
        for event in self._guard.look(samples, self.ring.samples, finite=finite):
            event.sample = self._places.number(self.ring.samples)
            self.log.add(event)

    def _decide(self, first: int, view: NDArray[np.float32], due: int, started: int) -> Decision:
        assembled = monotonic_ns()
        guard = self._guard
        if guard.active or guard.last_bad >= first:
            bad = guard.bad(first, view)
            if bad is not None:
                if self._steps is not None:  # which must not miss its samples
                    self._steps.infer(view, self._stamps, finite=guard.last_bad < first)
                return self._refuse(first, bad, (due, started, assembled))
        stamps = self._stamps
        if self._moments is not None:
            return self._attend(first, view, (due, started, assembled), self._moments)
        logits: list[float]
        if self._steps is None:
            logits = self.engine.infer_stamped(view.reshape(self._shape), stamps)[0].tolist()
        else:
            logits = self._steps.logits(view, stamps, self.engine, finite=guard.last_bad < first)
        decided = self._smooth(logits) if self._smooth is not None and self._places.plain else None
        if decided is None:
            return self._conclude(first, logits, (due, started, assembled), stamps)
        # What most windows come to, without the calls that only the others need.
        index, score = decided
        number = self.windows
        self.windows = number + 1
        copied_in, inferred, copied_out = stamps
        done = monotonic_ns()
        spent = (
            started - due,
            assembled - started,
            copied_in - assembled,
            inferred - copied_in,
            copied_out - inferred,
            done - copied_out,
        )
        last = first + self.ring.window - 1
        decision = Decision(number, first, last, index, self._labels[index], score, logits, spent, done)
        if self._timed:
            decision.sequence = self._places.sequence(first)
        return decision

    def _attend(
        self, first: int, view: NDArray[np.float32], times: tuple[int, int, int], moments: MomentView
    ) -> Decision:
        """The decision on a window, with the moments that the network looked at. times: as for `_conclude`."""
        logits, gates = self.engine.infer_attention(view.reshape(self._shape), self._stamps)
        return self._conclude(first, logits[0].tolist(), times, self._stamps, moments.of(gates[0], first))

    def _conclude(
        self,
        first: int,
        logits: list[float],
        times: tuple[int, int, int],
        stamps: list[int],
        moments: Moments | None = None,
    ) -> Decision:
        """The decision on a window by its logits. times: when it was due, started and assembled."""
        due, started, assembled = times
        verdict = self._decider.decide(logits)
        copied_in, inferred, copied_out = stamps
        done = monotonic_ns()
        spent = (
            started - due,
            assembled - started,
            copied_in - assembled,
            inferred - copied_in,
            copied_out - inferred,
            done - copied_out,
        )
        return self._decision(first, verdict, logits, (spent, done), moments)

    def _refuse(self, first: int, bad: str, times: tuple[int, int, int]) -> Decision:
        """No decision on a window, and why."""
        due, started, assembled = times
        self._decider.unjudged()
        done = monotonic_ns()
        spent = (started - due, assembled - started, 0, 0, 0, done - assembled)
        return self._decision(first, (None, None, bad), None, (spent, done))

    def _decision(
        self,
        first: int,
        verdict: Verdict,
        logits: list[float] | None,
        spent: tuple[tuple[int, ...], int],
        moments: Moments | None = None,
    ) -> Decision:
        index, score, reason = verdict
        number, last, filled, label = self.windows, first + self.ring.window - 1, 0, None
        self.windows = number + 1
        if index is not None:
            label = self._labels[index]
        elif reason is not None:
            self.unjudged += 1
            self.reasons[reason] += 1
            if reason == OVERFLOW:
                logits = moments = None
        sequence = self._places.sequence(first)
        if not self._places.plain:
            if moments is not None:
                moments = replace(moments, peak_sample=self._places.number(moments.peak_sample))
            first, last, filled = self._places.window(first, last)
        decision = Decision(number, first, last, index, label, score, logits, *spent, reason, moments, filled, sequence)
        if self._states is not None:
            self._tell(self._states.add(decision))
        return decision
