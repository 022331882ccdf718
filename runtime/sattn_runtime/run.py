"""The real-time loop: source -> stream -> journal, with every window's latency counted."""

from __future__ import annotations

import contextlib
import math
import resource
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic_ns
from typing import Any

import msgspec

from sattn_edge.contract import Contract
from sattn_edge.engine import DEFAULT_BACKEND, Engine, EngineOptions
from sattn_edge.errors import BudgetError, RecordingError, UsageError
from sattn_edge.model_file import load_model_file
from sattn_runtime.decision import Decision
from sattn_runtime.events import Gap
from sattn_runtime.fallback import check_fallback, open_or_fall_back
from sattn_runtime.journal import Journal
from sattn_runtime.latency import Latency
from sattn_runtime.overload import OLDEST, Lost, QueuedSource, check_queue
from sattn_runtime.score import Score
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Chunk, Signal, Source, SourceOptions, StreamStart
from sattn_runtime.stop import Stop
from sattn_runtime.stream import Stream
from sattn_runtime.stream_options import StreamOptions

_SAMPLE_KINDS = ("in", "in_windows", "skipped", "dropped", "waiting")
# How long a read may wait: what a signal has to wait for at most.
_POLL_S = 0.1
# A service manager waits 2 s before it kills; the report needs some of them.
_DRAIN_NS = 1_000_000_000
_WARM_UP = 8
# Chunks that wait for their acknowledgement; a window of more than these is not given again whole after a kill.
_MOST_HELD = 8192


@dataclass(frozen=True)
class RunOptions:
    """What to run. `speed` None is as fast as the source can be read; `hop` None is the contract's.

    queue: at most so many samples wait for the loop, beyond them the `overload` (oldest, newest) are dropped; None lets
        the source wait, or drop in its own way.
    """

    model: str
    source: str
    hop: int | None = None
    speed: float | None = None
    smooth: int = 1
    journal: str | None = None
    backend: str = DEFAULT_BACKEND
    engine: EngineOptions = EngineOptions()  # noqa: RUF009 - frozen
    fallback: str | None = None
    journal_attention: bool = False
    deadline_ms: float | None = None
    max_p99_ms: float | None = None
    stream: StreamOptions = StreamOptions()  # noqa: RUF009 - frozen
    queue: int | None = None
    overload: str = OLDEST
    reconnect_s: float = 30.0

    def stream_options(self) -> StreamOptions:
        """Those of a stream, `smooth` among them."""
        return replace(self.stream, decision=replace(self.stream.decision, smooth=self.smooth))


@dataclass
class RunResult:
    """What happened. `sattn_runtime.report` prints it."""

    options: RunOptions
    engine: Engine
    hop: int
    paced: bool
    load_ms: float
    first_infer_ms: float
    latency: Latency
    score: Score
    fell_back: str | None = None
    streams: int = 0
    windows: int = 0
    unjudged: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    missing: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SAMPLE_KINDS, 0))
    delay_samples: float = 0.0
    disorder_samples: int = 0
    stopped: bool = False
    elapsed_s: float = 0.0
    peak_rss_mb: float = 0.0

    @property
    def contract(self) -> Contract:
        """The model file's contract."""
        return self.engine.contract


Listener = Callable[[str, Decision, str | None], None]


def run(options: RunOptions, *, tell: Callable[[str], None], stop: Stop, listen: Listener | None = None) -> RunResult:
    """Runs a source to its end, or until told to stop.

    Args:
        options: what to run.
        tell: takes what a person must know, a line at a time.
        stop: asked between reads; what was read by then is still decided and journalled.
        listen: called with (stream, decision, true label) after each decision.

    Raises:
        UsageError, ModelFileError, UnavailableError: before anything is written.
        RecordingError: the source can't be used; what came before it is in the journal.
        SourceLostError: it was away for longer than allowed; the same holds.
    """
    _check(options)
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
    source = _open(options, model.contract, hop)
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
        fell_back=opened.fell_back,
    )
    head = _journal_head(model.name, result)
    statistics = model.statistics
    del model  # the graph and its bytes are the engine's now
    loop = _Loop(result, options, head, tell, listen, statistics)
    try:
        loop.run(source, stop)
    finally:
        loop.close()
        source.close()
    return result


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


def _open(options: RunOptions, contract: Contract, hop: int) -> Source | QueuedSource:
    rate_hz = options.stream.resample_hz or contract.rate_hz
    window, hop = (max(1, round(n * rate_hz / contract.rate_hz)) for n in (contract.window, hop))
    contract = msgspec.structs.replace(contract, rate_hz=rate_hz)
    source = open_source(options.source, contract, SourceOptions(options.speed, window, hop, options.reconnect_s))
    # A replay at full speed is read when there is time for it: nothing can overflow.
    if options.queue is None or not source.paced:
        return source
    return QueuedSource(source, options.queue, options.overload)


def _journal_head(model: str, result: RunResult) -> dict[str, Any]:
    info, contract = result.engine.info, result.engine.contract
    head = {
        "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "model": model,
        "graph_digest": info.graph_digest,
        "backend": info.backend,
        "precision": info.precision,
        "attention": info.attention,
        "window_samples": contract.window,
        "hop_samples": result.hop,
        "rate_hz": contract.rate_hz,
        "labels": contract.labels,
    }
    return head if result.fell_back is None else {**head, "fell_back": result.fell_back}


