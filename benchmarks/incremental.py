"""What steps gain over whole windows, and how far they are from the machine's own limit, in one run.

    python benchmarks/incremental.py [--window 1024 --modal 9 --hop 16] [--rounds 40] [--streams] [--others]
                                     [--plot FILE.svg] [--json]

For each configuration the plain export, the form of it that is fastest here in FP32 and in INT8, and the plans `edges`
and `stateful` in both infer the windows of one moving signal on one thread, in turns: `ratio` is the plain export's
median over a plan's, above 1 is faster. `floor` are the products of a step alone, the same rows and weights, as a graph
of its own. `error` is the largest difference of a logit over a stretch of the signal, of the logit scale: to the plain
export, and of a plan in INT8 to the whole window in INT8 in form `gemm`. --streams adds several streams as one batch,
by the time of one; --others adds other runtimes, those that are installed.

At 128 x 6 every 64, where steps hardly pay, what `auto` takes is paired with the whole window, call by call.

It would catch a step that does more than its hop's work or copies its states, one whose cost grows with the window, a
quantised state that goes back to floats, and an `auto` that takes steps where whole windows are faster. The network is
the reference one with random weights, the signal noise: that changes no time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "calibration"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

from benchmarks.incremental_candidates import WIDTHS, Bench, Call, Setting, medians, stepping
from sattn_edge.engine import EngineOptions, open_engine
from sattn_edge.engine_onnxruntime import VERSION
from sattn_edge.incremental.engine import open_steps
from sattn_edge.model_file import load_model_file
from sattn_edge.text import table
from sattn_runtime.plan_build import measure_plans
from sattn_runtime.plans import counted
from sattn_runtime.timing import ROUNDS, WARM_UP
from tests.helpers_model import save_model

SETTINGS = tuple(
    Setting(*numbers)
    for numbers in (
        (2048, 9, 16),
        (1024, 9, 16),
        (512, 9, 16),
        (256, 9, 16),
        (128, 9, 16),
        (2048, 2, 16),
        (2048, 2, 64),
        (128, 6, 64),
    )
)
CLOSE = Setting(128, 6, 64)
"""Where steps and whole windows take about the same time: there `auto` may not lose."""


def measure(setting: Setting, rounds: int, streams: bool, foreign: bool) -> list[dict[str, Any]]:
    """The rows of one configuration."""
    bench = Bench(setting)
    found = [*bench.candidates(), *(bench.batches() if streams else ()), *(bench.others() if foreign else ())]
    took = iter(medians([call for one in found for call in (one.call, one.products) if call is not None], rounds))
    rows = []
    for one in found:
        row = {"window": setting.window, "modal": setting.modal, "hop": setting.hop, "plan": one.plan}
        ms = None if one.call is None else float(next(took)) / one.streams
        floor = None if one.products is None else float(next(took)) / one.streams
        row |= {"precision": one.precision, "plan_ms": ms, "floor_ms": floor, "max_error": one.error}
        rows.append(row | {"against": one.against, "multiply_adds": one.multiply_adds, "note": one.note})
    plain = rows[0]["plan_ms"]
    best = {row["precision"]: min(plain, row["plan_ms"]) for row in rows if row["plan"] == "full"}
    for row in rows:
        ms, floor, full = row["plan_ms"], row["floor_ms"], best.get(row["precision"])
        row["full_ms"], row["ratio"] = plain, None if ms is None else plain / ms
        row["best_full_ratio"] = None if ms is None or full is None else full / ms
        row["step_over_floor"] = None if floor is None else ms / floor
    return rows


def measure_auto(setting: Setting, pairs: int) -> list[dict[str, Any]]:
    """What `auto` takes on an engine that was not built, and on one that was, call by call beside the whole window."""
    with tempfile.TemporaryDirectory() as folder:
        shape = {"window": setting.window, "modal": setting.modal, "hop": setting.hop}
        model = load_model_file(save_model(Path(folder), **shape, classes=6, widths=WIDTHS))
    engine, other = (open_engine(model, "onnxruntime", EngineOptions()) for _ in range(2))
    built = measure_plans(model, engine, setting.hop, ROUNDS)
    bench, rows = Bench(setting), []
    for name, (plan, reason) in {
        "auto, counted": counted(model, EngineOptions(), setting.hop),
        "auto, measured": (built.plan, built.reason),
    }.items():
        full = bench.on_walk(engine.infer)
        chosen = bench.on_walk(other.infer)
        if plan != "full":
            steps = open_steps(model, plan, setting.hop, "onnxruntime", EngineOptions())
            chosen = bench.on_walk(stepping(steps, setting.hop))
        took = [float(ms) for ms in _paired((full, chosen), pairs)]
        error = next((row.difference for row in built.times if row.plan == plan and row.difference is not None), 0.0)
        row = {**shape, "plan": name, "precision": "fp32", "chosen": plan, "full_ms": took[0], "plan_ms": took[1]}
        row |= {"ratio": took[0] / took[1], "slower": took[1] / took[0] - 1, "pairs": pairs, "max_error": error}
        rows.append({**row, "note": reason})
    return rows


def _paired(calls: tuple[Call, Call], pairs: int) -> NDArray[np.float64]:
    """Medians in ms of two that follow one another, either first."""
    took, rng = np.zeros((2, pairs)), np.random.default_rng(0)
    for call in calls * WARM_UP:
        call()
    for pair in range(pairs):
        for place in rng.permutation(2):
            began = perf_counter_ns()
            calls[place]()
            took[place, pair] = (perf_counter_ns() - began) / 1e6
    medians: NDArray[np.float64] = np.median(took, axis=1)
    return medians


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of one configuration as a table."""
    header = ("plan", "", "ms", "plain / this", "best full / this", "M mult-adds", "step / floor", "error", "")
    forms = ("", "", ".3f", ".2f", ".2f", ".2f", ".2f", ".1e", "")
    keys = ("plan", "precision", "plan_ms", "ratio", "best_full_ratio", "multiply_adds")
    keys += ("step_over_floor", "max_error", "note")
    body = []
    for row in rows:
        values = [row[key] if key != "multiply_adds" or row[key] is None else row[key] / 1e6 for key in keys]
        body.append(["-" if v is None else format(v, form) for v, form in zip(values, forms, strict=True)])
    return table(body, header=header)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time of a window over its length at the first row's channels and hop: a colour a plan, INT8 dashed."""
    from sattn_edge import plot_style as our

    colours = (our.INK, our.FIRST, our.SECOND, our.THIRD, our.FOURTH, our.FIFTH, our.SIXTH, our.MUTED)
    modal, hop = rows[0]["modal"], rows[0]["hop"]
    drawn: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        batched = row["plan"].startswith("stateful x")
        if (row["modal"], row["hop"]) == (modal, hop) and row["plan_ms"] and not batched and "chosen" not in row:
            drawn.setdefault((row["plan"], row["precision"]), {})[row["window"]] = row["plan_ms"]
    plans = list(dict.fromkeys(plan for plan, _ in drawn))
    with our.styled():
        figure, axes = our.new_figure(5.0)
        for (plan, precision), points in drawn.items():
            place = plans.index(plan)
            dashes = "--" if precision == "int8" else "-" if place < len(colours) else ":"
            at = sorted(points)
            look = {"color": colours[place % len(colours)], "marker": "o", "markersize": 3}
            axes.plot(
                at,
                [points[x] for x in at],
                dashes,
                **look,
                label=plan if precision == "fp32" else f"{plan} {precision}",
            )
        our.log_axis(axes, "x")
        axes.set_xticks(sorted({length for points in drawn.values() for length in points}))
        axes.minorticks_off()
        our.log_axis(axes, "y", (1, 2, 5))
        axes.set(xlabel="samples of a window", ylabel="ms a window", title=f"{modal} channels, every {hop} samples")
        axes.grid(visible=True)
        figure.legend(ncols=2, loc="outside lower center")
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")


