"""The real-time loop: source -> stream -> journal, with every window's latency counted."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from time import monotonic_ns
from typing import Any

import msgspec

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError, UsageError
from sattn_edge.model_file import load_model_file
from sattn_runtime.acknowledge import Acknowledger
from sattn_runtime.decision import Decision
from sattn_runtime.fallback import check_fallback, open_or_fall_back
from sattn_runtime.latency import Latency
from sattn_runtime.observer import Observer
from sattn_runtime.overload import Lost, QueuedSource, check_queue
from sattn_runtime.realtime import Granted, Realtime
from sattn_runtime.record import Recorder
from sattn_runtime.run_result import RunOptions, RunResult, check_budget, peak_rss_mb
from sattn_runtime.score import Score
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Chunk, Signal, Source, SourceOptions, StreamStart
from sattn_runtime.stop import Stop
from sattn_runtime.stream import Stream

__all__ = ["Listener", "RunOptions", "RunResult", "check_budget", "peak_rss_mb", "run"]

# How long a read may wait: what a signal has to wait for at most.
_POLL_S = 0.1
# A service manager waits 2 s before it kills; the report needs some of them.
_DRAIN_NS = 750_000_000
_WARM_UP = 8
# A thread that wants the interpreter asks for it after so long; by default 5 ms, which is many windows' deadline.
_SWITCH_S = 0.0005

Listener = Callable[[str, Decision, str | None], None]


def run(
    options: RunOptions,
    *,
    tell: Callable[[str], None],
    stop: Stop,
    listen: Listener | None = None,
    observers: Sequence[Observer] = (),
) -> RunResult:
    """Runs a source to its end, or until told to stop.

    Args:
        options: what to run.
        tell: takes what a person must know, a line at a time.
        stop: asked between reads; what was read by then is still decided and journalled.
        listen: called with (stream, decision, true label) after each decision.
        observers: look on, in this order.

    Raises:
        UsageError, ModelFileError, UnavailableError: before anything is written.
        RecordingError: the source can't be used; what came before it is in the journal.
        SourceLostError: it was away for longer than allowed; the same holds.
    """
    _check(options)
    recorder = Recorder(options.journal, options.keep, tell, resume=options.resume, attention=options.journal_attention)
    realtime = Realtime(options.realtime, tell)
    switch_s = sys.getswitchinterval()
    try:
        sys.setswitchinterval(min(_SWITCH_S, switch_s))
        realtime.before_engine()
        opened = _open(options, recorder, realtime.granted, tell)
        result, source = opened.result, opened.source
        loop = _Loop(opened, stop, tell, listen, observers)
        try:
            realtime.before_loop()
            for observer in observers:
                observer.begin(result)
            loop.run()
        except KeyboardInterrupt:
            recorder.abandon()
            raise
        finally:
            loop.close()
            source.close()
            for observer in observers:
                observer.end()
    finally:
        sys.setswitchinterval(switch_s)
        realtime.end()
    return result


@dataclass(frozen=True)
class _Opened:
    """Everything that is made once: an empty result around a warm engine, the source, the journal's head."""

    result: RunResult
    source: Source | QueuedSource
    head: dict[str, Any]
    statistics: Mapping[str, Any] | None


def _open(options: RunOptions, recorder: Recorder, granted: Granted, tell: Callable[[str], None]) -> _Opened:
    started = monotonic_ns()
    model = load_model_file(options.model)
    opened = open_or_fall_back(model, options.backend, options.engine, options.fallback)
    engine = opened.engine
    loaded = monotonic_ns()
    if opened.fell_back is not None:
        tell(f"note: running on the CPU in place of {options.backend}: {opened.fell_back}")
    for note in engine.info.notes:
        tell(f"note: {note}")
    if options.journal_attention and engine.gates is None:
        raise UsageError(
            "--journal-attention", f"{model.name} does not give its attention", todo="export it with --attention-output"
        )
    engine.infer(model.golden.x[:1])
    first = monotonic_ns()
    for _ in range(_WARM_UP):
        engine.infer(model.golden.x[:1])
    hop = options.hop or model.contract.hop
    source = _open_source(options, model.contract, hop, recorder.after_sequence)
    deadline_ms = options.deadline_ms or hop / model.contract.rate_hz * 1000
    result = RunResult(
        options=options,
        engine=engine,
        hop=hop,
        paced=source.paced,
        load_ms=(loaded - started) / 1e6,
        first_infer_ms=(first - loaded) / 1e6,
        latency=Latency(round(deadline_ms * 1e6)),
        score=Score(model.contract.labels),
        recorder=recorder,
        granted=granted,
        fell_back=opened.fell_back,
    )
    # The graph and its bytes are the engine's now; nothing here keeps the model.
    return _Opened(result, source, _journal_head(model.name, result), model.statistics)