class _Loop:
    """The loop's own state: the stream at hand and the journal, opened when the first stream begins."""

    def __init__(
        self,
        result: RunResult,
        options: RunOptions,
        head: dict[str, Any],
        tell: Callable[[str], None],
        listen: Listener | None,
        statistics: Mapping[str, Any] | None,
    ) -> None:
        self._result, self._options, self._head = result, options, head
        self._tell, self._listen = tell, listen
        self._journal: Journal | None = None
        self._stream: Stream | None = None
        self._name = ""
        self._statistics = statistics
        self._acknowledge: Callable[[Chunk], None] | None = None
        self._held: deque[tuple[int, Chunk]] = (
            deque()
        )  # not acknowledged, each with the number of samples up to its end

    def run(self, source: Source | QueuedSource, stop: Stop) -> None:
        began = monotonic_ns()
        self._acknowledge = getattr(source, "acknowledge", None)
        while not stop.asked and self._step(source):
            pass
        self._result.stopped = stop.asked
        if stop.asked:
            self._drain(source)
        self._end_stream()
        counters: Mapping[str, int] = getattr(source, "counters", {})
        self._result.counters = dict(counters)
        self._result.elapsed_s = (monotonic_ns() - began) / 1e9
        if not self._result.windows and not stop.asked:
            raise RecordingError(
                self._options.source,
                f"{self._result.samples['in']} samples made no window",
                f"a window has {self._result.contract.window}",
                "give a longer recording, or export with a shorter window",
            )

    def _step(self, source: Source | QueuedSource) -> bool:
        """Takes one item; False at the end."""
        item = source.read(_POLL_S)
        if isinstance(item, Chunk):
            self._take(item)
        elif isinstance(item, StreamStart):
            self._begin(item)
        elif isinstance(item, Lost) and self._stream is not None:
            self._stream.lost(item.samples)
        return item is not Signal.END

    def _drain(self, source: Source | QueuedSource) -> None:
        """Takes what had arrived when the stop was asked for, as far as the time allowed for it reaches."""
        until = monotonic_ns() + _DRAIN_NS
        source.close()
        while self._step(source):
            if monotonic_ns() > until:
                self._tell(f"note: drained for {_DRAIN_NS / 1e9:g} s; samples that had arrived were left undecided")
                return

    def _begin(self, start: StreamStart) -> None:
        self._end_stream()
        self._acknowledge_to(None)
        if self._journal is None and self._options.journal is not None:
            self._journal = Journal(self._options.journal)
        for note in start.notes:
            self._tell(f"note: {note}")
        options, engine = self._options.stream_options(), self._result.engine
        self._stream = Stream(
            engine,
            self._result.hop,
            options=options,
            statistics=self._statistics,
            attention=self._options.journal_attention,
        )
        self._name = start.name
        self._result.streams += 1
        self._result.delay_samples = self._stream.delay_samples
        self._result.disorder_samples = self._stream.disorder_samples
        self._result.score.begin(start.labels)
        self._result.latency.new_stream()
        if self._journal is not None:
            self._journal.start(self._name, self._head)
            self._journal.flush()

    def _take(self, chunk: Chunk) -> None:
        stream = self._stream
        if stream is None:
            raise RuntimeError("a source gave samples before it began a stream")
        self._hand_over(stream, stream.process(chunk))
        if self._acknowledge is not None:
            self._held.append((stream.ring.samples, chunk))
            self._acknowledge_to(stream.ring.next_first)

    def _hand_over(self, stream: Stream, decisions: Iterator[Decision]) -> None:
        """The hot path."""
        journal, result = self._journal, self._result
        for decision in decisions:
            decided = monotonic_ns()
            if stream.log.waiting:
                self._tell_news(stream)
            truth = result.score.add(decision)
            if journal is not None:
                journal.window(self._name, decision, truth, scored=result.score.scoring)
                if result.paced:
                    journal.flush()
            if self._listen is not None:
                self._listen(self._name, decision, truth)
            done = monotonic_ns()
            result.latency.add(decision.latency_ns, done - decided, done)
        if stream.log.waiting:  # what no window followed
            self._tell_news(stream)
        if journal is not None:
            journal.flush()

    def _acknowledge_to(self, sample: int | None) -> None:
        """Acknowledges what no window to come needs: all before this sample, or all there is.

        What a window needs is kept by the source's peer until the window is journalled: after a kill it is given
        again from there.
        """
        held, acknowledge = self._held, self._acknowledge
        while acknowledge and held and (sample is None or held[0][0] <= sample or len(held) > _MOST_HELD):
            acknowledge(held.popleft()[1])

    def _tell_news(self, stream: Stream) -> None:
        for news in stream.log.fetch():
            if self._journal is None:
                continue
            if isinstance(news, Gap):
                self._journal.gap(self._name, news)
            else:
                self._journal.event(self._name, news)

    def _end_stream(self) -> None:
        """Adds the finished stream's counts to the run's."""
        stream, result = self._stream, self._result
        if stream is None:
            return
        self._hand_over(stream, stream.finish())
        self._tell_news(stream)
        result.latency.fold()
        for kind, count in stream.samples.items():
            if count or kind in _SAMPLE_KINDS:
                result.samples[kind] = result.samples.get(kind, 0) + count
        result.windows += stream.windows
        result.unjudged += stream.unjudged
        result.reasons.update(stream.reasons)
        result.events.update(stream.log.counts)
        result.missing += stream.log.missing
        result.gaps += stream.log.counts["gap"]
        self._stream = None

    def close(self) -> None:
        self._result.peak_rss_mb = peak_rss_mb()
        if self._journal is not None:
            self._journal.close()


def peak_rss_mb() -> float:
    """The most memory this process had resident. getrusage would count what its parent had when it was forked."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check_budget(result: RunResult) -> None:
    """Raises BudgetError where the 99th percentile is over what the user allowed."""
    most = result.options.max_p99_ms
    if most is None:
        return
    p99_ms = result.latency.total.quantile_ns(0.99) / 1e6
    if p99_ms > most:
        raise BudgetError("latency", f"p99 is {p99_ms:.3f} ms", f"--max-p99-ms {most:g}")
