"""Golden windows replayed on an engine, which must give what the trained network gave.

An INT8 engine and synthetic golden windows are a case of their own: ranges were seen on real windows, and what nobody
recorded may lie far outside them, where clipping is right. There the engine is held against its own graph computed in
float, Q/DQ and all; how far INT8 is from FP32 on real windows is what the calibration measured.

Where the file gives its attention, the gates are held against those of the model file's own graph, every node of it run
as it is written; those of INT8 against its own lowered graph in float. A quantised gate may be far from the FP32 one
and its label the same, but an engine that gives other gates than its graph gives something else than the attention.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import Engine, EngineInfo, EngineOptions, open_engine
from sattn_edge.model_file import ModelFile
from sattn_edge.text import count, fields
from sattn_runtime.logits import lead

Outputs = list[NDArray[np.float32]]

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 5e-2}
"""Largest logit difference allowed, of the logit scale, by precision.

FP32 differs from FP32 by the order of its sums alone: 1e-7 to 1e-6 is usual, 1e-4 is a bug. FP16 keeps 11 bits of every
map: 1e-4 is usual. INT8 has 256 levels for
each value, and over a few layers their rounding adds up to a few thousandths; 5e-2 is reached by values that were
clipped, because the ranges came from other data.
"""

GATE_TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-1}
"""Largest difference of a gate allowed, of 1, which no gate exceeds, by precision.

1e-7 is usual in FP32 and 1e-4 in FP16. In INT8 a value on the other side of a level moves the gates behind it.
"""

FLIP_MARGIN = {"fp16": 1e-2, "int8": 5e-2}
"""By precision, the largest FP32 margin (of the logit scale) at which a label may differ: how far FP32's first label
leads its second. Below the tolerance FP32 itself was undecided; above it two errors have to add up. FP32 needs no such
rule: its tolerance leaves a flip no room that would matter."""

FP32 = "the golden logits, FP32"
IN_FLOAT = "its own graph in float: synthetic windows may be out of range"
IN_FLOAT_TOLERANCE = 1e-2
"""The same levels in both, but for some that two ways to round put one step apart: 1e-4 is usual. Sums that are
clipped in 16 bits are beyond it."""


@dataclass(frozen=True)
class Verification:
    """How far the engine is from the golden logits. `failures` are the windows beyond what is allowed.

    attention_difference: the largest of any gate, None where the file does not give them.
    attention: the form its blocks ran in. basis: what it was held against, FP32 or IN_FLOAT; margins are its own.
    worst_margin: the largest among the windows whose label differs; flip_margin: what is allowed of it, None where
    only the logits are judged.
    """

    model: str
    backend: str
    precision: str
    attention: str
    windows: int
    synthetic: bool
    basis: str
    max_difference: float
    logit_scale: float
    relative: float
    tolerance: float
    flips: int
    worst_margin: float
    flip_margin: float | None
    failures: tuple[int, ...]
    graph_unchanged: bool
    notes: tuple[str, ...] = ()
    attention_difference: float | None = None

    @property
    def passed(self) -> bool:
        """Within what is allowed, everywhere."""
        return not self.failures


def verify(model: ModelFile, backend: str, options: EngineOptions) -> Verification:
    """Replays the golden windows one by one and as one batch. Raises what opening the engine raises."""
    return verify_engine(model, open_engine(model, backend, options))


def verify_engine(model: ModelFile, engine: Engine) -> Verification:
    """Like `verify`, on an engine that is open."""
    golden, info = model.golden, engine.info
    singly = np.concatenate([engine.infer(golden.x[i : i + 1]) for i in range(len(golden.x))])
    together = engine.infer(golden.x)
    basis = IN_FLOAT if golden.synthetic and info.precision == "int8" and info.backend in _IN_FLOAT else FP32
    wanted = (golden.logits if basis is FP32 else _IN_FLOAT[info.backend](model, info)[0]).astype(np.float64)
    difference = np.maximum(np.abs(singly - wanted), np.abs(together - wanted)).max(axis=1)
    # A difference that is NaN is beyond any tolerance.
    tolerance = TOLERANCES[info.precision] if basis is FP32 else IN_FLOAT_TOLERANCE
    flip_margin = FLIP_MARGIN.get(info.precision)
    beyond = ~(difference <= tolerance * golden.logit_scale)
    margins, flipped = lead(wanted) / (golden.logit_scale or 1.0), singly.argmax(1) != wanted.argmax(1)
    if flip_margin is not None:
        beyond |= flipped & (margins > flip_margin)
    gates = None if engine.gates is None else np.abs(gates_of(engine, golden.x) - _wanted_gates(model, info))
    if gates is not None:
        beyond |= ~(gates.max(axis=1) <= GATE_TOLERANCES[info.precision])
    worst = float(difference.max())
    return Verification(
        model=model.name,
        backend=info.backend,
        precision=info.precision,
        attention=info.attention,
        windows=len(golden.x),
        synthetic=golden.synthetic,
        basis=basis,
        max_difference=worst,
        logit_scale=golden.logit_scale,
        relative=worst / golden.logit_scale if golden.logit_scale else worst,
        tolerance=tolerance,
        flips=int(flipped.sum()),
        worst_margin=float(margins[flipped].max()) if flipped.any() else 0.0,
        flip_margin=flip_margin,
        failures=tuple(int(i) for i in np.flatnonzero(beyond)),
        graph_unchanged=model.graph_unchanged,
        notes=info.notes,
        attention_difference=None if gates is None else float(gates.max()),
    )


def gates_of(engine: Engine, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The gates of windows [n, 1, series, modal], one window at a time: float64 [n, values]."""
    stamps = [0, 0, 0]
    rows = [engine.infer_attention(x[i : i + 1], stamps)[1] for i in range(len(x))]
    return np.concatenate(rows).astype(np.float64)


