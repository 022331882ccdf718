"""One configuration at work: its engine, its streams, and what its windows took.

`sattn-run` puts a stream around an engine, and so does a lane: with one sensor it is that very `Stream`. With more,
sensors in step fill a ring each, and the windows that end together go to the engine in one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic_ns, sleep
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import COPIED_IN, COPIED_OUT, INFERRED, Engine
from sattn_runtime.bench.feed import Feed
from sattn_runtime.bench.options import Configuration, Mode
from sattn_runtime.decision import Smoother
from sattn_runtime.latency import Latency
from sattn_runtime.ring import Ring
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stop import Stop
from sattn_runtime.stream import Stream

if TYPE_CHECKING:
    from sattn_edge.incremental.engine import StepEngine

_NS = 1_000_000_000
_NAP_S = 0.25  # the longest sleep before a stop is looked for: a hop may take minutes
Spent = tuple[int, ...]


class _Single:
    """One sensor: what `sattn-run` does."""

    def __init__(self, engine: Engine, hop: int, steps: StepEngine | None) -> None:
        self._stream = Stream(engine, hop, steps=steps)

    def process(self, chunk: Chunk) -> Iterator[Spent]:
        """The stages up to the decision, in ns, of every window the chunk completes."""
        for decision in self._stream.process(chunk):
            yield decision.latency_ns


class _Batched:
    """Sensors in step: every one sends the same samples at the same time."""

    def __init__(self, engine: Engine, hop: int, batch: int) -> None:
        contract = engine.contract
        self._engine = engine
        self._rings = [Ring(contract.window, hop, contract.modal) for _ in range(batch)]
        self._smoothers = [Smoother(1) for _ in range(batch)]
        self._x = np.zeros((batch, 1, contract.window, contract.modal), np.float32)
        self._stamps = [0, 0, 0]

    def process(self, chunk: Chunk) -> Iterator[Spent]:
        """The stages of every window; those of one call share all but the last, which each waits for in turn."""
        started = monotonic_ns()
        ring = self._rings[0]
        after = ring.samples + len(chunk.samples) - ring.window
        for windows in zip(*(r.feed(chunk.samples) for r in self._rings), strict=True):
            due = started
            if chunk.arrival_ns is not None:
                due = min(started, chunk.arrival_ns - (after - windows[0][0]) * chunk.period_ns)
            for place, (_, view) in zip(self._x, windows, strict=True):
                place[0] = view
            yield from self._decide(due, started)
            started = monotonic_ns()

    def _decide(self, due: int, started: int) -> Iterator[Spent]:
        assembled = monotonic_ns()
        stamps = self._stamps
        logits = self._engine.infer_stamped(self._x, stamps)
        copied_in, inferred, copied_out = stamps[COPIED_IN], stamps[INFERRED], stamps[COPIED_OUT]
        spent = (started - due, assembled - started, copied_in - assembled, inferred - copied_in)
        for smoother, row in zip(self._smoothers, logits.tolist(), strict=True):
            smoother.decide(row)
            yield (*spent, copied_out - inferred, monotonic_ns() - copied_out)


@dataclass(frozen=True)
class Turn:
    """When it was, in monotonic ns; how many windows; their median latency."""

    began_ns: int
    ended_ns: int
    windows: int
    p50_us: float


class Lane:
    """A configuration in one mode; it is given its turns one by one, and goes on where it stopped.

    Args:
        configuration, mode: what it is.
        engine: shared with the lane of the other mode.
        samples: float32 [n, modal], sent round and round.
        period_ns: from sample to sample at the pace of the run.
        deadline_ns: a window that takes longer is a miss.
        steps: what infers the windows by what each adds, None for whole ones.
    """

    def __init__(
        self,
        configuration: Configuration,
        mode: Mode,
        engine: Engine,
        samples: NDArray[np.float32],
        period_ns: float,
        deadline_ns: int,
        steps: StepEngine | None = None,
    ) -> None:
        self.configuration, self.mode, self.engine = configuration, mode, engine
        self.latency = Latency(deadline_ns)
        self.turns: list[Turn] = []
        hop, window = configuration.hop, engine.contract.window
        self._feed = Feed(samples, max(hop, window))
        self._period_ns = period_ns
        single = configuration.batch == 1
        self._streams = _Single(engine, hop, steps) if single else _Batched(engine, hop, configuration.batch)
        self._pass_by(window)  # from here on every hop completes a window

    @property
    def hop_ns(self) -> float:
        """From one window to the next at the pace of the run."""
        return self.configuration.hop * self._period_ns

    def warm_up(self, hops: int) -> None:
        """Decides the windows of so many hops, uncounted."""
        for _ in range(hops):
            self._pass_by(self.configuration.hop)

    def _pass_by(self, samples: int) -> None:
        for _ in self._streams.process(Chunk(self._feed.take(samples), None, 0, None, True)):
            pass

    def turn(self, *, hops: int | None, seconds: float, stop: Stop) -> None:
        """Runs so many hops, or for so long where `hops` is None; a stop ends it earlier.

        What the lane before it left in the caches is met by one hop that is not counted.
        """
        hop, period = self.configuration.hop, round(self._period_ns)
        self.latency.new_stream()
        self._pass_by(hop)
        totals: list[int] = []
        done, began = 0, monotonic_ns()
        until = began + round(seconds * _NS)
        while not stop.asked and (done < hops if hops is not None else not done or monotonic_ns() < until):
            done += 1
            arrival = self._wait(began, done, stop)
            if arrival is not None and monotonic_ns() < arrival:
                break  # stopped: its samples never came
            for spent in self._streams.process(Chunk(self._feed.take(hop), arrival, period, None, True)):
                self.latency.add(spent, 0, monotonic_ns())
                totals.append(sum(spent))
        self.latency.fold()
        self.turns.append(Turn(began, monotonic_ns(), len(totals), float(np.median(totals or [0])) / 1000))

    def _wait(self, began: int, hop: int, stop: Stop) -> int | None:
        """Sleeps until a hop's last sample is due, on a schedule that no stall moves; None without a schedule.

        A stop ends it early.
        """
        if self.mode != "paced":
            return None
        arrival = began + round(hop * self.hop_ns)
        while (ahead := arrival - monotonic_ns()) > 0 and not stop.asked:
            sleep(min(ahead / _NS, _NAP_S))
        return arrival
