"""The real-time loop: source -> stream -> journal, with every window's latency counted."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import msgspec

from sattn_edge.contract import Contract
from sattn_edge.engine import Engine
from sattn_edge.errors import RecordingError, UsageError
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_edge.plan_names import AUTO, OFF, PLANS
from sattn_runtime.batch import Batch, fastest_batch
from sattn_runtime.fallback import check_fallback, open_or_fall_back
from sattn_runtime.lane import Lane, Listener, Shared
from sattn_runtime.latency import Latency
from sattn_runtime.merged import MergedSources
from sattn_runtime.monitor_limits import FEWEST_WINDOWS, enough_windows
from sattn_runtime.observer import Observer
from sattn_runtime.overload import QueuedSource, check_queue
from sattn_runtime.realtime import Granted, Realtime
from sattn_runtime.record import Recorder
from sattn_runtime.resume import StoppedReadingError
from sattn_runtime.run_result import RunOptions, RunResult, check_budget, peak_rss_mb
from sattn_runtime.score import Score
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Signal, Source, SourceOptions
from sattn_runtime.stop import Stop

if TYPE_CHECKING:
    from sattn_edge.incremental.engine import StepEngine
    from sattn_runtime.plans import Chosen

__all__ = ["Listener", "RunOptions", "RunResult", "check_budget", "peak_rss_mb", "run"]

# How long a read may wait: what a signal has to wait for at most.
_POLL_S = 0.1
# A service manager waits 2 s before it kills; the report needs some of them.
_DRAIN_NS = 750_000_000
_WARM_UP = 8
# A thread that wants the interpreter asks for it after so long; by default 5 ms, which is many windows' deadline.
_SWITCH_S = 0.0005


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
        UsageError, ModelFileError, UnavailableError, JournalError: before anything is written.
        RecordingError: the source can't be used; what came before it is in the journal.
        SourceLostError: it was away for longer than allowed; the same holds.
    """
    _check(options)
    recorder = _recorder(options, stop, tell)
    realtime = Realtime(options.realtime, tell)
    switch_s = sys.getswitchinterval()
    try:
        sys.setswitchinterval(min(_SWITCH_S, switch_s))
        realtime.before_engine()
        opened = _open(options, recorder, realtime.granted, tell)
        if not opened.sources:
            return _never_begun(opened.result, tell)
        loop = _Loop(opened, stop, tell, _Lookers(listen, observers))
        try:
            realtime.before_loop()
            for observer in observers:
                observer.begin(opened.result)
            loop.run()
        except KeyboardInterrupt:
            recorder.abandon()
            raise
        finally:
            loop.close()
            for observer in observers:
                observer.end()
    finally:
        sys.setswitchinterval(switch_s)
        realtime.end()
    return opened.result


def _recorder(options: RunOptions, stop: Stop, tell: Callable[[str], None]) -> Recorder:
    return Recorder(
        options.journal,
        options.keep,
        tell,
        resume=options.resume,
        attention=options.journal_attention,
        stopped=lambda: stop.asked,
    )


def _never_begun(result: RunResult, tell: Callable[[str], None]) -> RunResult:
    tell("note: stopped while the journal was read; nothing was begun")
    result.stopped, result.peak_rss_mb = True, peak_rss_mb()
    return result


@dataclass(frozen=True)
class _Lookers:
    """Who is told of decisions."""

    listen: Listener | None
    observers: Sequence[Observer]


@dataclass(frozen=True)
class _Opened:
    """Everything that is made once: an empty result around a warm engine, the sources, the journal's head."""

    result: RunResult
    sources: list[Source | QueuedSource]
    head: dict[str, Any]
    statistics: Mapping[str, Any] | None
    steps: StepEngine | None