def _check(options: RunOptions) -> None:
    if options.hop is not None and options.hop < 1:
        raise UsageError("--hop", f"got {options.hop}", "a number of samples, 1 or more")
    if options.speed is not None and not options.speed > 0:
        raise UsageError("--speed", f"got {options.speed}", "max, or a factor above 0 (1.0 is real time)")
    for name, value in (("--deadline-ms", options.deadline_ms), ("--max-p99-ms", options.max_p99_ms)):
        if value is not None and not value > 0:
            raise UsageError(name, f"got {value}", "milliseconds, above 0")
    if options.journal_attention and options.journal is None:
        raise UsageError("--journal-attention", "there is no journal", todo="add --journal FILE")
    if options.stream.resample_hz is not None and not 0 < options.stream.resample_hz < math.inf:
        raise UsageError("--resample", f"got {options.stream.resample_hz:g}", "the source's rate in Hz, above 0")
    if not options.reconnect_s >= 0:
        raise UsageError("--reconnect-s", f"got {options.reconnect_s}", "seconds, 0 or more")
    check_fallback(options.fallback, options.backend)
    if options.queue is not None:
        check_queue(options.queue, options.overload)
    options.stream_options().check()


def _open_source(
    options: RunOptions, contract: Contract, hop: int, after_sequence: Mapping[str, int]
) -> Source | QueuedSource:
    rate_hz = options.stream.resample_hz or contract.rate_hz
    window, hop = (max(1, round(n * rate_hz / contract.rate_hz)) for n in (contract.window, hop))
    contract = msgspec.structs.replace(contract, rate_hz=rate_hz)
    wishes = SourceOptions(options.speed, window, hop, options.reconnect_s, after_sequence)
    source = open_source(options.source, contract, wishes)
    # A replay at full speed is read when there is time for it: nothing can overflow.
    if options.queue is None or not source.paced:
        return source
    return QueuedSource(source, options.queue, options.overload)


def _journal_head(model: str, result: RunResult) -> dict[str, Any]:
    info, contract = result.engine.info, result.engine.contract
    head = {
        "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "model": model,
        "source": result.options.source,
        "graph_digest": info.graph_digest,
        "backend": info.backend,
        "precision": info.precision,
        "attention": info.attention,
        "window_samples": contract.window,
        "hop_samples": result.hop,
        "smooth": result.options.smooth,
        "rate_hz": contract.rate_hz,
        "labels": contract.labels,
    }
    return head if result.fell_back is None else {**head, "fell_back": result.fell_back}


