"""A long run, and whether anything grows that should not.

    python benchmarks/soak.py [--windows 2000000] [--leak memory|descriptors|threads|cycles] [--incremental PLAN]
        [--json]

The real loop on a real ONNX Runtime session, as a live source would drive it: a chunk a hop, every window flushed into
a journal that is rotated and synced, a gap every 500 windows, now and then a stream that begins anew, NaN now and
then, and its metrics read at every look where prometheus-client is installed. The source never waits, so a month of
a 1 Hz decision passes in minutes. The first fifth is left to warm up; from there on resident memory may grow by 8 MiB,
file descriptors and threads by nothing.

--leak keeps a little of every window, or a descriptor, a thread, a cycle of garbage every so often. Each must fail;
without that the verdict would say nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any
from urllib.request import urlopen

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sattn_edge.contract import Contract
from sattn_runtime import sources
from sattn_runtime.decision import Decision
from sattn_runtime.journal_file import JournalOptions
from sattn_runtime.metrics import Metrics
from sattn_runtime.observer import Observer
from sattn_runtime.run import RunOptions, run
from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions, StreamStart
from sattn_runtime.stop import Stop

MOST_GROWTH_MB = 8.0
_GAP_EVERY, _START_EVERY, _NAN_EVERY = 500, 5_000, 3_001
_LOOKS = 100  # how often it is measured
_LEAK_BYTES = 1_000
LEAKS = ("memory", "descriptors", "threads", "cycles")


class SoakSource:
    """Chunks of one hop without end, until as many as asked for were given."""

    paced = True

    def __init__(self, contract: Contract, options: SourceOptions, chunks: int) -> None:
        rng = np.random.default_rng(0)
        self._samples = rng.normal(size=(64, options.hop, contract.modal)).astype(np.float32)
        self._bad = np.full((options.hop, contract.modal), np.nan, np.float32)
        self._hop_s, self._steps = options.hop / contract.rate_hz, np.arange(options.hop) / contract.rate_hz
        self._chunks, self._given = chunks, 0
        self._started, self._time_s = False, 0.0

    def read(self, timeout_s: float) -> Item:  # noqa: ARG002 - the contract of sources
        """The next chunk, at once."""
        number = self._given
        if number >= self._chunks:
            return Signal.END
        if number % _START_EVERY == 0 and not self._started:
            self._started = True
            return StreamStart("soak")
        self._started = False
        self._given += 1
        self._time_s += self._hop_s + (5.0 if number % _GAP_EVERY == _GAP_EVERY - 1 else 0.0)
        samples = self._bad if number % _NAN_EVERY == 7 else self._samples[number % len(self._samples)]
        return Chunk(samples, monotonic_ns(), timestamp_s=self._time_s + self._steps)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Look:
    """What the process had at one moment."""

    windows: int
    resident_mb: float
    descriptors: int
    threads: int


class Watcher(Observer):
    """Looks at the process in regular intervals, and leaks what it is told to."""

    def __init__(self, every: int, leak: str | None, metrics: Metrics | None) -> None:
        self.looks: list[Look] = []
        self._metrics = metrics
        self._every, self._leak, self._windows = every, leak, 0
        self._kept: list[object] = []
        self._never = threading.Event()

    def window(self, stream: str, decision: Decision, emit_ns: int, done_ns: int) -> None:  # noqa: ARG002
        """Counts, and looks where it is time to."""
        self._windows += 1
        if self._leak == "memory":
            self._kept.append(bytes(_LEAK_BYTES))
        elif self._leak == "cycles":
            gc.disable()
            cycle: list[object] = [bytes(_LEAK_BYTES)]
            cycle.append(cycle)
        if self._windows % self._every:
            return
        if self._leak == "descriptors":
            os.dup(0)
        elif self._leak == "threads":
            threading.Thread(target=self._never.wait, daemon=True).start()
        if self._metrics is not None:
            with urlopen(f"http://127.0.0.1:{self._metrics.port}/metrics") as answer:
                answer.read()
        self.looks.append(look(self._windows))


def look(windows: int) -> Look:
    """The process as the kernel sees it now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    return Look(windows, pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), descriptors, threads)


def soak(windows: int, leak: str | None = None, incremental: str = "auto") -> dict[str, Any]:
    """Runs as many windows and judges."""
    from tests.helpers_model import save_model

    metrics = Metrics("0", lambda _: None) if find_spec("prometheus_client") is not None else None
    watcher = Watcher(max(1, windows // _LOOKS), leak, metrics)
    observers: list[Observer] = [watcher] if metrics is None else [metrics, watcher]
    sources.SOURCES["soak"] = f"{__name__}:open_source"
    began = monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model, journal = save_model(Path(folder), window=128, modal=9, hop=64), Path(folder) / "journal.jsonl"
        options = RunOptions(
            str(model),
            f"soak:{windows + windows // 100}",  # gaps and beginnings cost some
            smooth=3,
            incremental=incremental,
            journal=str(journal),
            keep=JournalOptions(max_mb=1.0, keep=3, fsync_s=0.5),
        )
        result = run(options, tell=lambda _: None, stop=Stop(), observers=observers)
        files = len(list(Path(folder).glob("journal.jsonl*")))
    warm = watcher.looks[len(watcher.looks) // 5 :]
    growth_mb = max(item.resident_mb for item in warm) - warm[0].resident_mb
    more = {name: _spread([getattr(item, name) for item in warm]) for name in ("descriptors", "threads")}
    journal_of = result.recorder.journal
    return {
        "plan": result.plan,
        "windows": result.windows,
        "gaps": result.gaps,
        "streams": result.streams,
        "unjudged": result.unjudged,
        "journal_files": files,
        "rotated": 0 if journal_of is None else journal_of.rotated,
        "elapsed_s": round(monotonic() - began, 1),
        "resident_mb": round(warm[0].resident_mb, 2),
        "growth_mb": round(growth_mb, 2),
        "more_descriptors": more["descriptors"],
        "more_threads": more["threads"],
        "passed": growth_mb < MOST_GROWTH_MB and not any(more.values()),
        "looks": [asdict(item) for item in watcher.looks],
    }


def _spread(counts: list[int]) -> int:
    """How much more there was late than early. One look may meet a file just being rotated or synced."""
    third = max(1, len(counts) // 3)
    return min(counts[-third:]) - min(counts[:third])


def open_source(rest: str, contract: Contract, options: SourceOptions) -> SoakSource:
    """`soak:CHUNKS`."""
    return SoakSource(contract, options, int(rest))


def main() -> None:
    """Runs, prints, and exits with 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2_000_000)
    parser.add_argument("--leak", choices=LEAKS)
    parser.add_argument("--incremental", default="auto", help="as for sattn-run")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    row = soak(given.windows, given.leak, given.incremental)
    if given.json:
        print(json.dumps(row))
    else:
        print(f"{row['windows']:,} windows, {row['gaps']:,} gaps, {row['streams']:,} streams in {row['elapsed_s']:g} s")
        print(f"  resident  {row['resident_mb']:.1f} MiB warm, {row['growth_mb']:+.2f} MiB at most after that")
        print(f"  {row['more_descriptors']} more descriptors, {row['more_threads']} more threads at the end")
        print("  passed" if row["passed"] else "  FAILED")
    sys.exit(not row["passed"])


if __name__ == "__main__":
    main()
