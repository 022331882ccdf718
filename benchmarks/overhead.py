"""What the runtime adds to a bare `session.run` loop, window by window, in one run.

    python benchmarks/overhead.py [--model FILE] [--window 128] [--modal 9] [--hop 64] [--windows 2000] [--json]

Three loops over the same windows take turns, round by round, on one thread:

    bare      session.run on windows that lie ready in memory: the least anybody can do
    stream    Stream.process on chunks of one hop, what a live source gives
    run       the whole of `sattn-run`: stream, journal to a file, latency histograms, score

Printed: microseconds a window outside the ONNX Runtime call at the median, and the time of each loop over that of the
bare one, as medians over rounds. Outside a benchmark most of those microseconds are cache misses: the inference between
two windows has pushed the interpreter out of the core's caches. It would catch a copy, an
allocation or a conversion creeping into the hot path. Without --model a reference network with random weights is
built with plain onnx, so this runs on a device without torch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from sattn_edge.engine import Engine, EngineOptions, open_engine
from sattn_edge.engine_onnxruntime import session
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_runtime.journal import Journal
from sattn_runtime.latency import STAGES, Latency
from sattn_runtime.score import Score
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stream import Stream

_INFER = STAGES.index("infer")


def measure(model: ModelFile, hop: int, windows: int, rounds: int) -> dict[str, float]:
    """Medians over rounds; each round runs every loop over the same windows."""
    engine = open_engine(model, "onnxruntime", EngineOptions())
    bare = session(model.data, model.name)
    length, modal = model.contract.window, model.contract.modal
    signal = _signal(model, length + hop * (windows - 1))
    ready = [np.ascontiguousarray(signal[i * hop : i * hop + length])[None, None] for i in range(windows)]
    rows: dict[str, list[float]] = {"bare": [], "stream": [], "run": []}
    outside: dict[str, list[float]] = {"stream": [], "run": []}
    for _ in range(rounds):
        began = perf_counter_ns()
        for window in ready:
            bare.run(["logits"], {"window": window})
        rows["bare"].append((perf_counter_ns() - began) / windows)
        for name in ("stream", "run"):
            each, inside = _loop(engine, signal, hop, whole=name == "run")
            rows[name].append(sum(each) / windows)
            outside[name] += [a - b for a, b in zip(each, inside, strict=True)]
    return {
        "window": length,
        "modal": modal,
        "hop": hop,
        "windows": windows * rounds,
        "bare_us": statistics.median(rows["bare"]) / 1000,
        "stream_outside_us": statistics.median(outside["stream"]) / 1000,
        "run_outside_us": statistics.median(outside["run"]) / 1000,
        "stream_ratio": statistics.median(s / b for s, b in zip(rows["stream"], rows["bare"], strict=True)),
        "run_ratio": statistics.median(s / b for s, b in zip(rows["run"], rows["bare"], strict=True)),
    }


def _signal(model: ModelFile, samples: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((samples, model.contract.modal))
    return (noise * np.asarray(model.contract.stds) + np.asarray(model.contract.means)).astype(np.float32)


def _loop(engine: Engine, signal: np.ndarray, hop: int, *, whole: bool) -> tuple[list[int], list[int]]:
    """For each window, in ns: from its chunk being there to its decision handed over; in the ONNX Runtime call."""
    stream = Stream(engine, hop)
    length = stream.ring.window
    first = (length - 1) % hop + 1
    ends = range(first, len(signal) + 1, hop)
    each: list[int] = []
    inside: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(str(Path(folder) / "journal.jsonl")) if whole else None
        latency, score = Latency(10**9), Score(engine.contract.labels)
        score.begin(np.zeros(len(signal), np.int16))
        begin = 0
        for end in ends:
            came = perf_counter_ns()
            for decision in stream.process(Chunk(signal[begin:end], None)):
                if journal is not None:
                    truth = score.add(decision)
                    journal.window("bench", decision, truth, scored=True)
                    journal.flush()
                    latency.add(decision.latency_ns, 0, perf_counter_ns())
                each.append(perf_counter_ns() - came)
                inside.append(decision.latency_ns[_INFER])
            begin = end
        if journal is not None:
            journal.close()
    return each, inside


def _built(window: int, modal: int, hop: int) -> ModelFile:
    """A reference network with random weights as a model file in memory."""
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.helpers_model import build_model_file

    return build_model_file(window=window, modal=modal, hop=hop, widths=(64, 128, 256, 512), classes=6)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--modal", type=int, default=9)
    parser.add_argument("--hop", type=int, default=64)
    parser.add_argument("--windows", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model = load_model_file(given.model) if given.model else _built(given.window, given.modal, given.hop)
    row = measure(model, given.hop, given.windows, given.rounds)
    if given.json:
        print(json.dumps(row))
        return
    print(f"{row['window']} x {row['modal']}, hop {row['hop']}, one thread, {row['windows']:,} windows a loop")
    print(f"  bare session.run loop   {row['bare_us']:8.1f} us a window")
    for name in ("stream", "run"):
        ratio, outside = row[f"{name}_ratio"], row[f"{name}_outside_us"]
        print(f"  {name:23} {ratio:8.3f} of bare; {outside:.1f} us outside ONNX Runtime at the median")


if __name__ == "__main__":
    main()
