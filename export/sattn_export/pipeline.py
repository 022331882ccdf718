"""From a checkpoint and a contract to a model file, or to an error and no file.

Each step takes and returns its own frozen type: `Source` (opened) -> `Lowered` (one graph, ours) -> `ExportResult`
(compared, written).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from sattn_edge._version import __version__
from sattn_edge.attention_output import OUTPUT
from sattn_edge.contract import Contract, load_contract
from sattn_edge.cost import Cost, cost
from sattn_edge.engine import Engine, EngineOptions
from sattn_edge.engine_onnxruntime import VERSION as ONNXRUNTIME_VERSION
from sattn_edge.engine_onnxruntime import open_engine
from sattn_edge.errors import CheckpointError, QualityError, UsageError
from sattn_edge.files import write_atomic
from sattn_edge.graph import Graph
from sattn_edge.model_file import Golden, ModelFile, model_bytes, parse_model_file
from sattn_edge.passes import Pass, PassReport, run_passes
from sattn_edge.passes.expose_gates import ExposeGates, layout_of
from sattn_edge.passes.prune import Prune
from sattn_edge.passes.static_pool import StaticPool
from sattn_edge.recording import split_spec
from sattn_edge.statistics import channel_statistics
from sattn_edge.windows import WindowSet, load_windows
from sattn_export.golden import choose_golden, draw_golden
from sattn_export.parity import Parity, compare, require
from sattn_export.passes.attention import FindAttention
from sattn_export.passes.batch import FreeBatch
from sattn_export.passes.expand import DropExpand
from sattn_export.passes.interface import NameInterface
from sattn_export.passes.keep_axis import KeepPooledAxis
from sattn_export.passes.normalise import NormaliseInput
from sattn_export.passes.opset import ToOpset17
from sattn_export.passes.tidy import FoldTrivial, StripTraces
from sattn_export.preconditions import check_golden_fits, check_output
from sattn_export.source import Infer, Source, open_source

# Parity and the output per class are judged on at most this many windows of the data, evenly spread.
MAX_COMPARED = 2000


@dataclass(frozen=True)
class ExportOptions:
    """What to export. `checkpoint` is a path or `package.module:factory`; `data` a window set or a recording.

    attention_output: the gates of the attention blocks become an output beside the logits.
    """

    checkpoint: str
    contract: Path
    output: Path
    data: str | None = None
    golden: Literal["auto", "synthetic"] = "auto"
    weights: Path | None = None
    trust_code: bool = False
    attention_output: bool = False


@dataclass(frozen=True)
class Lowered:
    """The graph a model file holds, with what each pass did to get there."""

    model: ModelProto
    passes: tuple[PassReport, ...]

    @property
    def attention(self) -> PassReport:
        """What was found of attention blocks."""
        return next(p for p in self.passes if p.name == FindAttention.name)


@dataclass(frozen=True)
class ExportResult:
    """What was written and what it was checked on; `sattn_export.report` prints it."""

    output: Path
    model: ModelFile
    source: Source
    lowered: Lowered
    cost: Cost
    parity: Parity
    data_parity: Parity | None
    data: WindowSet | None
    predictions: NDArray[np.int64]
    warnings: tuple[str, ...]


def export(options: ExportOptions) -> ExportResult:
    """Exports a checkpoint. The file is written last, whole or not at all.

    Raises:
        UsageError: options that can't be. ContractError: a contract that does not hold or fit.
        CheckpointError: a checkpoint that can't be used. RecordingError: data that can't be used.
        QualityError: the graph does not give what the checkpoint gives.
    """
    check_output(options.output, [options.checkpoint, options.contract, options.data, options.weights])
    contract = load_contract(options.contract)
    check_golden_fits(contract, str(options.contract))
    data = load_windows(options.data, contract) if options.data else None
    source = open_source(options.checkpoint, contract, weights=options.weights, trust_code=options.trust_code)
    lowered = lower_source(source, contract, options.checkpoint, attention_output=options.attention_output)
    golden = _golden(options, contract, data, source)
    model = _assemble(options, source, lowered, contract, golden, data)
    engine = open_engine(model, EngineOptions())
    parity = _golden_parity(engine, golden, options.output.name, source)
    predictions, data_parity = _on_data(engine, source, contract, data, options.output.name)
    _write(options.output, model.data)
    return ExportResult(
        output=options.output,
        model=model,
        source=source,
        lowered=lowered,
        cost=cost(lowered.model),
        parity=parity,
        data_parity=data_parity,
        data=data,
        predictions=predictions if data is not None else golden.logits.argmax(1),
        warnings=_warnings(lowered, contract, data),
    )


def _write(output: Path, data: bytes) -> None:
    try:
        write_atomic(output, data)
    except OSError as error:
        raise UsageError(
            "--output", f"'{output}' can't be written ({error.strerror})", todo="another folder"
        ) from error


def _data_name(options: ExportOptions) -> str | None:
    """What the file says of its data: FILE or FILE#NAME, without the folders of this machine."""
    if options.data is None:
        return None
    path, name = split_spec(options.data)
    return path.name if name is None else f"{path.name}#{name}"


