"""A calibration as plain data: what `--json` prints, what `calibration.json` holds, what the other reports draw on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sattn_calibration.choice import Chosen, Tried
from sattn_calibration.collect import Observation, Product
from sattn_calibration.pipeline import Calibration, Flip
from sattn_edge._version import __version__
from sattn_edge.calibration_table import CLEAR_MARGIN, Agreement, LayerChoice
from sattn_edge.model_file import with_calibration
from sattn_edge.text import printable

HIGHER = {"onnxruntime": "FP32", "tensorrt": "FP16"}
"""What a layer that stays out of INT8 runs in, by target."""
Row = dict[str, Any]


def as_data(result: Calibration) -> Row:
    """Plain dicts, lists and numbers; shares are of 1, `points` are percent, margins and errors of the logit scale.

    model, output, bytes, graph_digest, version: what was calibrated and written, by which release.
    method, budget_points, clear_margin, met_budget: what was asked for, and whether every target keeps it.
    data: the windows (`DataReport`) with notes; split: which of them gave the ranges and which judged.
    layers: the main products of the source graph; values: what was seen, with the thresholds of each method.
    targets: by name the layers' choices, agreement `judged` (held out), `final` (all) and in other attention forms,
        everything tried, flips.
    accuracy: of FP32 and of each target over the scored windows of `final`, None without labels. warnings: text.
    """
    rows = {
        "model": result.model.name,
        "output": str(result.output),
        "bytes": len(with_calibration(result.model, result.table)),
        "graph_digest": result.table.graph,
        "version": __version__,
        "method": result.table.method,
        "budget_points": result.table.budget,
        "clear_margin": CLEAR_MARGIN,
        "met_budget": result.met_budget,
        "data": {**result.data.as_dict(), "notes": result.windows.notes},
        "split": {
            "by": result.split.by,
            "ranges": len(result.split.ranges),
            "judge": len(result.split.judge),
            "note": result.split.note,
        },
        "layers": [_product(p, total_multiply_adds(result)) for p in result.products],
        "values": msgspec.to_builtins(result.table.values),
        "targets": {name: _target(result, name) for name in result.chosen},
        "accuracy": accuracy(result),
        "warnings": warnings(result),
    }
    return dict(_printable(msgspec.to_builtins(rows)))


def _printable(value: Any) -> Any:
    """Plain data with printable strings and lists only."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value


def total_multiply_adds(result: Calibration) -> int:
    """Of all main products, at least 1."""
    return sum(p.multiply_adds for p in result.products) or 1


def _product(product: Product, total: int) -> Row:
    return {
        "layer": product.name,
        "op": product.op,
        "input": product.input,
        "output": product.output,
        "multiply_adds": product.multiply_adds,
        "share": product.multiply_adds / total,
        "terms": product.terms,
    }


def _target(result: Calibration, name: str) -> Row:
    chosen = result.chosen[name]
    products = {p.name: p for p in result.products}
    int8 = [c.layer for c in chosen.placement.layers if c.int8]
    return {
        "scheme": chosen.placement.scheme,
        "higher_precision": HIGHER.get(name, "FP32"),
        "met_budget": chosen.placement.met_budget,
        "int8_layers": len(int8),
        "int8_share": sum(products[layer].multiply_adds for layer in int8) / total_multiply_adds(result),
        "judged": _agreement(chosen.placement.judged),
        "final": _agreement(chosen.placement.final),
        "forms": {form: _agreement(found) for form, found in chosen.placement.forms.items()},
        "score": chosen.judged.score,
        "layers": [_layer(c, products[c.layer], chosen, result.observations) for c in chosen.placement.layers],
        "tried": [_tried(row) for row in chosen.tried],
        "flips": [_flip(result, flip) for flip in result.flips[name]],
        "flips_by_class": flips_by_class(result.flips[name], result.model.contract.labels),
    }


def _agreement(found: Agreement) -> Row:
    return {**msgspec.to_builtins(found), "points": found.points}


def _tried(row: Tried) -> Row:
    return {"what": row.what, "score": row.score, "within_budget": row.within_budget, **_agreement(row.agreement)}


def _layer(choice: LayerChoice, product: Product, chosen: Chosen, seen: Mapping[str, Observation]) -> Row:
    alone = chosen.alone.get(choice.layer)
    return {
        **msgspec.to_builtins(choice),
        "clipped": clipped_share(choice, seen[product.input]) if choice.int8 else None,
        "alone": None if alone is None else _agreement(alone),
    }


