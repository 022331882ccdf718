"""Are incremental logits the whole window's: trained networks over whole real recordings, window for window.

    python benchmarks/incremental_agreement.py [--networks hapt,emg,cwru] [--recordings N] [--json]

For each network and hop, in FP32 and in INT8 (calibrated on the splits calib and val): every window of every test
recording by plan `edges` and by plan `stateful`, beside the whole window in the same form.

    difference  the largest of any logit, of the logit scale of that recording
    flips       windows whose label differs, and the share that agree

It would catch a column taken for steady that is not, a state that is kept a step too long, a range that INT8 steps do
not share with INT8 windows, and drift: the last recording's differences are the first one's. Needs the data beside the
repository and the export extra; some minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.agreement import calibrated
from sattn_edge.calibration_table import placement_of
from sattn_edge.engine import EngineOptions
from sattn_edge.engine_onnxruntime import run_outputs
from sattn_edge.incremental.engine import open_steps
from sattn_edge.incremental.lower_step import plans_of
from sattn_edge.lowering import Target, lower
from sattn_edge.model_file import ModelFile
from sattn_edge.text import table
from sattn_runtime.incremental import Incremental
from tests.helpers_nets import SHARED, signals_of

HOPS = {
    "hapt": (16, 32),
    "motionsense": (16,),
    "watch": (16, 24),
    "emg": (16, 10),
    "cwru": (64, 16),
    "mitdbtime": (32,),
}
"""Hops in samples; 24 and 10 are no multiples of the networks' stride of 16: windows fall into phases."""
_BATCH = 256


def rows(name: str, model: ModelFile, most: int | None) -> Iterator[dict[str, Any]]:
    """A row for each hop, precision and plan."""
    signals = list(signals_of(name))[:most]
    for hop in HOPS[name]:
        for precision in ("fp32", "int8"):
            whole = [_whole(model, signal, hop, precision) for signal in signals]
            for plan in plans_of(model.proto, hop).plans:
                steps = open_steps(model, plan, hop, "onnxruntime", EngineOptions(precision))
                stepped = [_stepped(Incremental(steps, hop), signal, hop, model.contract.window) for signal in signals]
                yield {
                    "network": name,
                    "window": model.contract.window,
                    "modal": model.contract.modal,
                    "hop": hop,
                    "precision": precision,
                    "plan": plan,
                    **_compared(whole, stepped),
                }


def _whole(model: ModelFile, signal: NDArray[np.float32], hop: int, precision: str) -> NDArray[np.float32]:
    placement = placement_of(model, "onnxruntime") if precision == "int8" else None
    graph = lower(model.proto, Target("onnxruntime", "gemm", precision, placement=placement)).model
    views = np.lib.stride_tricks.sliding_window_view(signal, model.contract.window, axis=0)[::hop]
    parts = [views[i : i + _BATCH].transpose(0, 2, 1)[:, None] for i in range(0, len(views), _BATCH)]
    return np.concatenate([run_outputs(graph, np.ascontiguousarray(part), optimise=True)[0] for part in parts])


def _stepped(stream: Incremental, signal: NDArray[np.float32], hop: int, window: int) -> NDArray[np.float32]:
    stamps = [0, 0, 0]
    ends = range(window, len(signal) + 1, hop)
    return np.array([stream.infer(signal[end - window : end], stamps).copy() for end in ends])


def _compared(whole: list[NDArray[np.float32]], stepped: list[NDArray[np.float32]]) -> dict[str, Any]:
    pairs = list(zip(whole, stepped, strict=True))
    flips = sum(int((a.argmax(1) != b.argmax(1)).sum()) for a, b in pairs)
    windows = sum(len(a) for a in whole)
    return {
        "windows": windows,
        "max_error": max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs),
        "flips": flips,
        "agree": 1 - flips / windows,
    }


def main() -> None:
    """Runs the networks asked for and prints a table or a JSON list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", default=",".join(HOPS))
    parser.add_argument("--recordings", type=int, help="at most so many of each network")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit("the recordings do not lie beside the repository")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks.split(","):
            model, _ = calibrated(name, Path(folder))
            found += list(rows(name, model, options.recordings))
    if options.json:
        print(json.dumps(found, indent=2))
        return
    body = [
        (
            r["network"],
            f"{r['window']} x {r['modal']}",
            r["hop"],
            r["precision"],
            r["plan"],
            f"{r['windows']:,}",
            f"{r['max_error']:.1e}",
            r["flips"],
            f"{100 * r['agree']:.3f} %",
        )
        for r in found
    ]
    header = ("network", "window", "hop", "precision", "plan", "windows", "difference", "flips", "agree")
    print("\n".join(table(body, header=header)))


if __name__ == "__main__":
    main()
