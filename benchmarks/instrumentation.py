"""What it costs a window that its latency is known.

    python benchmarks/instrumentation.py [--windows 1000] [--rounds 9] [--json]

For each window the runtime reads the clock nine times, builds the row of stages and records it; once in some hundred
windows the rows are counted. That is done here around an inference of a real ONNX Runtime session and around one that
does nothing (`warm`), and timed by itself, the cost of timing it included: the median of the windows that only write a
row down, plus each window's share of the counting, which a median alone would hide. Behind the inference, which pushes
the interpreter out of the core's caches, stands what a window needs anyway, a decision and its journal line.

The bare loop takes turns with it, for the ratio. A recorder that grew would show.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sattn_edge.engine_onnxruntime import session
from sattn_edge.model_file import load_model_file
from sattn_runtime.decision import Smoother
from sattn_runtime.latency import ROWS, Latency

Infer = Callable[[], object]


class Window:
    """What every window needs, with instrumentation around it or not."""

    def __init__(self, infer: Infer) -> None:
        self._infer, self._latency = infer, Latency(10**9)
        self._smoother, self._buffer = Smoother(1), bytearray()
        self._encode = msgspec.json.Encoder().encode_into
        self._logits = [0.5, -1.0, 2.0, 0.1, 0.0, -3.0]

    @property
    def pending(self) -> bool:
        """Whether rows are written down that are not counted yet."""
        return self._latency.pending

    def bare(self) -> None:
        """Inference, decision, line."""
        self._infer()
        self._decide()

    def _decide(self) -> None:
        decided = self._smoother.decide(self._logits)
        self._encode({"type": "window", "label": decided, "logits": self._logits}, self._buffer, 0)

    def timed(self) -> int:
        """The same with its latency known; ns that this took by itself."""
        due = monotonic_ns()
        started = monotonic_ns()
        assembled = monotonic_ns()
        copied_in = monotonic_ns()
        before = monotonic_ns()
        self._infer()
        self._decide()
        after = monotonic_ns()
        inferred = copied_out = monotonic_ns()
        decided = monotonic_ns()
        stages = (
            started - due,
            assembled - started,
            copied_in - assembled,
            inferred - copied_in,
            copied_out - inferred,
            decided - copied_out,
        )
        handed = monotonic_ns()
        done = monotonic_ns()
        self._latency.add(stages, done - handed, done)
        return monotonic_ns() - after + before - due


def measure(windows: int, rounds: int) -> dict[str, float]:
    """Microseconds a window: writing a row down, a share of counting them, both; and the median ratio of rounds."""
    from tests.helpers_model import save_model

    with tempfile.TemporaryDirectory() as folder:
        widths = (64, 128, 256, 512)
        model = load_model_file(save_model(Path(folder), window=128, modal=9, hop=64, classes=6, widths=widths))
    bare = session(model.data, model.name)
    name, x = bare.get_inputs()[0].name, np.ones((1, 1, 128, 9), np.float32)
    cases: dict[str, tuple[Infer, int]] = {
        "session": (lambda: bare.run(None, {name: x}), windows),
        "warm": (lambda: None, windows * 5),
    }
    row: dict[str, float] = {"windows": windows * rounds}
    for case, (infer, count) in cases.items():
        window = Window(infer)
        alone: list[int] = []
        counting: list[int] = []
        ratios: list[float] = []
        for _ in range(rounds):
            began = monotonic_ns()
            for _ in range(count):
                window.bare()
            turned = monotonic_ns()
            for _ in range(count):
                spent_ns = window.timed()
                (alone if window.pending else counting).append(spent_ns)
            ratios.append((monotonic_ns() - turned) / (turned - began))
        writing_us = statistics.median(alone) / 1000
        # With too few windows to count even once there is nothing to share.
        counting_us = max(0.0, statistics.median(counting) / 1000 - writing_us) / ROWS if counting else 0.0
        row[f"{case}_writing_us"], row[f"{case}_counting_us"] = writing_us, counting_us
        row[f"{case}_us"] = writing_us + counting_us
        row[f"{case}_ratio"] = statistics.median(ratios)
    return row


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    row = measure(given.windows, given.rounds)
    if given.json:
        print(json.dumps(row))
        return
    for case, around in (("session", "around an inference"), ("warm", "around nothing")):
        parts = f"{row[f'{case}_writing_us']:.2f} writing down, {row[f'{case}_counting_us']:.2f} counting"
        print(f"{around}: {row[f'{case}_us']:.2f} us a window ({parts}), {row[f'{case}_ratio']:.3f} of the bare loop")


if __name__ == "__main__":
    main()
