"""What lowering and INT8 gain on ONNX Runtime, beside the plain export in one run.

    python benchmarks/precision.py [--model FILE --data WINDOWS] [--rounds 300] [--threads 1] [--json]

Every form in FP32 and the forms that run in INT8 take turns, one window a call, each round in another order; the
figure is the plain export's median over the form's, above 1 is faster. It would catch a pass that stops ONNX Runtime
from fusing something, an integer product that falls back to floats, and a form that got slower. Without --model a
reference network of 128 x 9 with random weights is measured; its INT8 ranges come from noise, which changes no time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sattn_calibration.collect import collect, main_products
from sattn_calibration.recipe import Recipe, kitchen
from sattn_edge.calibration_table import Placement, placement_for, read_table
from sattn_edge.engine_onnxruntime import VERSION, session
from sattn_edge.lowering import FORMS, Target, lower
from sattn_edge.model_file import load_model_file
from sattn_edge.text import table
from tests.helpers_lowering import Layer, Network, build, windows

REFERENCE = Network(tuple(Layer(width) for width in (64, 128, 256, 512)), series=128, modal=9, classes=6)
_WARM_UP = 30


def graphs(model: ModelProto, placement: Placement) -> dict[str, ModelProto]:
    """The plain export and every lowered graph that differs from it, by name."""
    made = {"plain": model}
    for form in FORMS:
        made[f"fp32 {form}"] = lower(model, Target("onnxruntime", form)).model
    for form in FORMS:
        made[f"int8 {form}"] = lower(model, Target("onnxruntime", form, "int8", placement=placement)).model
    return made


def measure(made: dict[str, ModelProto], x: NDArray[np.float32], rounds: int, threads: int) -> dict[str, float]:
    """Median microseconds of one window, by name."""
    runs = {name: session(model.SerializeToString(), name, threads) for name, model in made.items()}
    feeds = {name: {run.get_inputs()[0].name: x} for name, run in runs.items()}
    for name, run in runs.items():
        for _ in range(_WARM_UP):
            run.run(None, feeds[name])
    took: dict[str, list[int]] = {name: [] for name in runs}
    order, rng = list(runs), np.random.default_rng(0)
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            began = perf_counter_ns()
            runs[name].run(None, feeds[name])
            took[name].append(perf_counter_ns() - began)
    return {name: statistics.median(times) / 1e3 for name, times in took.items()}


def random_network() -> tuple[ModelProto, Placement, NDArray[np.float32]]:
    """The reference network with random weights, INT8 choices from noise, and one window."""
    model, x = build(REFERENCE, np.float32), windows(REFERENCE, 16).astype(np.float32)
    return model, placement_from(model, x), x[:1]


def placement_from(model: ModelProto, x: NDArray[np.float32]) -> Placement:
    """INT8 choices by the ranges that windows x [n, 1, series, modal] show; which they are changes no time."""
    products = tuple(main_products(model))
    values = list(dict.fromkeys(v for p in products for v in (p.input, p.output)))
    found = kitchen(model, products, collect(model, values, x))
    return found.placement("onnxruntime", dict.fromkeys(found.candidates(), Recipe()), {})


def main() -> None:
    """Measures and prints a table or a JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a calibrated model file")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.model is None:
        model, placement, x = random_network()
    else:
        file = load_model_file(options.model)
        model, x = file.proto, file.golden.x[:1]
        choices = read_table(file.calibration, file.name, file.graph_digest)
        placement = placement_for(choices, "onnxruntime", file.name)
    took = measure(graphs(model, placement), x, options.rounds, options.threads)
    result: dict[str, Any] = {
        "onnxruntime": VERSION,
        "shape": list(x.shape),
        "threads": options.threads,
        "median_us": took,
        "faster_than_plain": {name: took["plain"] / us for name, us in took.items()},
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"onnxruntime {VERSION}, window {x.shape[2]} x {x.shape[3]}, {options.threads} thread(s)")
    rows = [(name, f"{us:.0f}", f"{took['plain'] / us:.2f}") for name, us in took.items()]
    print("\n".join(table(rows, header=("graph", "us", "plain / this"))))


if __name__ == "__main__":
    main()
