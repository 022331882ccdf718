"""What the sample clock and the monitor add to a stream at 50 kHz, in one run.

    python benchmarks/clock.py [--rate 50000] [--modal 8] [--window 1024] [--hop 64] [--chunk 64] [--json]

The same signal goes through streams around an engine that computes nothing, in turns: plain chunks, chunks with
sequence numbers, with time stamps, with both, with both and the input monitor, and with a monitor that watches for
exchanged axes too, every channel being of one unit and another level. CPU microseconds a window outside
the engine, at the median of rounds, and their ratio to the plain ones. It would catch a Python loop over samples on
the way of a healthy stream.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from time import process_time_ns
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sattn_edge.axis_statistics import stretch_windows
from sattn_edge.contract import Contract
from sattn_edge.statistics import channel_statistics
from sattn_edge.windows import WindowSet
from sattn_runtime import Stream
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract

# Whether chunks have numbers, whether they have stamps, what of the statistics the stream's monitor has.
KINDS: dict[str, tuple[bool, bool, tuple[str, ...]]] = {
    "plain": (False, False, ()),
    "numbered": (True, False, ()),
    "stamped": (False, True, ()),
    "both": (True, True, ()),
    "monitored": (True, True, ("windows", "channels", "units")),
    "axes": (True, True, ("windows", "channels", "units", "axes")),
}
GROUPS = 6


class _Nothing(FakeEngine):
    """Gives the same logits for everything."""

    def _run(self, x: np.ndarray) -> np.ndarray:  # noqa: ARG002 - the contract of engines
        return _LOGITS


_LOGITS = np.array([[0.0, 1.0, 2.0]], np.float32)


def _chunks(signal: np.ndarray, rate: float, size: int, kind: str) -> list[Chunk]:
    numbered, stamped, _ = KINDS[kind]
    numbers, stamps = np.arange(len(signal)), 1e6 + np.arange(len(signal)) / rate
    cuts = [slice(at, at + size) for at in range(0, len(signal), size)]
    return [
        Chunk(signal[c], 0, 0, stamps[c] if stamped else None, False, numbers[c] if numbered else None) for c in cuts
    ]


def _statistics(contract: Contract, signal: np.ndarray) -> dict[str, Any]:
    """Of so many windows that axes are learnt: stretches of windows drawn from a signal, each a bit louder or not."""
    rng, each = np.random.default_rng(1), 2 * stretch_windows(contract)
    starts = rng.integers(0, len(signal) - contract.window, GROUPS * each)
    x = np.stack([signal[at : at + contract.window] * rng.uniform(0.9, 1.1) for at in starts])[:, None]
    group, start = np.repeat([str(i) for i in range(GROUPS)], each), np.tile(np.arange(each) * contract.window, GROUPS)
    known: dict[str, Any] = {**channel_statistics(WindowSet(x, None, group, start, "drawn", ""), contract)}
    assert known["axes"]["pairs"]
    return known


def measure(rate: float, modal: int, window: int, hop: int, size: int, rounds: int) -> dict[str, float]:
    """CPU microseconds a window by kind of chunk."""
    names = tuple(f"c{i}" for i in range(modal))
    contract = make_contract(names, rate_hz=rate, window=window, hop=hop, units=("g",) * modal)
    level, rng = 1.5 ** np.arange(modal), np.random.default_rng(0)
    signal = (rng.normal(size=(window + hop * 2000, modal)) * level).astype(np.float32)
    known = _statistics(contract, (rng.normal(size=(window * 40, modal)) * level).astype(np.float32))
    ready = {kind: _chunks(signal, rate, size, kind) for kind in KINDS}
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, chunks in ready.items():
            stream = Stream(_Nothing(contract), statistics={key: known[key] for key in KINDS[kind][2]} or None)
            began = process_time_ns()
            for chunk in chunks:
                for _decision in stream.process(chunk):
                    pass
            took[kind].append((process_time_ns() - began) / 1000 / stream.windows)
    return {kind: statistics.median(values) for kind, values in took.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50_000.0)
    parser.add_argument("--modal", type=int, default=8)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--hop", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    row = measure(given.rate, given.modal, given.window, given.hop, given.chunk, given.rounds)
    if given.json:
        print(json.dumps(row))
        return
    print(
        f"{given.window} x {given.modal}, hop {given.hop}, chunks of {given.chunk}: CPU us a window outside the engine"
    )
    for kind, value in row.items():
        print(f"  {kind:10} {value:6.1f}  {value / row['plain']:.2f} of plain")


if __name__ == "__main__":
    main()
