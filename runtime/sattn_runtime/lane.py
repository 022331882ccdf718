"""One source's way through a run: the stream at hand, its lines in the journal, what is acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from sattn_runtime.acknowledge import Acknowledger
from sattn_runtime.batch import Batch, BatchedStream
from sattn_runtime.decision import Decision
from sattn_runtime.latency import ROWS
from sattn_runtime.observer import Observer
from sattn_runtime.overload import Lost, QueuedSource
from sattn_runtime.record import Record
from sattn_runtime.run_result import RunResult
from sattn_runtime.sources.base import Chunk, Item, Source, StreamStart
from sattn_runtime.stop import Stop
from sattn_runtime.stream import Stream

if TYPE_CHECKING:
    from sattn_edge.incremental.engine import StepEngine

Listener = Callable[[str, Decision, str | None], None]


@dataclass(frozen=True)
class Shared:
    """What all lanes of a run have in common.

    head: of a journal, but for the source. batch: where windows of all lanes are inferred together. steps: what
    infers them by what each adds, a stream for itself.
    """

    result: RunResult
    head: dict[str, Any]
    statistics: Mapping[str, Any] | None
    stop: Stop
    drain_ns: int
    tell: Callable[[str], None]
    listen: Listener | None
    observers: Sequence[Observer]
    batch: Batch | None = None
    steps: StepEngine | None = None

    def out_of_time(self, now_ns: int) -> bool:
        """Whether a stop was asked for so long ago that the rest has to be left undecided."""
        return self.stop.asked and now_ns - self.stop.asked_ns > self.drain_ns


class Lane:
    """Takes what a source gives, in its order.

    Args:
        shared: with the other lanes.
        uri, source: what is read.
        number: of the lane, from 0.
        prefix: before the names of its streams, so that those of two lanes differ.
    """

    def __init__(self, shared: Shared, uri: str, source: Source | QueuedSource, number: int, prefix: str) -> None:
        self._shared, self._result, self._number, self._prefix = shared, shared.result, number, prefix
        self._head = {"source": uri, **shared.head}
        self._recorder, self._latency = shared.result.recorder, shared.result.latency
        self._record = Record(self._recorder)
        self._score = shared.result.score if not number else shared.result.score.beside()
        self._again = bool(getattr(source, "rereadable", False))
        self._patience_s = float(getattr(source, "patience_s", 0.0))
        acknowledge: Callable[[Chunk], None] | None = getattr(source, "acknowledge", None)
        self._acknowledger = Acknowledger(acknowledge) if acknowledge is not None else None
        self._taken: list[tuple[Chunk, int]] = []  # decided on with the batch, each with the samples up to its end
        self._stream: Stream | None = None
        self._name = ""

    @property
    def resumed(self) -> bool:
        """Whether the stream at hand goes on from an earlier run's."""
        return self._record.expected is not None

    def take(self, item: Item | Lost) -> None:
        """Takes one item."""
        if isinstance(item, Chunk):
            self._take(item)
        elif isinstance(item, StreamStart):
            self._begin(item)
        elif isinstance(item, Lost) and self._stream is not None:
            self._stream.lost(item.samples)

    def _begin(self, start: StreamStart) -> None:
        self.end_stream()
        if self._acknowledger is not None:
            self._acknowledger.stream_ended()
        for note in start.notes:
            self._shared.tell(f"note: {note}")
        result, name = self._result, self._prefix + start.name
        self._record.begin(name, self._head, again=self._again)
        stream = self._new_stream()
        if self._record.expected is not None:
            stream.expect(*self._record.expected)
        self._stream, self._name = stream, name
        result.live.append(stream)
        result.streams += 1
        result.delay_samples = stream.delay_samples
        result.disorder_samples = stream.disorder_samples
        self._score.begin(start.labels)
        self._latency.new_stream(self._number)

    def _new_stream(self) -> Stream:
        result, shared = self._result, self._shared
        wanted, options = result.options, result.options.stream_options(self._patience_s)
        if shared.batch is not None:
            return BatchedStream(shared.batch, result.hop, options, shared.statistics, self.hand_over)
        attention = wanted.tells_attention(result.engine) and shared.steps is None  # steps make none
        return Stream(
            result.engine,
            result.hop,
            options=options,
            statistics=shared.statistics,
            attention=attention,
            steps=shared.steps,
        )

    def _take(self, chunk: Chunk) -> None:
        stream = self._stream
        if stream is None:
            raise RuntimeError("a source gave samples before it began a stream")
        for observer in self._shared.observers:
            observer.chunk(self._name, chunk)
        whole = self._all(stream, stream.process(chunk))
        if self._acknowledger is not None and whole:
            self._taken.append((chunk, stream.received))
            if self._shared.batch is None:
                self.settle()

    def settle(self) -> None:
        """Every window of what was taken is in the journal: acknowledges what no other needs."""
        stream, acknowledger = self._stream, self._acknowledger
        if stream is None or acknowledger is None:
            return
        for chunk, end in self._taken:
            acknowledger.took(chunk, end, stream.needed_from, written=self._recorder.writes)
        self._taken.clear()

    def _all(self, stream: Stream, decisions: Iterator[Decision]) -> bool:
        """False where a stop left no time for all of them."""
        for decision in decisions:
            if not self.hand_over(decision):
                # A chunk may hold more windows than there is time for.
                self._recorder.flush()
                return False
        if stream.log.waiting:  # what no window followed
            self._tell_news(stream)
        self._recorder.flush()
        return True

    def hand_over(self, decision: Decision) -> bool:
        """The hot path. False where a stop leaves no time for another one."""
        result, stream, shared = self._result, self._stream, self._shared
        if stream is not None and stream.log.waiting:
            self._tell_news(stream)
        truth = self._score.add(decision)
        new = self._record.window(decision, truth, scored=self._score.scoring)
        if result.paced:
            self._recorder.flush()
        if new and shared.listen is not None:
            shared.listen(self._name, decision, truth)
        done = monotonic_ns()
        rows = self._latency.rows
        rows.append((decision.latency_ns, done - decision.done_ns, done, self._number))
        if len(rows) == ROWS:
            self._latency.fold()
        for observer in shared.observers:
            observer.window(self._name, decision, done - decision.done_ns, done)
            observer.tick(done)
        return not shared.out_of_time(done)

    def _tell_news(self, stream: Stream) -> None:
        for news in stream.log.fetch():
            self._record.news(news)

    def end_stream(self) -> None:
        """Adds the finished stream's counts to the run's."""
        stream, result = self._stream, self._result
        if stream is None:
            return
        if not self._shared.out_of_time(monotonic_ns()):
            self._all(stream, stream.finish())
        if self._shared.batch is not None:
            self._shared.batch.run()
            self.settle()
        self._tell_news(stream)
        self._record.end(stream)
        self._recorder.flush()
        self._latency.fold()
        result.take(stream)
        self._stream = None
