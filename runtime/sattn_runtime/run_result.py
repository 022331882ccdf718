"""What a run is asked for, and what came of it."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from sattn_edge.contract import Contract
from sattn_edge.engine import DEFAULT_BACKEND, Engine, EngineOptions
from sattn_edge.errors import BudgetError
from sattn_edge.plan_names import FULL
from sattn_runtime.journal_file import JournalOptions
from sattn_runtime.latency import Latency
from sattn_runtime.overload import OLDEST
from sattn_runtime.realtime import Granted, RealtimeOptions
from sattn_runtime.record import Recorder
from sattn_runtime.score import Score
from sattn_runtime.stream import Stream
from sattn_runtime.stream_options import StreamOptions

# Those that are told also where there were none.
_SAMPLE_KINDS = ("in", "in_windows", "skipped", "dropped", "waiting")


@dataclass(frozen=True)
class RunOptions:
    """What to run. `speed` None is as fast as the source can be read; `hop` None is the contract's.

    more_sources: read beside `source`; all share the engine, and the names of streams begin with the source's number.
    keep: how the journal is kept. resume: go on behind what it holds.
    journal_attention: with every window the moments that the network looked at; watch_attention: find them out where
        the model file gives them, for those who look on.
    incremental: `auto`, `off` or the plan by which overlapping windows are inferred.
    queue: at most so many samples wait for the loop, beyond them the `overload` (oldest, newest) are dropped; None lets
        the source wait, or drop in its own way.
    """

    model: str
    source: str
    more_sources: tuple[str, ...] = ()
    hop: int | None = None
    speed: float | None = None
    smooth: int = 1
    journal: str | None = None
    keep: JournalOptions = JournalOptions()  # noqa: RUF009 - frozen
    resume: bool = False
    backend: str = DEFAULT_BACKEND
    engine: EngineOptions = EngineOptions()  # noqa: RUF009 - frozen
    fallback: str | None = None
    incremental: str = "auto"
    journal_attention: bool = False
    watch_attention: bool = False
    deadline_ms: float | None = None
    max_p99_ms: float | None = None
    stream: StreamOptions = StreamOptions()  # noqa: RUF009 - frozen
    queue: int | None = None
    overload: str = OLDEST
    reconnect_s: float = 30.0
    realtime: RealtimeOptions = RealtimeOptions()  # noqa: RUF009 - frozen

    @property
    def sources(self) -> tuple[str, ...]:
        """All of them."""
        return (self.source, *self.more_sources)

    def prefix(self, number: int) -> str:
        """What the names of a source's streams begin with: nothing where there is one source."""
        return f"{number + 1}:" if self.more_sources else ""

    def tells_attention(self, engine: Engine) -> bool:
        """Whether decisions tell what the network looked at."""
        return self.journal_attention or (self.watch_attention and engine.gates is not None)

    def stream_options(self, patience_s: float = 0.0) -> StreamOptions:
        """Those of a stream, `smooth` among them, and how long its source waits for what is late."""
        clock = self.stream.clock
        if clock.reorder is None:
            clock = replace(clock, patience_s=patience_s)
        return replace(self.stream, clock=clock, decision=replace(self.stream.decision, smooth=self.smooth))


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
    recorder: Recorder
    granted: Granted
    fell_back: str | None = None
    plan: str = FULL  # how windows are inferred, and why so
    plan_reason: str = ""
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
    batch: int = 1  # windows inferred together at most
    live: list[Stream] = field(default_factory=list)  # the streams at hand, whose counts are not added yet
    # So that who counts on another thread never meets a stream twice or not at all.
    _moving: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def contract(self) -> Contract:
        """The model file's contract."""
        return self.engine.contract

    def take(self, stream: Stream) -> None:
        """Adds the counts of a stream that is over."""
        with self._moving:
            self.live.remove(stream)
            totals = self._totals([stream])
            self.windows, self.unjudged, self.gaps = (totals.pop(name) for name in ("windows", "unjudged", "gaps"))
            if stream.untaken:
                totals["undecided"] = totals.get("undecided", 0) + stream.untaken
            self.samples = totals
        self.reasons.update(stream.reasons)
        self.events.update(stream.log.counts)
        self.missing += stream.log.missing

    def totals(self) -> dict[str, int]:
        """Samples by what became of them, `windows`, `unjudged` and `gaps`, with the streams at hand. On any thread."""
        with self._moving:
            return self._totals(self.live)

    def _totals(self, streams: list[Stream]) -> dict[str, int]:
        found = {**self.samples, "windows": self.windows, "unjudged": self.unjudged, "gaps": self.gaps}
        for stream in streams:
            counts = {
                **stream.samples,
                "windows": stream.windows,
                "unjudged": stream.unjudged,
                "gaps": stream.log.counts["gap"],
            }
            for kind, count in counts.items():
                if count or kind in found:
                    found[kind] = found.get(kind, 0) + count
        return found


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
