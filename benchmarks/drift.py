"""A long run of steps, and whether their logits move away from the whole window's.

    python benchmarks/drift.py [--hops 1000000] [--prefix-sum] [--json]

A signal that comes round again and again goes through plan `edges` and plan `stateful` of a small network, without a
gap; each hop's logits are held against the whole window's. Nothing in a step is carried on for longer than a window,
so the largest difference of the last round must be that of the first one, to the bit. It would catch sums over all that
came, of which windows are the differences, and whose rounding grows with them.

--prefix-sum takes the logits through such a sum, in float32. It must fail; without that the verdict would say nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sattn_edge.engine import EngineOptions, open_engine
from sattn_edge.incremental.engine import open_steps
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_edge.plan_names import PLANS
from sattn_runtime.incremental import Incremental
from tests.helpers_model import save_model

ROUND = 1000
"""Hops until the signal comes round."""
WITHIN = 1e-5
"""Largest difference to the whole window's logits, of the logit scale."""
_WINDOW, _HOP, _MODAL = 64, 8, 2


def measure(model: ModelFile, plan: str, hops: int, *, prefix_sum: bool) -> dict[str, Any]:
    """The largest difference in the first whole round and in the last one, of the logit scale."""
    signal = np.random.default_rng(0).normal(size=(ROUND * _HOP, _MODAL)).astype(np.float32)
    signal = np.concatenate([signal, signal[: _WINDOW - _HOP]])
    windows = [signal[i * _HOP : i * _HOP + _WINDOW] for i in range(ROUND)]
    wanted = open_engine(model, "onnxruntime", EngineOptions()).infer(np.stack(windows)[:, None])
    stream, stamps = Incremental(open_steps(model, plan, _HOP, "onnxruntime", EngineOptions()), _HOP), [0, 0, 0]
    rounds = max(2, hops // ROUND)
    worst = np.zeros(rounds)
    total = np.zeros(wanted.shape[1], np.float32)
    for number in range(rounds * ROUND):
        got = stream.infer(windows[number % ROUND], stamps)
        if prefix_sum:
            total, before = total + got, total
            got = total - before
        if number >= _WINDOW // _HOP:  # a round's first windows begin in the one before
            away = float(np.abs(got - wanted[number % ROUND]).max())
            worst[number // ROUND] = max(worst[number // ROUND], away)
    scale = float(np.abs(wanted).max())
    return {
        "plan": plan,
        "hops": rounds * ROUND,
        "first": worst[0] / scale,
        "second": worst[1] / scale,
        "last": worst[-1] / scale,
        "passed": bool(worst[-1] <= worst[1] and worst.max() <= WITHIN * scale),
    }


def main() -> None:
    """Runs, prints, and exits with 1 where logits moved away."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hops", type=int, default=1_000_000)
    parser.add_argument("--prefix-sum", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = load_model_file(save_model(Path(folder), window=_WINDOW, modal=_MODAL, hop=_HOP))
        rows = [measure(model, plan, given.hops, prefix_sum=given.prefix_sum) for plan in PLANS]
    if given.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            verdict = "passed" if row["passed"] else "FAILED"
            print(
                f"{row['plan']}: {verdict}; {row['hops']:,} hops, largest difference {row['first']:.1e} in the first "
                f"{ROUND:,}, {row['last']:.1e} in the last {ROUND:,}, of the logit scale"
            )
    sys.exit(0 if all(row["passed"] for row in rows) else 1)


if __name__ == "__main__":
    main()
