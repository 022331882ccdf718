"""Whether any window is late where many streams share an engine, on a virtual clock that a real engine moves.

    python benchmarks/streams.py [--streams 64] [--seconds 30] [--rate 100] [--window 128] [--hop 64] [--json]

Each stream sends packets of ten samples; the streams begin at moments drawn at random. The virtual clock jumps to the
next packet where nothing waits, and by what the work took, measured, where there was work: whatever arrived meanwhile
waits. So the figures are those of one thread of this machine and of no other, and a minute of 64 sensors takes seconds.
Late is a window that is decided on more than one hop after its last sample. Exit 1 if one is.

It is done with windows inferred one by one, and in batches of the size that is fastest here. The control, the same
streams at as many times their rate as the engine can't follow, must have late windows.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

from sattn_edge.engine import Engine, EngineOptions, open_engine
from sattn_edge.model_file import load_model_file
from sattn_runtime import MultiStream
from sattn_runtime.batch import fastest_batch
from sattn_runtime.sources.base import Chunk
from tests.helpers_model import save_model

_PACKET = 10
_TOO_FAST = 40  # times the rate that one thread can follow, at least


def simulate(engine: Engine, streams: int, rate_hz: float, seconds: float, batch: int) -> dict[str, float]:
    """Windows, late ones, the slowest and the share of time that the thread worked."""
    contract = engine.contract
    multi = MultiStream(engine, batch=batch)
    drawn, step_ns = random.Random(0), round(_PACKET / rate_hz * 1e9)  # noqa: S311 - no secret
    packets = [(drawn.randrange(step_ns), number) for number in range(streams)]
    heapq.heapify(packets)
    signal = np.random.default_rng(0).normal(size=(_PACKET, contract.modal)).astype(np.float32)
    arrived: dict[str, list[int]] = {str(number): [] for number in range(streams)}
    now = worked = late = windows = slowest = 0
    hop_ns = contract.hop / rate_hz * 1e9
    while packets and now < seconds * 1e9:
        now = max(now, packets[0][0])
        waiting = []
        while packets and packets[0][0] <= now:
            at, number = heapq.heappop(packets)
            arrived[str(number)].append(at)
            waiting.append((str(number), Chunk(signal, at)))
            heapq.heappush(packets, (at + step_ns, number))
        began = perf_counter_ns()
        decided = multi.process(waiting)
        spent = perf_counter_ns() - began
        now, worked = now + spent, worked + spent
        for name, decision in decided:
            latency = now - arrived[name][decision.last_sample // _PACKET]
            windows, slowest, late = windows + 1, max(slowest, latency), late + (latency > hop_ns)
    return {"windows": windows, "late": late, "slowest_ms": slowest / 1e6, "busy": worked / now}


def main() -> int:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, usual in (("streams", 64), ("window", 128), ("modal", 9), ("hop", 64)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = {"window": given.window, "modal": given.modal, "hop": given.hop, "rate_hz": given.rate}
        model = load_model_file(save_model(Path(folder), widths=(64, 128, 256, 512), classes=6, **size))
    engine = open_engine(model, "onnxruntime", EngineOptions())
    batch = fastest_batch(engine)
    rows = {
        "one by one": simulate(engine, given.streams, given.rate, given.seconds, 1),
        f"batches of {batch}": simulate(engine, given.streams, given.rate, given.seconds, batch),
        "control": simulate(engine, given.streams, _TOO_FAST * given.rate, given.seconds / _TOO_FAST, 1),
    }
    if given.json:
        print(json.dumps(rows))
    else:
        print(
            f"{given.streams} streams of {given.rate:g} Hz, windows of {given.window} x {given.modal} every {given.hop}"
        )
        for name, row in rows.items():
            print(
                f"{name:16} {row['windows']:6,} windows, {row['late']:,} late, slowest {row['slowest_ms']:8.2f} ms, "
                f"thread busy {row['busy']:.0%}"
            )
    control = rows.pop("control")
    return 1 if any(row["late"] for row in rows.values()) or not control["late"] else 0


if __name__ == "__main__":
    sys.exit(main())
