"""Which plan infers a stream's windows fastest on this device: held to the whole windows' logits, timed in turns."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import Engine, EngineOptions
from sattn_edge.engine_manifest import IncrementalChoice, PlanTime
from sattn_edge.incremental.chain import NotIncremental
from sattn_edge.incremental.engine import StepEngine, open_steps
from sattn_edge.incremental.lower_step import plans_of
from sattn_edge.model_file import ModelFile
from sattn_edge.plan_names import FULL, PLANS
from sattn_runtime.choice import Times
from sattn_runtime.incremental import Incremental
from sattn_runtime.timing import time_calls

WITHIN = {"fp32": 1e-5, "int8": 1e-2}
"""Largest difference to the whole window's logits, of the logit scale, by precision.

In FP32 two orders of the same sums differ by 1e-7 to 1e-6. In INT8 a value that two ways to round put on either side of
a level moves what is behind it, and the whole window may run in another form: thousandths.
"""
_JUDGED = 8  # golden windows: each takes a warm-up of its own


def measure_plans(model: ModelFile, engine: Engine, hop: int, rounds: int) -> IncrementalChoice:
    """Judges and times the plans beside whole windows on `engine`."""
    found = plans_of(model.proto, hop)
    if isinstance(found, NotIncremental) or not found.plans:
        reason = str(found) if isinstance(found, NotIncremental) else next(iter(found.reasons.values()))
        return IncrementalChoice(hop, FULL, reason, (PlanTime(FULL),))
    options = EngineOptions(engine.info.precision, engine.info.threads)
    opened = {name: open_steps(model, name, hop, engine.info.backend, options) for name in PLANS if name in found.plans}
    away = {name: difference(model, engine, steps, hop) for name, steps in opened.items()}
    allowed = WITHIN[engine.info.precision]
    accepted = [name for name in opened if away[name] <= allowed]
    x = model.golden.x[:1]
    calls = [lambda: engine.infer(x), *(_stepping(opened[name], hop, x[0, 0]) for name in accepted)]
    times = Times(time_calls(calls, rounds))
    rows = [PlanTime(FULL, round(times.median_us(0), 2))]
    for name in PLANS:
        differs = away[name] if name in away and math.isfinite(away[name]) else None
        if name in accepted:
            at = 1 + accepted.index(name)
            rows.append(PlanTime(name, round(times.median_us(at), 2), times.rounds_won(at, 0), differs))
        elif name in opened:
            rows.append(PlanTime(name, difference=differs, note=f"NOT accepted: at most {allowed:g} is allowed"))
        else:
            rows.append(PlanTime(name, note=found.reasons.get(name, "")))
    kept = times.best(range(len(calls)), 0)
    reason = times.why(kept, 0, "the whole window", len(accepted))
    return IncrementalChoice(hop, [FULL, *accepted][kept], reason, tuple(rows))


def difference(model: ModelFile, engine: Engine, steps: StepEngine, hop: int) -> float:
    """The largest of any logit to the whole window's, of the logit scale, over some golden windows."""
    windows, stream, worst, stamps = model.golden.x[:_JUDGED], Incremental(steps, hop), 0.0, [0, 0, 0]
    for window in windows:
        stream.restart()
        got = stream.infer(np.ascontiguousarray(window[0]), stamps).astype(np.float64)
        away = np.abs(got - engine.infer(window[None])[0])
        worst = max(worst, float(away.max())) if np.isfinite(away).all() else float("inf")
    return worst / (model.golden.logit_scale or 1.0)


def _stepping(steps: StepEngine, hop: int, window: NDArray[np.float32]) -> Callable[[], object]:
    stream, stamps = Incremental(steps, hop), [0, 0, 0]
    window = np.ascontiguousarray(window)
    return lambda: stream.infer(window, stamps)
