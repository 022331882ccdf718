"""What lowering makes of a model file: pass by pass, in operators and multiply-adds, and as a plain ONNX file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from sattn_edge.calibration_table import placement_of
from sattn_edge.cost import Cost, cost
from sattn_edge.errors import UsageError, did_you_mean
from sattn_edge.files import digest, write_atomic
from sattn_edge.lowering import PRECISIONS, Lowered, Target, batch_of, check_target, lower
from sattn_edge.model_file import PREFIX, ModelFile, canonical_json
from sattn_edge.passes import PassReport
from sattn_edge.text import count, fields, table


@dataclass(frozen=True, eq=False)
class LoweredReport:
    """A lowered graph with its cost before and after, both with functions opened and for one window."""

    model: ModelFile
    lowered: Lowered
    before: Cost
    after: Cost
    output: Path | None = None
    data: bytes = b""


def lower_file(model: ModelFile, target: Target) -> LoweredReport:
    """Lowers a model file. For int8 the choices are those of its own table for the backend.

    Raises:
        UsageError: no such backend, form, precision or batch.
        ModelFileError, DigestError: int8 without a table that fits.
    """
    if target.backend not in PRECISIONS:
        raise UsageError("--lower", f"got '{target.backend}'", did_you_mean(target.backend, PRECISIONS))
    if target.precision == "int8":
        target = replace(target, placement=placement_of(model, target.backend))
    check_target(target)
    lowered = lower(model.proto, target)
    # Costs are for one window, and a fixed batch can't be taken back.
    single = lowered if target.batch in (None, 1) else lower(model.proto, replace(target, batch=1))
    return LoweredReport(model, lowered, cost(model.proto), cost(single.model))


def write_lowered(report: LoweredReport, source: Path, output: Path) -> LoweredReport:
    """Writes the lowered graph as a plain ONNX file, whole or not at all.

    Raises:
        UsageError: it would take the model file's place, or can't be written.
    """
    if output.exists() and output.samefile(source):
        raise UsageError("-o", f"'{output}' is the model file itself", "another file: lowering can't be undone")
    data = _file_bytes(report)
    try:
        write_atomic(output, data)
    except OSError as error:
        raise UsageError("-o", f"'{output}' can't be written ({error.strerror})") from error
    return replace(report, output=output, data=data)


def _file_bytes(report: LoweredReport) -> bytes:
    """The graph with the contract and where it comes from; golden windows and ranges stay in the model file."""
    out = ModelProto()
    out.CopyFrom(report.lowered.model)
    kept = {row.key: row.value for row in report.model.proto.metadata_props if row.key == f"{PREFIX}contract"}
    kept[f"{PREFIX}lowered"] = canonical_json(_target_data(report))
    out.ClearField("metadata_props")
    for key in sorted(kept):
        out.metadata_props.add(key=key, value=kept[key])
    made: bytes = out.SerializeToString(deterministic=True)
    return made


def _target_data(report: LoweredReport) -> dict[str, Any]:
    target = report.lowered.target
    return {
        "backend": target.backend,
        "attention": target.form,
        "precision": target.precision,
        "batch": batch_of(target),
        "graph_digest": report.model.graph_digest,
    }


def as_data(report: LoweredReport) -> dict[str, Any]:
    """Plain dicts, lists and numbers."""
    return {
        "model": report.model.name,
        **_target_data(report),
        "passes": [asdict(row) for row in report.lowered.reports],
        "before": _cost_data(report.before),
        "after": _cost_data(report.after),
        "opset": {o.domain or "ai.onnx": o.version for o in report.lowered.model.opset_import},
        "output": None if report.output is None else str(report.output),
        "output_digest": None if report.output is None else digest(report.data),
    }


def _cost_data(price: Cost) -> dict[str, Any]:
    return {"nodes": _nodes(price), "multiply_adds": price.multiply_adds, "operators": price.operators}


def _nodes(price: Cost) -> int:
    return sum(price.operators.values())


def as_text(report: LoweredReport) -> list[str]:
    """The page a person reads."""
    target, before, after = report.lowered.target, report.before, report.after
    batch = batch_of(target)
    what = f"{target.form}, {target.precision}, {'any batch' if batch is None else f'batch {batch}'}"
    lines = [f"{report.model.name} for {target.backend}: {what}", ""]
    for row in report.lowered.reports:
        lines += _pass_text(row)
    lines += ["", *table(_cost_rows(before, after), header=("for one window", "before", "after"), indent=0)]
    if report.output is not None:
        written = f"{report.output}, {len(report.data):,} bytes, {digest(report.data)}"
        lines += ["", *fields([("written", written)])]
    return lines


def _pass_text(row: PassReport) -> list[str]:
    head = f"{row.name}: {count(row.changed, 'place')} changed" if row.changed else f"{row.name}: nothing to change"
    left = [f"  left alone: {miss.node}: {miss.reason}" for miss in row.near_misses]
    return [head, *[f"  {detail}" for detail in row.details], *left]


def _cost_rows(before: Cost, after: Cost) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [
        ("multiply-adds", *(f"{price.multiply_adds:,}" for price in (before, after))),
        ("nodes", _nodes(before), _nodes(after)),
    ]
    for name in dict.fromkeys([*before.operators, *after.operators]):
        rows.append((f"  {name}", *(price.operators.get(name, "-") for price in (before, after))))
    return rows