def _wanted_gates(model: ModelFile, info: EngineInfo) -> NDArray[np.float32]:
    """The gates [n, values] an engine has to give for the golden windows."""
    if info.precision == "int8" and info.backend in _IN_FLOAT:
        return _IN_FLOAT[info.backend](model, info)[1]
    from sattn_edge.engine_onnxruntime import run_outputs

    return run_outputs(model.proto, model.golden.x)[1]


def _onnxruntime_in_float(model: ModelFile, info: EngineInfo) -> Outputs:
    from sattn_edge.engine_onnxruntime import outputs_in_float

    return outputs_in_float(model, EngineOptions(info.precision, 1, info.attention), model.golden.x)


def _tensorrt_in_float(model: ModelFile, info: EngineInfo) -> Outputs:
    from sattn_edge.calibration_table import placement_of
    from sattn_edge.engine_onnxruntime import run_outputs
    from sattn_edge.lowering import Target, lower

    target = Target("tensorrt", info.attention, info.precision, placement=placement_of(model, "tensorrt"))
    return run_outputs(lower(model.proto, target).model, model.golden.x)


_IN_FLOAT = {
    "onnxruntime": _onnxruntime_in_float,
    "tensorrt": _tensorrt_in_float,
    "tensorrt-rtx": _tensorrt_in_float,
}


def as_data(result: Verification) -> dict[str, Any]:
    """Plain data, with `passed`. NaN is no JSON number: it becomes null."""
    return {**asdict(result), "passed": result.passed}


def as_text(result: Verification) -> list[str]:
    """The report a person reads."""
    kind = "synthetic" if result.synthetic else "real"
    lines = [f"{result.model}: {'passed' if result.passed else 'FAILED'}", ""]
    lines += fields(
        [
            ("engine", f"{result.backend}, {result.precision}, form {result.attention}"),
            ("golden", f"{count(result.windows, 'window')}, {kind}"),
            ("compared with", None if result.precision == "fp32" else result.basis),
            ("difference", f"{result.relative:.1e} of the logit scale (at most {result.tolerance:g})"),
            ("attention", _attention_text(result)),
            ("labels", _label_text(result)),
            ("graph", "as exported" if result.graph_unchanged else "CHANGED since it was exported"),
        ]
    )
    lines += [f"note: {note}" for note in result.notes]
    if result.failures:
        some = ", ".join(str(i) for i in result.failures[:10]) + (" ..." if len(result.failures) > 10 else "")
        lines.append(f"beyond the tolerance: {count(len(result.failures), 'window')} ({some})")
    return lines


def _attention_text(result: Verification) -> str | None:
    if result.attention_difference is None:
        return None
    allowed = GATE_TOLERANCES[result.precision]
    return f"every gate within {result.attention_difference:.1e} of its graph's (at most {allowed:g})"


def _label_text(result: Verification) -> str:
    allowed = ""
    if result.flip_margin is not None:
        allowed = f" (may differ at margins up to {result.flip_margin:g})"
    if not result.flips:
        return f"every one equal{allowed}"
    margin = "" if result.flip_margin is None else f", at margins up to {result.worst_margin:.2g}"
    return f"{count(result.flips, 'label')} differ{margin}{allowed}"