def lower_source(source: Source, contract: Contract, subject: str, *, attention_output: bool = False) -> Lowered:
    """The raw graph of any exporter as the one form a model file holds.

    Raises:
        CheckpointError: the graph can't be one, or has no attention block where its gates are asked for.
    """
    passes: list[Pass] = [
        StripTraces(),
        FoldTrivial(),
        ToOpset17(subject),
        FreeBatch(subject),
        KeepPooledAxis(),
        StaticPool(),
        DropExpand(),
        FindAttention(),
        NormaliseInput(contract.means, contract.stds),
        NameInterface(),
        *([ExposeGates()] if attention_output else []),
        Prune(),
    ]
    model, reports = run_passes(source.raw, passes)
    lowered = Lowered(model, tuple(reports))
    if attention_output:
        _check_exposed(lowered, subject)
    return lowered


def _check_exposed(lowered: Lowered, subject: str) -> None:
    """The gates of every block that was found, or an error. What only nearly is a block gets a warning."""
    report = next(p for p in lowered.passes if p.name == ExposeGates.name)
    if report.changed and not report.near_misses:
        return
    misses = (*lowered.attention.near_misses, *report.near_misses)
    why = f" ({misses[0].node}: {misses[0].reason})" if misses else ""
    found = "no spatial-attention block was found" if not report.changed else "a block can't give its gate away"
    raise CheckpointError(subject, f"{found}{why}", todo="leave --attention-output out")


def normalised(x: NDArray[np.float32], contract: Contract) -> NDArray[np.float32]:
    """Windows [b, 1, series, modal] as the network was trained on them, in float32 as in the graph."""
    means, stds = np.asarray(contract.means, np.float32), np.asarray(contract.stds, np.float32)
    return (x - means) / stds


def _golden(options: ExportOptions, contract: Contract, data: WindowSet | None, source: Source) -> Golden:
    synthetic = data is None or options.golden == "synthetic"
    x = draw_golden(contract) if data is None or synthetic else choose_golden(data, contract)
    logits = source.infer(normalised(x, contract))
    if not np.isfinite(logits).all():
        raise QualityError(options.checkpoint, "its logits are NaN or Inf on the golden windows", "finite logits")
    origin = "contract" if synthetic else _data_name(options)
    return Golden(np.ascontiguousarray(x), logits.astype(np.float32), synthetic, origin or "")


