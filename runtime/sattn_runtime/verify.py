"""Golden windows replayed on an engine, which must give what the trained network gave."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sattn_edge.engine import EngineOptions, open_engine
from sattn_edge.model_file import ModelFile
from sattn_edge.text import count, fields

# Largest logit difference allowed, of the logit scale, by precision.
TOLERANCES = {"fp32": 1e-4}


@dataclass(frozen=True)
class Verification:
    """How far the engine is from the golden logits. `failures` are the windows beyond the tolerance."""

    model: str
    backend: str
    precision: str
    windows: int
    synthetic: bool
    max_difference: float
    logit_scale: float
    relative: float
    tolerance: float
    flips: int
    failures: tuple[int, ...]
    graph_unchanged: bool

    @property
    def passed(self) -> bool:
        """Within the tolerance, everywhere."""
        return not self.failures


def verify(model: ModelFile, backend: str, options: EngineOptions) -> Verification:
    """Replays the golden windows one by one and as one batch. Raises what opening the engine raises."""
    engine = open_engine(model, backend, options)
    golden = model.golden
    singly = np.concatenate([engine.infer(golden.x[i : i + 1]) for i in range(len(golden.x))])
    together = engine.infer(golden.x)
    wanted = golden.logits.astype(np.float64)
    difference = np.maximum(np.abs(singly - wanted), np.abs(together - wanted)).max(axis=1)
    # A difference that is NaN is beyond any tolerance.
    tolerance = TOLERANCES[options.precision]
    beyond = ~(difference <= tolerance * golden.logit_scale)
    worst = float(difference.max())
    return Verification(
        model=model.name,
        backend=backend,
        precision=options.precision,
        windows=len(golden.x),
        synthetic=golden.synthetic,
        max_difference=worst,
        logit_scale=golden.logit_scale,
        relative=worst / golden.logit_scale if golden.logit_scale else worst,
        tolerance=tolerance,
        flips=int((singly.argmax(1) != golden.logits.argmax(1)).sum()),
        failures=tuple(int(i) for i in np.flatnonzero(beyond)),
        graph_unchanged=model.graph_unchanged,
    )


def as_data(result: Verification) -> dict[str, Any]:
    """Plain data, with `passed`. NaN is no JSON number: it becomes null."""
    return {**asdict(result), "passed": result.passed}


def as_text(result: Verification) -> list[str]:
    """The report a person reads."""
    kind = "synthetic" if result.synthetic else "real"
    lines = [f"{result.model}: {'passed' if result.passed else 'FAILED'}", ""]
    lines += fields(
        [
            ("engine", f"{result.backend}, {result.precision}"),
            ("golden", f"{count(result.windows, 'window')}, {kind}"),
            ("difference", f"{result.relative:.1e} of the logit scale (at most {result.tolerance:g})"),
            ("labels", f"{count(result.flips, 'label')} differ" if result.flips else "every one equal"),
            ("graph", "as exported" if result.graph_unchanged else "CHANGED since it was exported"),
        ]
    )
    if result.failures:
        some = ", ".join(str(i) for i in result.failures[:10]) + (" ..." if len(result.failures) > 10 else "")
        lines.append(f"beyond the tolerance: {count(len(result.failures), 'window')} ({some})")
    return lines