def clipped_share(choice: LayerChoice, seen: Observation) -> float | None:
    """The share of a layer's input values beyond its range, to the width of a bin.

    None where maps are divided by factors: each has its own range then, which a histogram of all can't tell.
    """
    if choice.factors or not seen.histogram.total:
        return None
    low, high = seen.histogram.edges()
    middle = (low + high) / 2
    inside = (middle >= choice.low) & (middle <= choice.high)
    # The outermost bins reach past what was seen.
    inside |= (choice.low <= seen.minimum) & (middle < 0) | (choice.high >= seen.maximum) & (middle > 0)
    return float(seen.histogram.count[~inside].sum() / seen.histogram.total)


def _flip(result: Calibration, flip: Flip) -> Row:
    labels, windows = result.model.contract.labels, result.windows
    return {
        "window": flip.window,
        "group": None if windows.group is None else str(windows.group[flip.window]),
        "start": None if windows.start is None else int(windows.start[flip.window]),
        "fp32": labels[flip.fp32],
        "int8": labels[flip.int8],
        "truth": None if flip.truth is None else labels[flip.truth],
        "margin": flip.margin,
    }


def flips_by_class(flips: tuple[Flip, ...], labels: tuple[str, ...]) -> list[Row]:
    """Flips by FP32's and INT8's label, the most frequent first.

    fp32_right, int8_right: on how many of them the label was the true one; of `known` windows only.
    """
    pairs: dict[tuple[int, int], list[Flip]] = {}
    for flip in flips:
        pairs.setdefault((flip.fp32, flip.int8), []).append(flip)
    ordered = sorted(pairs.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "fp32": labels[before],
            "int8": labels[after],
            "windows": len(rows),
            "largest_margin": max(f.margin for f in rows),
            "median_margin": float(np.median([f.margin for f in rows])),
            "known": sum(f.truth is not None for f in rows),
            "fp32_right": sum(f.truth == before for f in rows),
            "int8_right": sum(f.truth == after for f in rows),
        }
        for (before, after), rows in ordered
    ]


def accuracy(result: Calibration) -> Row | None:
    """Of FP32 and of each target, over the same scored windows; None without labels."""
    truth: NDArray[np.int16] | None = result.final_truth
    if truth is None or not (scored := int((truth >= 0).sum())):
        return None
    right = int((result.fp32 == truth).sum())
    gained = {
        name: sum(f.truth is not None and f.truth == f.int8 for f in flips)
        - sum(f.truth is not None and f.truth == f.fp32 for f in flips)
        for name, flips in result.flips.items()
    }
    return {"scored": scored, "fp32": right / scored, **{n: (right + g) / scored for n, g in gained.items()}}


def warnings(result: Calibration) -> list[str]:
    """What a person has to know before using the ranges."""
    found = [text for name in result.chosen for text in _target_warnings(result, name)]
    data = result.data
    found += [f"channel '{name}' has one value only: its range tells nothing" for name in data.dead]
    found += [
        f"channel '{c.name}' stays at its extreme value for {max(c.at_minimum, c.at_maximum):.2%} of the samples: "
        "the sensor may be at its limit"
        for c in data.channels
        if c.saturated
    ]
    if data.missing_classes:
        names = ", ".join(f"'{name}'" for name in data.missing_classes)
        found.append(f"no window is labelled {names}: what those look like gave no ranges")
    return found + list(result.windows.notes)


def _target_warnings(result: Calibration, name: str) -> list[str]:
    chosen, budget, higher = result.chosen[name], result.table.budget, HIGHER.get(name, "FP32")
    found, final = [], chosen.placement.final
    if not chosen.placement.chosen():
        found.append(f"{name}: no layer runs in INT8, all stay in {higher}; the layers' table says why")
    if not chosen.placement.met_budget:
        found.append(f"{name}: the budget of {budget:g}% is missed")
    if final.points > budget:
        found.append(f"{name}: over all windows {final.points:.2f}% of the labels differ; the budget is {budget:g}%")
    if final.worst_margin > CLEAR_MARGIN:
        found.append(
            f"{name}: over all windows a label changes by which FP32 leads with {final.worst_margin:.1%} of the "
            f"logit scale; above {CLEAR_MARGIN:.0%} it is sure"
        )
    return found