def _assemble(
    options: ExportOptions,
    source: Source,
    lowered: Lowered,
    contract: Contract,
    golden: Golden,
    data: WindowSet | None,
) -> ModelFile:
    """The bytes of the file, read back through the gate as any runtime will."""
    provenance: dict[str, Any] = {
        "tool": f"sattn-edge {__version__}",
        "checkpoint": {"kind": source.kind, "description": source.description, "digest": source.digest},
        "versions": {
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
            "onnxruntime": ONNXRUNTIME_VERSION,
        },
        "data": None if data is None else _data_row(options, data),
    }
    statistics = None if data is None else channel_statistics(data, contract)
    attention = layout_of(lowered.model) if options.attention_output else None
    made = model_bytes(
        lowered.model, contract, golden, statistics=statistics, provenance=provenance, attention=attention
    )
    return parse_model_file(made, options.output.name)


def _data_row(options: ExportOptions, data: WindowSet) -> dict[str, Any]:
    return {"source": _data_name(options), "digest": data.digest, "windows": len(data.x)}


def _golden_parity(engine: Engine, golden: Golden, name: str, source: Source) -> Parity:
    """As one batch and one by one: a batch axis that is not free shows here."""
    together = engine.infer(golden.x)
    singly = np.concatenate([engine.infer(golden.x[i : i + 1]) for i in range(len(golden.x))])
    worst = max((compare(ours, golden.logits) for ours in (together, singly)), key=lambda p: p.relative)
    require(worst, name, f"the checkpoint's ({source.kind})")
    return worst


def _on_data(
    engine: Engine, source: Source, contract: Contract, data: WindowSet | None, name: str
) -> tuple[NDArray[np.int64], Parity | None]:
    """Predictions on the data, and parity there; (nothing, None) without data."""
    if data is None:
        return np.zeros(0, np.int64), None
    chosen = compared(data)
    ours = batched(engine.infer, data.x[chosen])
    theirs = source.infer(normalised(data.x[chosen], contract))
    if not np.isfinite(theirs).all():
        raise QualityError(source.description, "its logits are NaN or Inf on the data", "finite logits")
    parity = compare(ours, theirs)
    require(parity, name, f"the checkpoint's ({source.kind})")
    return ours.argmax(1), parity


def compared(data: WindowSet) -> NDArray[np.int64]:
    """Indices of the windows that are compared and counted: all, or MAX_COMPARED evenly spread."""
    n = len(data.x)
    indices: NDArray[np.int64] = np.linspace(0, n - 1, min(n, MAX_COMPARED)).round().astype(np.int64)
    return indices


def batched(infer: Infer, x: NDArray[np.float32], size: int = 64) -> NDArray[np.float32]:
    """Logits [n, classes] of many windows, `size` at a time so that memory stays small."""
    return np.concatenate([infer(x[i : i + size]) for i in range(0, len(x), size)])


def _warnings(lowered: Lowered, contract: Contract, data: WindowSet | None) -> tuple[str, ...]:
    rows = []
    if not lowered.attention.changed:
        rows.append("no spatial-attention block was found: the network exports, but nothing in it will be fused")
    if len(lowered.model.graph.output) > 1:
        # It may be a gate over time by another rule, or none over time at all: who reads the output has to judge.
        rows += [f"the output '{OUTPUT}' is without {m.node}: {m.reason}" for m in lowered.attention.near_misses]
    graph = Graph(lowered.model)
    if not any(n.op_type in ("Conv", "MatMul", "Gemm") for n in graph.proto.node):
        rows.append("the graph has no convolution and no matrix product")
    if data is not None:
        rows += [*data.notes, *_out_of_range(contract, data)]
    return tuple(rows)


def _out_of_range(contract: Contract, data: WindowSet) -> list[str]:
    """Data beyond a channel's valid range: usually another unit than the contract's."""
    rows = []
    for i, channel in enumerate(contract.channel):
        values = data.x[..., i]
        low = -np.inf if channel.min is None else channel.min
        high = np.inf if channel.max is None else channel.max
        part = float(((values < low) | (values > high)).mean())
        if part > 0:
            rows.append(
                f"channel '{channel.name}': {part:.1%} of the data lies outside {low:g} to {high:g} {channel.unit}"
            )
    return rows
