"""INT8 candidates beside FP32, on the graph each target would run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from sattn_edge.calibration_table import Agreement, Placement
from sattn_edge.engine_onnxruntime import run_graph
from sattn_edge.lowering import Backend, Target, lower
from sattn_edge.passes import PassReport

_BATCH = 16  # windows at a time, which the graph is fixed to


@dataclass(frozen=True, eq=False)
class Judged:
    """One candidate's logits beside FP32's.

    error: float64 [n, classes], of the logit scale. margins: FP32's lead over the next label, of the logit scale,
    float32 [n]. flipped: bool [n], where the label is another.
    """

    logits: NDArray[np.float32]
    error: NDArray[np.float64]
    margins: NDArray[np.float32]
    flipped: NDArray[np.bool_]
    reports: tuple[PassReport, ...]

    @property
    def score(self) -> float:
        """The fourth root of the mean fourth power of the error.

        The fourth power weighs what saturates now and then more than an even spread of small errors.
        """
        return float(np.mean(self.error**4) ** 0.25)

    @property
    def agreement(self) -> Agreement:
        """Flips, their largest margin, and the logit error."""
        return Agreement(
            windows=len(self.logits),
            flips=int(self.flipped.sum()),
            worst_margin=_rounded(self.margins[self.flipped].max()) if self.flipped.any() else 0.0,
            rms=_rounded(np.sqrt(np.mean(self.error**2))),
            largest=_rounded(self.error.max()),
        )

    def within(self, budget_points: float) -> bool:
        """Labels differ on no more windows than the budget allows, and on none of which FP32 was sure."""
        return self.agreement.within(budget_points)


def together(parts: Sequence[Judged]) -> Judged:
    """The same choices judged on several sets of windows, as one."""
    return Judged(
        logits=np.concatenate([p.logits for p in parts]),
        error=np.concatenate([p.error for p in parts]),
        margins=np.concatenate([p.margins for p in parts]),
        flipped=np.concatenate([p.flipped for p in parts]),
        reports=parts[0].reports,
    )


class Judge:
    """Runs candidates over windows float32 [n, 1, series, modal] and compares them with FP32."""

    def __init__(self, model: ModelProto, x: NDArray[np.float32]) -> None:
        self._model = model
        self._x = x
        self.reference = self._logits(lower(model, Target("onnxruntime")).model)
        self.scale = float(np.abs(self.reference).max()) or 1.0
        ordered = np.sort(self.reference, axis=1)
        lead = ordered[:, -1] - ordered[:, -2] if ordered.shape[1] > 1 else np.full(len(x), np.inf, np.float32)
        self.margins: NDArray[np.float32] = lead / self.scale

    def __len__(self) -> int:
        """The number of windows."""
        return len(self._x)

    def judge(self, placement: Placement, attention: str | None = None) -> Judged:
        """Lowers for the placement's target, with everything that is not INT8 in float32, and runs it."""
        backend: Backend = "tensorrt" if placement.target == "tensorrt" else "onnxruntime"
        target = Target(backend, attention, "int8", batch=_BATCH, placement=placement, typed=False)
        lowered = lower(self._model, target)
        logits = self._logits(lowered.model)
        return Judged(
            logits=logits,
            error=np.abs(logits.astype(np.float64) - self.reference) / self.scale,
            margins=self.margins,
            flipped=np.asarray(logits.argmax(1) != self.reference.argmax(1)),
            reports=lowered.reports,
        )

    def _logits(self, model: ModelProto) -> NDArray[np.float32]:
        return run_graph(model, self._x, optimise=True)


def _rounded(value: float) -> float:
    """Six digits say enough, and keep the last bits of a sum out of the file."""
    return float(f"{value:.6g}")
