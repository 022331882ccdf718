"""The real-time loop: source -> stream -> journal, with every window's latency counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from time import monotonic_ns
from typing import Any

from sattn_edge.errors import RecordingError, UsageError
from sattn_edge.model_file import load_model_file
from sattn_runtime.decision import Decision, Smoother
from sattn_runtime.fallback import check_fallback, open_or_fall_back
from sattn_runtime.latency import Latency
from sattn_runtime.observer import Observer
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
    """
    _check(options)
    recorder = Recorder(options.journal, options.keep, tell, resume=options.resume)
    realtime = Realtime(options.realtime, tell)
    switch_s = sys.getswitchinterval()
    try:
        sys.setswitchinterval(min(_SWITCH_S, switch_s))
        realtime.before_engine()
        result, source, head = _open(options, recorder, realtime.granted, tell)
        loop = _Loop(result, head, stop, tell, listen, observers)
        try:
            realtime.before_loop()
            for observer in observers:
                observer.begin(result)
            loop.run(source)
        finally:
            loop.close()
            source.close()
            for observer in observers:
                observer.end()
    finally:
        sys.setswitchinterval(switch_s)
        realtime.end()
    return result


def _open(
    options: RunOptions, recorder: Recorder, granted: Granted, tell: Callable[[str], None]
) -> tuple[RunResult, Source, dict[str, Any]]:
    """Everything that is made once: a warm engine, the source, an empty result, the journal's head."""
    started = monotonic_ns()
    model = load_model_file(options.model)
    opened = open_or_fall_back(model, options.backend, options.engine, options.fallback)
    engine = opened.engine
    loaded = monotonic_ns()
    if opened.fell_back is not None:
        tell(f"note: running on the CPU in place of {options.backend}: {opened.fell_back}")
    for note in engine.info.notes:
        tell(f"note: {note}")
    engine.infer(model.golden.x[:1])
    first = monotonic_ns()
    for _ in range(_WARM_UP):
        engine.infer(model.golden.x[:1])
    hop = options.hop or model.contract.hop
    source = open_source(options.source, model.contract, SourceOptions(options.speed, model.contract.window, hop))
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
    return result, source, _journal_head(model.name, result)


def _check(options: RunOptions) -> None:
    if options.hop is not None and options.hop < 1:
        raise UsageError("--hop", f"got {options.hop}", "a number of samples, 1 or more")
    if options.speed is not None and not options.speed > 0:
        raise UsageError("--speed", f"got {options.speed}", "max, or a factor above 0 (1.0 is real time)")
    for name, value in (("--deadline-ms", options.deadline_ms), ("--max-p99-ms", options.max_p99_ms)):
        if value is not None and not value > 0:
            raise UsageError(name, f"got {value}", "milliseconds, above 0")
    check_fallback(options.fallback, options.backend)
    Smoother(options.smooth)


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
        result: RunResult,
        head: dict[str, Any],
        stop: Stop,
        tell: Callable[[str], None],
        listen: Listener | None,
        observers: Sequence[Observer],
    ) -> None:
        self._result, self._options, self._head = result, result.options, head
        self._stop, self._observers = stop, observers
        self._tell, self._listen = tell, listen
        self._recorder = result.recorder
        self._again = False
        self._stream: Stream | None = None
        self._name = ""

    def run(self, source: Source) -> None:
        stop, began = self._stop, monotonic_ns()
        self._again = bool(getattr(source, "rereadable", False))
        while not stop.asked and self._step(source):
            pass
        self._result.stopped = stop.asked
        if stop.asked:
            self._drain(source)
        self._end_stream()
        self._result.elapsed_s = (monotonic_ns() - began) / 1e9
        if not self._result.windows and not stop.asked:
            raise RecordingError(
                self._options.source,
                f"{self._result.samples['in']} samples made no window",
                f"a window has {self._result.contract.window}",
                "give a longer recording, or export with a shorter window",
            )

    def _step(self, source: Source) -> bool:
        """Takes one item; False at the end."""
        item = source.read(_POLL_S)
        if isinstance(item, Chunk):
            self._take(item)
        elif isinstance(item, StreamStart):
            self._begin(item)
        if self._observers:
            now = monotonic_ns()
            for observer in self._observers:
                observer.tick(now)
        return item is not Signal.END

    def _drain(self, source: Source) -> None:
        """Takes what had arrived when the stop was asked for, as far as the time allowed for it reaches."""
        for observer in self._observers:
            observer.stopping()
        source.close()
        while not self._out_of_time(monotonic_ns()):
            if not self._step(source):
                return
        self._tell(f"note: drained for {_DRAIN_NS / 1e9:g} s; samples that had arrived were left undecided")

    def _out_of_time(self, now_ns: int) -> bool:
        """Whether a stop was asked for so long ago that the rest has to be left undecided."""
        return self._stop.asked and now_ns - self._stop.asked_ns > _DRAIN_NS

    def _begin(self, start: StreamStart) -> None:
        self._end_stream()
        for note in start.notes:
            self._tell(f"note: {note}")
        self._stream = Stream(self._result.engine, self._result.hop, self._options.smooth)
        self._name = start.name
        self._result.live = self._stream
        self._result.streams += 1
        self._result.delay_samples = self._stream.delay_samples
        self._result.score.begin(start.labels)
        self._result.latency.new_stream()
        self._recorder.begin(self._name, self._head, again=self._again)

    def _take(self, chunk: Chunk) -> None:
        """The hot path."""
        stream, recorder, result = self._stream, self._recorder, self._result
        if stream is None:
            raise RuntimeError("a source gave samples before it began a stream")
        before = stream.ring.samples
        for observer in self._observers:
            observer.chunk(chunk)
        for decision in stream.process(chunk):
            decided = monotonic_ns()
            if stream.gaps:
                self._tell_gaps(stream)
            truth = result.score.add(decision)
            new = recorder.window(decision, truth, scored=result.score.scoring)
            if result.paced:
                recorder.flush()
            if new and self._listen is not None:
                self._listen(self._name, decision, truth)
            done = monotonic_ns()
            result.latency.add(decision.latency_ns, done - decided, done)
            for observer in self._observers:
                observer.window(self._name, decision, done - decided, done)
                observer.tick(done)
            if self._out_of_time(done):
                # A chunk may hold more windows than there is time for.
                result.undecided = len(chunk.samples) - (stream.ring.samples - before)
                break
        recorder.flush()

    def _tell_gaps(self, stream: Stream) -> None:
        """Hands gaps on and forgets them: a stream that lasts for months must not keep a list of them."""
        for gap in stream.gaps:
            self._recorder.gap(gap)
        self._result.gaps += len(stream.gaps)
        stream.gaps.clear()

    def _end_stream(self) -> None:
        """Adds the finished stream's counts to the run's."""
        stream, result = self._stream, self._result
        if stream is None:
            return
        self._tell_gaps(stream)
        self._recorder.end(stream)
        result.latency.fold()
        result.take_live()
        self._stream = None

    def close(self) -> None:
        self._result.peak_rss_mb = peak_rss_mb()
        self._recorder.close()