class _Loop:
    """The loop's own state: the stream at hand, and where its lines go."""

    def __init__(
        self,
        opened: _Opened,
        stop: Stop,
        tell: Callable[[str], None],
        listen: Listener | None,
        observers: Sequence[Observer],
    ) -> None:
        self._opened, self._result = opened, opened.result
        self._stop, self._observers = stop, observers
        self._tell, self._listen = tell, listen
        self._recorder = opened.result.recorder
        self._again = bool(getattr(opened.source, "rereadable", False))
        self._patience_s = float(getattr(opened.source, "patience_s", 0.0))
        acknowledge: Callable[[Chunk], None] | None = getattr(opened.source, "acknowledge", None)
        self._acknowledger = Acknowledger(acknowledge) if acknowledge is not None else None
        self._stream: Stream | None = None
        self._name = ""

    def run(self) -> None:
        stop, result, began = self._stop, self._result, monotonic_ns()
        while not stop.asked and self._step():
            pass
        result.stopped = stop.asked
        if stop.asked:
            self._drain()
        self._end_stream()
        result.counters = dict(getattr(self._opened.source, "counters", {}))
        result.elapsed_s = (monotonic_ns() - began) / 1e9
        if not result.windows and not stop.asked and self._recorder.expected is None:
            raise RecordingError(
                result.options.source,
                f"{result.samples['in']} samples made no window",
                f"a window has {result.contract.window}",
                "give a longer recording, or export with a shorter window",
            )

    def _step(self) -> bool:
        """Takes one item; False at the end."""
        item = self._opened.source.read(_POLL_S)
        if isinstance(item, Chunk):
            self._take(item)
        elif isinstance(item, StreamStart):
            self._begin(item)
        elif isinstance(item, Lost) and self._stream is not None:
            self._stream.lost(item.samples)
        if self._observers:
            now = monotonic_ns()
            for observer in self._observers:
                observer.tick(now)
        return item is not Signal.END

    def _drain(self) -> None:
        """Takes what had arrived when the stop was asked for, as far as the time allowed for it reaches."""
        for observer in self._observers:
            observer.stopping()
        self._opened.source.close()
        while not self._out_of_time(monotonic_ns()):
            if not self._step():
                return
        self._tell(f"note: drained for {_DRAIN_NS / 1e9:g} s; samples that had arrived were left undecided")

    def _out_of_time(self, now_ns: int) -> bool:
        """Whether a stop was asked for so long ago that the rest has to be left undecided."""
        return self._stop.asked and now_ns - self._stop.asked_ns > _DRAIN_NS

    def _begin(self, start: StreamStart) -> None:
        self._end_stream()
        if self._acknowledger is not None:
            self._acknowledger.stream_ended()
        for note in start.notes:
            self._tell(f"note: {note}")
        result, options = self._result, self._result.options
        watched = options.watch_attention and result.engine.gates is not None
        stream = Stream(
            result.engine,
            result.hop,
            options=options.stream_options(self._patience_s),
            statistics=self._opened.statistics,
            attention=options.journal_attention or watched,
        )
        self._recorder.begin(start.name, self._opened.head, again=self._again)
        if self._recorder.expected is not None:
            stream.expect(*self._recorder.expected)
        self._stream, self._name = stream, start.name
        result.live = stream
        result.streams += 1
        result.delay_samples = stream.delay_samples
        result.disorder_samples = stream.disorder_samples
        result.score.begin(start.labels)
        result.latency.new_stream()

    def _take(self, chunk: Chunk) -> None:
        stream = self._stream
        if stream is None:
            raise RuntimeError("a source gave samples before it began a stream")
        for observer in self._observers:
            observer.chunk(chunk)
        whole = self._hand_over(stream, stream.process(chunk))
        if self._acknowledger is not None and whole:
            self._acknowledger.took(chunk, stream.received, stream.needed_from, written=self._recorder.writes)

    def _hand_over(self, stream: Stream, decisions: Iterator[Decision]) -> bool:
        """The hot path. False where a stop left no time for all of them."""
        recorder, result, observers = self._recorder, self._result, self._observers
        for decision in decisions:
            decided = monotonic_ns()
            if stream.log.waiting:
                self._tell_news(stream)
            truth = result.score.add(decision)
            new = recorder.window(decision, truth, scored=result.score.scoring)
            if result.paced:
                recorder.flush()
            if new and self._listen is not None:
                self._listen(self._name, decision, truth)
            done = monotonic_ns()
            result.latency.add(decision.latency_ns, done - decided, done)
            for observer in observers:
                observer.window(self._name, decision, done - decided, done)
                observer.tick(done)
            if self._out_of_time(done):
                # A chunk may hold more windows than there is time for.
                recorder.flush()
                return False
        if stream.log.waiting:  # what no window followed
            self._tell_news(stream)
        recorder.flush()
        return True

    def _tell_news(self, stream: Stream) -> None:
        for news in stream.log.fetch():
            self._recorder.news(news)

    def _end_stream(self) -> None:
        """Adds the finished stream's counts to the run's."""
        stream, result = self._stream, self._result
        if stream is None:
            return
        if not self._out_of_time(monotonic_ns()):
            self._hand_over(stream, stream.finish())
        self._tell_news(stream)
        self._recorder.end(stream)
        self._recorder.flush()
        result.latency.fold()
        result.take_live()
        self._stream = None

    def close(self) -> None:
        self._result.peak_rss_mb = peak_rss_mb()
        self._recorder.close()
