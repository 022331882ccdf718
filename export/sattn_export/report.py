"""An export as text for a person and as plain data for a program."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from sattn_edge.attention_output import attention_text
from sattn_edge.axes import axes_text
from sattn_edge.text import count, fields, millions, table
from sattn_export.parity import TOLERANCE, Parity
from sattn_export.pipeline import ExportResult, compared


def as_data(result: ExportResult) -> dict[str, Any]:
    """Plain dicts, lists and numbers."""
    model, attention = result.model, result.lowered.attention
    return {
        "output": str(result.output),
        "bytes": len(model.data),
        "checkpoint": {
            "kind": result.source.kind,
            "description": result.source.description,
            "digest": result.source.digest,
        },
        "graph_digest": model.graph_digest,
        "blocks": list(attention.details),
        "attention_output": msgspec.to_builtins(model.attention),
        "near_misses": [{"node": m.node, "reason": m.reason} for m in attention.near_misses],
        "passes": [{"name": p.name, "changed": p.changed, "details": list(p.details)} for p in result.lowered.passes],
        "operators": result.cost.operators,
        "parameters": result.cost.parameters,
        "multiply_adds": result.cost.multiply_adds,
        "golden": {
            "windows": len(model.golden.x),
            "synthetic": model.golden.synthetic,
            "source": model.golden.source,
        },
        "parity": _parity_data(result.parity),
        "data_parity": _parity_data(result.data_parity) if result.data_parity else None,
        "axes": axes_text(model.statistics, model.contract),
        "classes": class_rows(result),
        "accuracy": accuracy(result),
        "warnings": list(result.warnings),
    }


def _parity_data(parity: Parity) -> dict[str, Any]:
    return {
        "windows": parity.windows,
        "max_difference": parity.max_difference,
        "logit_scale": parity.logit_scale,
        "relative": parity.relative,
        "tolerance": TOLERANCE,
        "label_flips": parity.flips,
    }


def class_rows(result: ExportResult) -> list[dict[str, Any]]:
    """Per class: how many windows it is given to, and with labels how many are its own and how many are found."""
    y = None
    if result.data is not None and result.data.y is not None:
        y = result.data.y[compared(result.data)]
    rows = []
    for i, label in enumerate(result.model.contract.labels):
        given = result.predictions == i
        row: dict[str, Any] = {"label": label, "given": int(given.sum())}
        if y is not None:
            row["labelled"] = int((y == i).sum())
            row["right"] = int((given & (y == i)).sum())
        rows.append(row)
    return rows


def as_text(result: ExportResult) -> list[str]:
    """The report a person reads."""
    model, attention = result.model, result.lowered.attention
    contract = model.contract
    golden = "synthetic, from the contract" if model.golden.synthetic else f"from {model.golden.source}"
    lines = [f"{result.output}: written, {len(model.data):,} bytes", ""]
    lines += fields(
        [
            ("checkpoint", result.source.description),
            (
                "input",
                f"[batch, 1, {contract.window}, {contract.modal}] at {contract.rate_hz:g} Hz, physical units",
            ),
            ("logits", f"[batch, {len(contract.labels)}]"),
            ("attention", None if model.attention is None else attention_text(model.attention)),
            ("parameters", millions(result.cost.parameters)),
            ("multiply-adds", f"{millions(result.cost.multiply_adds)} a window"),
            ("operators", ", ".join(f"{n} {op}" for op, n in result.cost.operators.items())),
            ("golden", f"{count(len(model.golden.x), 'window')}, {golden}"),
            ("parity", _parity_text(result.parity)),
            ("on the data", _parity_text(result.data_parity) if result.data_parity else None),
            ("axes", axes_text(model.statistics, contract)),
            ("graph", model.graph_digest),
        ]
    )
    lines += ["", f"attention blocks: {attention.changed}"] + [f"  {d}" for d in attention.details]
    if attention.near_misses:
        lines += ["near misses:"] + [f"  {m.node}: {m.reason}" for m in attention.near_misses]
    lines += ["", *_class_text(result)]
    return lines + [f"warning: {w}" for w in result.warnings]


def _parity_text(parity: Parity) -> str:
    flips = f", {count(parity.flips, 'label')} differ" if parity.flips else ", every label equal"
    return (
        f"{parity.relative:.1e} of the logit scale over {count(parity.windows, 'window')} "
        f"(at most {TOLERANCE:g}){flips}"
    )


def _class_text(result: ExportResult) -> list[str]:
    rows = class_rows(result)
    where = "the data" if result.data is not None else "the golden windows"
    if "labelled" not in rows[0]:
        return [f"output per class, on {where}:", *table([(r["label"], r["given"]) for r in rows])]
    recall = [f"{r['right'] / r['labelled']:.1%}" if r["labelled"] else "-" for r in rows]
    body = [(r["label"], r["given"], r["labelled"], c) for r, c in zip(rows, recall, strict=True)]
    right = accuracy(result)
    title = f"output per class, on {where}:" + ("" if right is None else f" accuracy {right:.1%}")
    return [title, *table(body, header=("label", "given", "labelled", "recall"))]


def accuracy(result: ExportResult) -> float | None:
    """Of the compared windows that have a label; None without labels."""
    if result.data is None or result.data.y is None:
        return None
    y = result.data.y[compared(result.data)]
    scored = y >= 0
    return float((result.predictions[scored] == y[scored]).mean()) if np.any(scored) else None
