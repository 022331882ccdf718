"""A calibration table made by hand: plain minima and maxima over given windows, every product but the first in INT8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from sattn_edge.calibration_table import Agreement, CalibrationTable, LayerChoice, Placement, Scheme, WeightRange
from sattn_edge.cost import inlined
from sattn_edge.lowering import FORMS
from sattn_edge.model_file import ModelFile, load_model_file, with_calibration
from tests.helpers_model import session_of

PERFECT = Agreement(1, 0, 0.0, 0.0, 0.0)
SCHEMES: dict[str, Scheme] = {"onnxruntime": "u8", "tensorrt": "s8"}


def ranges_of(model: onnx.ModelProto, values: Sequence[str], x: np.ndarray) -> dict[str, tuple[float, float]]:
    """Minimum and maximum of values of the main graph over windows x, widened to hold zero."""
    work = inlined(model)
    found = {o.name for n in work.graph.node for o in [onnx.ValueInfoProto(name=v) for v in n.output]}
    wanted = [v for v in values if v in found]
    for name in wanted:
        work.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    arrays = session_of(work.SerializeToString()).run(wanted, {model.graph.input[0].name: x})
    return {n: (min(0.0, float(a.min())), max(0.0, float(a.max()))) for n, a in zip(wanted, arrays, strict=True)}


def make_table(
    model: ModelFile, x: np.ndarray | None = None, *, int8: Sequence[str] | None = None, shrink: float = 1.0
) -> CalibrationTable:
    """A table for both targets. `int8` names the layers (all but the first where None); `shrink` spoils the ranges."""
    x = model.golden.x if x is None else x
    products = [n for n in model.proto.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    chosen = [n.name for n in products[1:]] if int8 is None else list(int8)
    seen = ranges_of(model.proto, [v for n in products for v in (n.input[0], n.output[0])], x)
    placements = {}
    for target, scheme in SCHEMES.items():
        rows = []
        for node in products:
            if node.name not in chosen:
                rows.append(LayerChoice(node.name, int8=False, reason="not asked for"))
                continue
            low, high = (shrink * end for end in seen[node.input[0]])
            out_low, out_high = (shrink * end for end in seen.get(node.output[0], (0.0, 0.0)))
            rows.append(
                LayerChoice(node.name, True, method="minmax", low=low, high=high, out_low=out_low, out_high=out_high)
            )
        forms = {form: PERFECT for form in FORMS if form != "gemm"} if target == "onnxruntime" else {}
        placements[target] = Placement(target, scheme, tuple(rows), PERFECT, PERFECT, met_budget=True, forms=forms)
    return CalibrationTable(
        graph=model.graph_digest,
        data="sha256:" + "1" * 64,
        windows=len(x),
        method="minmax",
        budget=0.5,
        values=(),
        weights=tuple(WeightRange(n.name, ()) for n in products),
        placements=placements,
    )


def calibrate_by_hand(path: Path, **options: object) -> Path:
    """Writes a table into a model file."""
    model = load_model_file(path)
    path.write_bytes(with_calibration(model, make_table(model, **options)))  # type: ignore[arg-type]
    return path