def _open(options: RunOptions, recorder: Recorder, granted: Granted, tell: Callable[[str], None]) -> _Opened:
    started = monotonic_ns()
    model = load_model_file(options.model)
    opened = open_or_fall_back(model, options.backend, options.engine, options.fallback)
    engine = opened.engine
    loaded = monotonic_ns()
    if opened.fell_back is not None:
        tell(f"note: running on the CPU in place of {options.backend}: {opened.fell_back}")
    _check_model(options, model, engine, tell)
    engine.infer(model.golden.x[:1])
    first = monotonic_ns()
    for _ in range(_WARM_UP):
        engine.infer(model.golden.x[:1])
    hop = options.hop or model.contract.hop
    chosen = _plan(options, model, engine, hop)
    if chosen.steps is not None:
        warm = chosen.steps.stepper()
        for _ in range(_WARM_UP):
            warm.step(0)
    alone = options.tells_attention(engine) or chosen.steps is not None
    batch = fastest_batch(engine) if len(options.sources) > 1 and not alone else 1
    sources = _open_sources(options, model.contract, hop, recorder)
    deadline_ms = options.deadline_ms or hop / model.contract.rate_hz * 1000
    result = RunResult(
        options=options,
        engine=engine,
        hop=hop,
        paced=any(source.paced for source in sources),
        load_ms=(loaded - started) / 1e6,
        first_infer_ms=(first - loaded) / 1e6,
        latency=Latency(round(deadline_ms * 1e6)),
        score=Score(model.contract.labels),
        recorder=recorder,
        granted=granted,
        fell_back=opened.fell_back,
        plan=chosen.plan,
        plan_reason=chosen.reason,
        batch=batch,
    )
    # The graph and its bytes are the engine's now; nothing here keeps the model.
    return _Opened(result, sources, _journal_head(model.name, result), model.statistics, chosen.steps)


def _check_model(options: RunOptions, model: ModelFile, engine: Engine, tell: Callable[[str], None]) -> None:
    """Tells what there is to know of it. Raises UsageError where it lacks what is asked for."""
    for note in engine.info.notes:
        tell(f"note: {note}")
    if options.journal_attention and engine.gates is None:
        raise UsageError(
            "--journal-attention", f"{model.name} does not give its attention", todo="export it with --attention-output"
        )
    if options.stream.monitor and model.statistics and not enough_windows(model.statistics):
        tell(
            f"note: {model.name} has statistics of {model.statistics.get('windows')} windows, too few to judge "
            f"range and scale of the input; {FEWEST_WINDOWS} or more do"
        )


def _plan(options: RunOptions, model: ModelFile, engine: Engine, hop: int) -> Chosen:
    """How windows are inferred: only whole ones give their attention."""
    from sattn_runtime.plans import choose_plan

    asked = options.incremental
    if asked in PLANS and options.journal_attention:
        raise UsageError(
            f"--incremental {asked}", "got --journal-attention", "whole windows alone give it", "leave one out"
        )
    if asked == AUTO and options.tells_attention(engine):
        asked = OFF
    return choose_plan(model, engine.info, options.engine.attention, hop, asked)


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
    twice = [uri for uri, times in Counter(options.sources).items() if times > 1]
    if twice:
        raise UsageError("sources", f"'{twice[0]}' is given twice", "each once")
    check_fallback(options.fallback, options.backend)
    if options.queue is not None:
        check_queue(options.queue, options.overload)
    options.stream_options().check()


def _open_sources(options: RunOptions, contract: Contract, hop: int, recorder: Recorder) -> list[Source | QueuedSource]:
    """All of them; none where a stop was asked for before it was known where they go on."""
    opened: list[Source | QueuedSource] = []
    try:
        recorder.positions.read_newest()  # most often all there is to read, and nothing arrives yet
        for number, uri in enumerate(options.sources):
            opened.append(_open_source(options, uri, contract, hop, recorder.after_sequence(options.prefix(number))))
        for number, source in enumerate(opened):
            only: str | None = getattr(source, "only_stream", None)
            recorder.settle(None if only is None else options.prefix(number) + only)
    except BaseException as error:
        for source in opened:
            source.close()
            source.close()  # what came meanwhile is nobody's, and comes again
        if isinstance(error, StoppedReadingError):
            return []
        raise
    return opened


