"""What the runtime adds to a bare `session.run` loop, window by window, in one run.

    python benchmarks/overhead.py [--model FILE] [--window 128] [--modal 9] [--hop 64] [--windows 500] [--json]

Four loops over the same windows take turns, round by round, on one thread:

    bare      session.run on windows that lie ready in memory: the least anybody can do
    stream    Stream.process on chunks of one hop, what a live source gives
    live      the same, and each decision scored, written to a journal file and counted
    replay    the whole of `sattn-run --speed max` with a journal, from the recording's file to the report

For each loop: its time over the bare one's, as the median over rounds, and the microseconds a window spends outside
the ONNX Runtime call, at the median (for the replay: its report's total less its `infer`). It would catch a copy, an
allocation or a conversion creeping into the hot path. Most of those microseconds are cache misses: the inference
between two windows has pushed the interpreter out of the core's caches, so the `warm` figure, the same loops around a
session that does nothing, is several times smaller.

Without --model a reference network with random weights is built with plain onnx, so this runs without torch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sattn_edge.engine import Engine, EngineOptions, open_engine
from sattn_edge.engine_onnxruntime import session
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_runtime.journal import Journal
from sattn_runtime.latency import STAGES, Latency
from sattn_runtime.run import RunOptions, run
from sattn_runtime.score import Score
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stop import Stop
from sattn_runtime.stream import Stream
from sattn_runtime.testing import FakeEngine

_INFER = STAGES.index("infer")
_LOOPS = ("stream", "live", "replay")


def measure(model: ModelFile, hop: int, windows: int, rounds: int) -> dict[str, float]:
    """Medians over rounds; each round runs every loop over the same windows."""
    engine, bare = open_engine(model, "onnxruntime", EngineOptions()), session(model.data, model.name)
    length, name_in = model.contract.window, bare.get_inputs()[0].name
    signal = _signal(model, length + hop * (windows - 1))
    ready = [np.ascontiguousarray(signal[i * hop : i * hop + length])[None, None] for i in range(windows)]
    took: dict[str, list[float]] = {name: [] for name in ("bare", *_LOOPS)}
    outside: dict[str, list[float]] = {name: [] for name in _LOOPS}
    with tempfile.TemporaryDirectory() as folder:
        files = _files(model, signal, Path(folder))
        for _ in range(rounds):
            began = perf_counter_ns()
            for window in ready:
                bare.run(None, {name_in: window})
            took["bare"].append((perf_counter_ns() - began) / windows)
            for name in ("stream", "live"):
                each, out = _loop(engine, signal, hop, files[2] if name == "live" else None)
                took[name].append(sum(each) / windows)
                outside[name] += out
            elapsed, out_ns = _replay(files, hop)
            took["replay"].append(elapsed / windows)
            outside["replay"].append(out_ns)
        nothing = FakeEngine(model.contract)
        warm = {
            name: _loop(nothing, signal, hop, files[2] if name == "live" else None)[1] for name in ("stream", "live")
        }
    row: dict[str, float] = {"window": length, "modal": model.contract.modal, "hop": hop, "windows": windows * rounds}
    row["bare_us"] = statistics.median(took["bare"]) / 1000
    for name in _LOOPS:
        row[f"{name}_ratio"] = statistics.median(a / b for a, b in zip(took[name], took["bare"], strict=True))
        row[f"{name}_outside_us"] = statistics.median(outside[name]) / 1000
    for name, values in warm.items():
        row[f"{name}_warm_us"] = statistics.median(values) / 1000
    return row


def _signal(model: ModelFile, samples: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((samples, model.contract.modal))
    return (noise * np.asarray(model.contract.stds) + np.asarray(model.contract.means)).astype(np.float32)


def _files(model: ModelFile, signal: NDArray[np.float32], folder: Path) -> tuple[Path, Path, Path]:
    """The model, the signal as a labelled recording, and where journals go."""
    files = folder / "model.onnx", folder / "signal.npz", folder / "journal.jsonl"
    files[0].write_bytes(model.data)
    np.savez(files[1], signal=signal, label=np.zeros(len(signal), np.int16), channels=model.contract.channel_names)
    return files


def _loop(
    engine: Engine, signal: NDArray[np.float32], hop: int, journal_file: Path | None
) -> tuple[list[int], list[int]]:
    """For each window, in ns: from its chunk to its decision handed over; and that less the inference."""
    stream = Stream(engine, hop)
    journal = Journal(str(journal_file)) if journal_file is not None else None
    latency, score = Latency(10**9), Score(engine.contract.labels)
    score.begin(np.zeros(len(signal), np.int16))
    each: list[int] = []
    outside: list[int] = []
    begin = 0
    for end in range((stream.ring.window - 1) % hop + 1, len(signal) + 1, hop):
        chunk = Chunk(signal[begin:end], None, finite=True)
        came = perf_counter_ns()
        for decision in stream.process(chunk):
            if journal is not None:
                journal.window("bench", decision, score.add(decision), scored=True)
                journal.flush()
                latency.add(decision.latency_ns, 0, perf_counter_ns())
            each.append(perf_counter_ns() - came)
            outside.append(each[-1] - decision.latency_ns[_INFER])
        begin = end
    if journal is not None:
        journal.close()
    return each, outside


def _replay(files: tuple[Path, Path, Path], hop: int) -> tuple[float, float]:
    """The real loop over the recording: ns in all, and ns a window outside the ONNX Runtime call."""
    options = RunOptions(str(files[0]), f"replay:{files[1]}", hop=hop, journal=str(files[2]))
    with contextlib.redirect_stderr(io.StringIO()):
        latency = (result := run(options, tell=lambda _: None, stop=Stop())).latency
    return result.elapsed_s * 1e9, latency.total.quantile_ns(0.5) - latency.stages["infer"].quantile_ns(0.5)


def _built(window: int, modal: int, hop: int) -> ModelFile:
    """A reference network with random weights as a model file in memory."""
    from tests.helpers_model import save_model

    with tempfile.TemporaryDirectory() as folder:
        widths = (64, 128, 256, 512)
        path = save_model(Path(folder), window=window, modal=modal, hop=hop, classes=6, widths=widths)
        return load_model_file(path)


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
    print(f"  bare    {row['bare_us']:8.1f} us a window")
    for name in _LOOPS:
        warm = f" ({row[f'{name}_warm_us']:.1f} warm)" if f"{name}_warm_us" in row else ""
        print(f"  {name:7} {row[f'{name}_ratio']:8.3f} of bare; {row[f'{name}_outside_us']:.1f} us outside{warm}")


if __name__ == "__main__":
    main()
