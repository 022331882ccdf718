"""What a run is asked for, and what came of it."""

from __future__ import annotations

import contextlib
import resource
import threading
from dataclasses import dataclass, field
from pathlib import Path

from sattn_edge.contract import Contract
from sattn_edge.engine import DEFAULT_BACKEND, Engine, EngineOptions
from sattn_edge.errors import BudgetError
from sattn_runtime.journal_file import JournalOptions
from sattn_runtime.latency import Latency
from sattn_runtime.realtime import Granted, RealtimeOptions
from sattn_runtime.record import Recorder
from sattn_runtime.score import Score
from sattn_runtime.stream import Stream

_SAMPLE_KINDS = ("in", "in_windows", "skipped", "dropped", "waiting")


@dataclass(frozen=True)
class RunOptions:
    """What to run. `speed` None is as fast as the source can be read; `hop` None is the contract's.

    keep: how the journal is kept. resume: go on behind what it holds.
    """

    model: str
    source: str
    hop: int | None = None
    speed: float | None = None
    smooth: int = 1
    journal: str | None = None
    keep: JournalOptions = JournalOptions()  # noqa: RUF009 - frozen
    resume: bool = False
    backend: str = DEFAULT_BACKEND
    engine: EngineOptions = EngineOptions()  # noqa: RUF009 - frozen
    fallback: str | None = None
    deadline_ms: float | None = None
    max_p99_ms: float | None = None
    realtime: RealtimeOptions = RealtimeOptions()  # noqa: RUF009 - frozen


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
    streams: int = 0
    windows: int = 0
    unjudged: int = 0
    gaps: int = 0
    samples: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SAMPLE_KINDS, 0))
    delay_samples: float = 0.0
    stopped: bool = False
    undecided: int = 0  # samples of the last chunk that a stop left no time for
    elapsed_s: float = 0.0
    peak_rss_mb: float = 0.0
    live: Stream | None = None  # the stream at hand, whose counts are not added yet
    # So that who counts on another thread never meets a stream twice or not at all.
    _moving: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def contract(self) -> Contract:
        """The model file's contract."""
        return self.engine.contract

    def take_live(self) -> None:
        """Adds the counts of the stream at hand, which is over."""
        with self._moving:
            totals, self.live = self._totals(), None
            self.windows, self.unjudged = totals.pop("windows"), totals.pop("unjudged")
            self.samples = totals

    def totals(self) -> dict[str, int]:
        """Samples by what became of them, `windows` and `unjudged`, the stream at hand included. On any thread."""
        with self._moving:
            return self._totals()

    def _totals(self) -> dict[str, int]:
        found = {**self.samples, "windows": self.windows, "unjudged": self.unjudged}
        if self.live is not None:
            ring = self.live.ring
            counts = (ring.samples, ring.in_windows, ring.skipped, ring.dropped, ring.waiting)
            for kind, count in zip(_SAMPLE_KINDS, counts, strict=True):
                found[kind] += count
            found["windows"] += self.live.windows
            found["unjudged"] += self.live.unjudged
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