def _open_source(
    options: RunOptions, uri: str, contract: Contract, hop: int, after_sequence: Mapping[str, int]
) -> Source | QueuedSource:
    rate_hz = options.stream.resample_hz or contract.rate_hz
    window, hop = (max(1, round(n * rate_hz / contract.rate_hz)) for n in (contract.window, hop))
    contract = msgspec.structs.replace(contract, rate_hz=rate_hz)
    source = open_source(uri, contract, SourceOptions(options.speed, window, hop, options.reconnect_s, after_sequence))
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
        "plan": result.plan,
        "window_samples": contract.window,
        "hop_samples": result.hop,
        "smooth": result.options.smooth,
        "rate_hz": contract.rate_hz,
        "labels": contract.labels,
    }
    return head if result.fell_back is None else {**head, "fell_back": result.fell_back}


class _Loop:
    """The loop: items from the sources to their lanes, until the end or a stop."""

    def __init__(self, opened: _Opened, stop: Stop, tell: Callable[[str], None], lookers: _Lookers) -> None:
        result = self._result = opened.result
        self._sources, self._observers, self._stop, self._tell = opened.sources, lookers.observers, stop, tell
        self._batch = Batch(result.engine, result.batch) if result.batch > 1 else None
        self._shared = Shared(
            result=result,
            head=opened.head,
            statistics=opened.statistics,
            steps=opened.steps,
            stop=stop,
            drain_ns=_DRAIN_NS,
            tell=tell,
            listen=lookers.listen,
            observers=lookers.observers,
            batch=self._batch,
        )
        options = result.options
        self._lanes = [
            Lane(self._shared, uri, source, number, options.prefix(number))
            for number, (uri, source) in enumerate(zip(options.sources, opened.sources, strict=True))
        ]
        self._merged = MergedSources(opened.sources) if len(opened.sources) > 1 else None

    def run(self) -> None:
        stop, result, began = self._stop, self._result, monotonic_ns()
        while not stop.asked and self._step():
            pass
        result.stopped = stop.asked
        if stop.asked:
            self._drain()
        resumed = any(lane.resumed for lane in self._lanes)
        for lane in self._lanes:
            lane.end_stream()
        for source in self._sources:
            result.counters.update(getattr(source, "counters", {}))
        result.elapsed_s = (monotonic_ns() - began) / 1e9
        if not result.windows and not stop.asked and not resumed:
            raise RecordingError(
                ", ".join(result.options.sources),
                f"{result.samples['in']} samples made no window",
                f"a window has {result.contract.window}",
                "give a longer recording, or export with a shorter window",
            )

    def _step(self) -> bool:
        """Takes what came; False at the end."""
        goes_on = self._read_one() if self._merged is None else self._read_some(self._merged)
        if self._observers:
            now = monotonic_ns()
            for observer in self._observers:
                observer.tick(now)
        return goes_on

    def _read_one(self) -> bool:
        item = self._sources[0].read(_POLL_S)
        if not isinstance(item, Signal):
            self._lanes[0].take(item)
        return item is not Signal.END

    def _read_some(self, merged: MergedSources) -> bool:
        for number, item in merged.read(_POLL_S):
            self._lanes[number].take(item)
        if self._batch is not None:
            self._batch.run()
            for lane in self._lanes:
                lane.settle()
            self._result.recorder.flush()
        return not merged.ended

    def _drain(self) -> None:
        """Takes what had arrived when the stop was asked for, as far as the time allowed for it reaches."""
        for observer in self._observers:
            observer.stopping()
        self.close_sources()
        while not self._shared.out_of_time(monotonic_ns()):
            if not self._step():
                return
        self._tell(f"note: drained for {_DRAIN_NS / 1e9:g} s; samples that had arrived were left undecided")

    def close_sources(self) -> None:
        if self._merged is not None:
            self._merged.close()
            return
        for source in self._sources:
            source.close()

    def close(self) -> None:
        self._result.peak_rss_mb = peak_rss_mb()
        self._result.recorder.close()
        self.close_sources()
        for source in self._sources:
            if hasattr(source, "acknowledge"):
                source.close()  # a second time: nothing is acknowledged any more
        if self._merged is not None:
            self._merged.join()
