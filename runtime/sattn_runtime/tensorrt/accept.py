"""An engine held against ONNX Runtime on the very graph it was compiled from, and against FP32 on a user's windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from sattn_edge.calibration_table import Agreement
from sattn_edge.engine import Engine
from sattn_edge.engine_manifest import Acceptance
from sattn_edge.engine_onnxruntime import run_outputs
from sattn_edge.model_file import Golden
from sattn_runtime.logits import lead
from sattn_runtime.verify import GATE_TOLERANCES, gates_of

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 2e-2}
"""Largest logit difference to ONNX Runtime on the same lowered graph, of the logit scale, by precision.

The graph is the same, its precision written in it: what differs is the order of sums, what is rounded inside a fused
kernel, and, in INT8, values that come to lie on the other side of a level.
"""
BASIS = "ONNX Runtime on the same lowered graph"
_BEYOND = 1e9  # of the logit scale: stands for NaN and Inf, which JSON does not have


def accept(engine: Engine, graph: ModelProto, golden: Golden, precision: str) -> Acceptance:
    """Golden windows one by one and as one batch, beside ONNX Runtime with every node run as it is written.

    Gates, where the graph gives them, count too; `difference` is theirs where they are what is beyond the tolerance.
    """
    outputs = run_outputs(graph, golden.x)
    wanted = outputs[0].astype(np.float64)
    singly = np.concatenate([engine.infer(golden.x[i : i + 1]) for i in range(len(golden.x))])
    together = engine.infer(golden.x)
    scale = float(np.abs(wanted).max()) or 1.0
    difference = np.maximum(np.abs(singly - wanted), np.abs(together - wanted)).max() / scale
    accepted = bool(difference <= TOLERANCES[precision])  # NaN is beyond any tolerance
    if engine.gates is not None:
        gates = np.abs(gates_of(engine, golden.x) - outputs[1]).max()
        if not gates <= GATE_TOLERANCES[precision]:
            accepted, difference = False, np.maximum(difference, gates)
    flipped = singly.argmax(1) != wanted.argmax(1)
    margins = lead(wanted) / scale
    return Acceptance(
        windows=len(golden.x),
        synthetic=golden.synthetic,
        basis=BASIS,
        difference=float(difference) if np.isfinite(difference) else None,
        tolerance=TOLERANCES[precision],
        flips=int(flipped.sum()),
        worst_margin=float(margins[flipped].max()) if flipped.any() else 0.0,
        accepted=accepted,
    )


def agreement(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> Agreement:
    """An engine's logits float32 [n, classes] on a user's windows, beside FP32's of the source graph."""
    wanted = reference.astype(np.float64)
    scale = float(np.abs(wanted).max()) or 1.0
    error = np.abs(logits.astype(np.float64) - wanted) / scale
    if not np.isfinite(error).all():
        return Agreement(len(logits), len(logits), 1.0, _BEYOND, _BEYOND)
    flipped = logits.argmax(1) != wanted.argmax(1)
    margins = lead(wanted) / scale
    return Agreement(
        windows=len(logits),
        flips=int(flipped.sum()),
        worst_margin=float(margins[flipped].max()) if flipped.any() else 0.0,
        rms=float(np.sqrt(np.mean(error**2))),
        largest=float(error.max()),
    )
