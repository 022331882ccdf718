"""What it costs a window that its latency is known.

    python benchmarks/instrumentation.py [--windows 1000] [--rounds 9] [--json]

For each window the runtime reads the clock eight times, builds the row of stages and records it; once in some hundred
windows the rows are counted. That is done here as the runtime does it, around an inference of a real ONNX Runtime
session and around one that does nothing (`warm`). Windows with it and windows without take turns, some at a time, and
both are timed alike: what they spend outside the inference, where a window makes its decision and writes its line
anyway. The cost is the difference, by the median over the turns: the clock readings that time it are in both and
cancel, and so do the cache misses behind an inference that decision and line meet in any case. Three things are added
or are in it:

    the misses of the code and the data that only instrumentation touches, and those it makes decision and line meet
    what the first look at the clock behind an inference costs more than the next, though part of that any code would
    meet there: it is in both, and a loop without instrumentation would not look
    each window's share of the counting, which a median alone would hide

Not in it: how much the inference itself is slowed down, which is lost in its noise. The whole loops are compared for
the ratio. A recorder that grew would show.
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
_TURN = 20  # windows: few enough that both kinds meet the same machine, enough that a turn runs as a loop does


class Window:
    """What every window needs, with instrumentation around it or not; each gives the ns outside the inference."""

    def __init__(self, infer: Infer) -> None:
        self._infer, self._latency = infer, Latency(10**9)
        self._smoother, self._buffer = Smoother(1), bytearray()
        self._encode = msgspec.json.Encoder().encode_into
        self._logits = [0.5, -1.0, 2.0, 0.1, 0.0, -3.0]
        self._stamps = [0, 0, 0]

    @property
    def pending(self) -> bool:
        """Whether rows are kept that are not counted yet."""
        return self._latency.pending

    def bare(self) -> int:
        """Inference, decision, line."""
        began = monotonic_ns()
        before = monotonic_ns()
        self._infer()
        after = monotonic_ns()
        self._line(self._smoother.decide(self._logits))
        return monotonic_ns() - after + before - began

    def timed(self) -> int:
        """The same with its latency known."""
        stamps = self._stamps
        began = monotonic_ns()
        due = monotonic_ns()
        started = monotonic_ns()
        assembled = monotonic_ns()
        stamps[0] = monotonic_ns()
        before = monotonic_ns()
        self._infer()
        after = monotonic_ns()
        stamps[1] = stamps[2] = monotonic_ns()
        decided = self._smoother.decide(self._logits)
        copied_in, inferred, copied_out = stamps
        handed = monotonic_ns()
        stages = (
            started - due,
            assembled - started,
            copied_in - assembled,
            inferred - copied_in,
            copied_out - inferred,
            handed - copied_out,
        )
        self._line(decided)
        done = monotonic_ns()
        rows = self._latency.rows
        rows.append((stages, done - handed, done, 0))
        if len(rows) == ROWS:
            self._latency.fold()
        monotonic_ns()  # when the next one is started
        return monotonic_ns() - after + before - began

    def first_look(self) -> int:
        """What the first look at the clock behind an inference costs more than the one after it."""
        self._infer()
        first = monotonic_ns()
        second = monotonic_ns()
        third = monotonic_ns()
        self._line(self._smoother.decide(self._logits))
        return second - first - (third - second)

    def _line(self, decided: tuple[int, float] | None) -> None:
        self._encode({"type": "window", "label": decided, "logits": self._logits}, self._buffer, 0)


class Turns:
    """Windows with and without, in turns; all in ns."""

    def __init__(self, infer: Infer) -> None:
        self._window = Window(infer)
        self._extra: list[float] = []  # a window of a turn with, over one of the turn before without; counting left out
        self._keeping: list[int] = []
        self._counting: list[int] = []
        self._looks: list[int] = []
        self._ratios: list[float] = []

    def round(self, windows: int) -> None:
        """At least so many windows of both kinds."""
        window, took_bare, took_timed = self._window, 0, 0
        for _ in range(0, windows, _TURN):
            self._looks.append(window.first_look())
            began = monotonic_ns()
            without = [window.bare() for _ in range(_TURN)]
            turned = monotonic_ns()
            keeping = []
            for _ in range(_TURN):
                spent = window.timed()
                (keeping if window.pending else self._counting).append(spent)
            took_bare, took_timed = took_bare + turned - began, took_timed + monotonic_ns() - turned
            self._extra.append(statistics.median(keeping) - statistics.median(without))
            self._keeping += keeping
        self._ratios.append(took_timed / took_bare)

    def row(self) -> dict[str, float]:
        """Microseconds a window, and the median ratio of rounds."""
        clock_us = max(0.0, statistics.median(self._looks) / 1000)
        writing_us = statistics.median(self._extra) / 1000 + clock_us
        counting_us = 0.0  # with too few windows to count even once there is nothing to share
        if self._counting:
            more = statistics.median(self._counting) - statistics.median(self._keeping)
            counting_us = max(0.0, more / 1000 / ROWS)
        return {
            "clock_us": clock_us,
            "writing_us": writing_us,
            "counting_us": counting_us,
            "us": writing_us + counting_us,
            "ratio": statistics.median(self._ratios),
        }


def measure(windows: int, rounds: int) -> dict[str, float]:
    """What `Turns.row` says, for each case."""
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
        turns = Turns(infer)
        for _ in range(rounds):
            turns.round(count)
        row.update({f"{case}_{key}": value for key, value in turns.row().items()})
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
        clock = f"{row[f'{case}_clock_us']:.2f} of it the first look at the clock"
        parts = f"{row[f'{case}_writing_us']:.2f} writing down, {clock}; {row[f'{case}_counting_us']:.2f} counting"
        print(f"{around}: {row[f'{case}_us']:.2f} us a window ({parts}), {row[f'{case}_ratio']:.3f} of the bare loop")


if __name__ == "__main__":
    main()