def main() -> None:
    """Measures and prints tables or JSON rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, help="one configuration instead of the usual ones")
    parser.add_argument("--modal", type=int, help="9 where only others are given")
    parser.add_argument("--hop", type=int, help="16 where only others are given")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--pairs", type=int, default=2000, help="of `auto` and the whole window")
    parser.add_argument("--streams", action="store_true", help="1, 4 and 8 streams as one batch too")
    parser.add_argument("--others", action="store_true", help="other runtimes too: some minutes")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    settings = SETTINGS
    if given.window or given.modal or given.hop:
        settings = (Setting(given.window or 128, given.modal or 9, given.hop or 16),)
    say = partial(print, flush=True, file=sys.stderr if given.json else sys.stdout)
    say(f"onnxruntime {VERSION}, one thread, load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before")
    rows: list[dict[str, Any]] = []
    for setting in settings:
        found = measure(setting, given.rounds, given.streams, given.others)
        say(f"\nwindow {setting.window} x {setting.modal}, hop {setting.hop}\n" + "\n".join(lines(found)))
        rows += found
        if setting == CLOSE:
            for row in measure_auto(setting, given.pairs):
                say(f"  {row['plan']} ({row['note']})")
                slower = f"{100 * row['slower']:+.1f} % to the whole window in {row['pairs']:,} pairs"
                say(f"    takes {row['chosen']}: {row['plan_ms']:.3f} ms, {slower}")
                rows.append(row)
    say(f"\nload of {os.getloadavg()[0]:.1f} behind")
    if given.plot:
        draw(rows, given.plot)
    if given.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
