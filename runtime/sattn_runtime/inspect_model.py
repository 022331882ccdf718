"""What a model file holds, for a person and for a program."""

from __future__ import annotations

from typing import Any

import msgspec

from sattn_edge.attention import DOMAIN, pooling_of
from sattn_edge.attention_output import attention_text
from sattn_edge.axes import axes_text
from sattn_edge.calibration_table import read_table
from sattn_edge.contract import Channel
from sattn_edge.cost import cost
from sattn_edge.errors import SattnEdgeError
from sattn_edge.graph import Graph, attribute
from sattn_edge.model_file import FORMAT, ModelFile
from sattn_edge.text import count, fields, millions, table
from sattn_runtime import inspect_plans


def blocks(model: ModelFile) -> list[dict[str, Any]]:
    """The attention blocks: name, pooling, kernel, feature maps and time steps they gate."""
    graph = Graph(model.proto, shapes=True)
    rows = []
    for node in model.proto.graph.node:
        if node.domain != DOMAIN:
            continue
        weight = graph.shapes[node.input[1]]
        gated = graph.shapes.get(node.input[0], (None,) * 4)
        rows.append(
            {
                "name": node.name,
                "pooling": pooling_of(node.op_type),
                "kernel": list(weight[2:]),
                "pads": list(attribute(node, "pads")),
                "maps": gated[1],
                "steps": gated[2],
            }
        )
    return rows


def as_data(model: ModelFile, hop: int | None = None) -> dict[str, Any]:
    """Plain dicts, lists and numbers. hop: that plans are counted for, the contract's if None."""
    price = cost(model.proto)
    return {
        "model": model.name,
        "format": FORMAT,
        "bytes": len(model.data),
        "file_digest": model.file_digest,
        "graph_digest": model.graph_digest,
        "graph_unchanged": model.graph_unchanged,
        "opset": {o.domain or "ai.onnx": o.version for o in model.proto.opset_import},
        "ir_version": model.proto.ir_version,
        "contract": msgspec.to_builtins(model.contract),
        "blocks": blocks(model),
        "attention_output": msgspec.to_builtins(model.attention),
        "operators": price.operators,
        "parameters": price.parameters,
        "multiply_adds": price.multiply_adds,
        "incremental": inspect_plans.as_data(model.proto, hop or model.contract.hop),
        "golden": {
            "windows": len(model.golden.x),
            "synthetic": model.golden.synthetic,
            "source": model.golden.source,
            "logit_scale": model.golden.logit_scale,
        },
        "calibration": model.calibration,
        "statistics": model.statistics,
        "provenance": model.provenance,
    }


def as_text(model: ModelFile, hop: int | None = None) -> list[str]:
    """The page a person reads. hop: that plans are counted for, the contract's if None."""
    contract, price = model.contract, cost(model.proto)
    plans = inspect_plans.as_data(model.proto, hop or contract.hop)
    golden = f"{count(len(model.golden.x), 'window')}, " + (
        "synthetic" if model.golden.synthetic else f"from {model.golden.source}"
    )
    checkpoint = model.provenance.get("checkpoint")
    lines = [f"{model.name}: {len(model.data):,} bytes, format {FORMAT}", ""]
    lines += fields(
        [
            ("window", f"{contract.window} samples ({contract.window_s:g} s) of {contract.modal} channels"),
            ("hop", f"{contract.hop} samples ({contract.hop_s:g} s)"),
            ("rate", f"{contract.rate_hz:g} Hz"),
            ("labels", ", ".join(contract.labels)),
            ("attention", None if model.attention is None else attention_text(model.attention)),
            ("checkpoint", checkpoint.get("description") if isinstance(checkpoint, dict) else None),
            ("parameters", millions(price.parameters)),
            ("multiply-adds", f"{millions(price.multiply_adds)} a window"),
            ("incremental", inspect_plans.in_a_line(plans)),
            ("operators", ", ".join(f"{n} {op}" for op, n in price.operators.items())),
            ("golden", golden),
            ("statistics", "of the data it was exported with" if model.statistics else "none"),
            ("axes", axes_text(model.statistics, contract)),
            ("calibration", calibration_text(model)),
            ("file", model.file_digest),
            (
                "graph",
                f"{model.graph_digest} ({'as exported' if model.graph_unchanged else 'CHANGED since export'})",
            ),
        ]
    )
    lines += ["", "channels:", *table([_channel_row(c) for c in contract.channel], header=_CHANNEL_HEADER)]
    if shared := inspect_plans.as_table(plans):
        lines += ["", *shared]
    return [_printable(line) for line in [*lines, "", *_block_text(blocks(model))]]


def calibration_text(model: ModelFile) -> str:
    """What its calibration table is of and how many layers it puts into INT8, or why it can't be used."""
    if model.calibration is None:
        return "none: runs in fp32"
    try:
        found = read_table(model.calibration, model.name, model.graph_digest)
    except SattnEdgeError as error:
        return f"NOT USABLE: {error.found}; {error.todo}"
    parts = [f"{p.target} {len(p.chosen())} of {len(p.layers)}" for p in found.placements.values()]
    seen = f"{count(found.windows, 'window')} ({found.data[:19]})"
    return f"{found.method}, {seen}; layers in INT8: {', '.join(parts)}"


_CHANNEL_HEADER = ("name", "unit", "mean", "std", "min", "max")


def _printable(line: str) -> str:
    """What a file says of itself is whoever's made it, and does not steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _channel_row(channel: Channel) -> tuple[str, ...]:
    numbers = (channel.mean, channel.std, channel.min, channel.max)
    return (channel.name, channel.unit or "-", *("-" if v is None else f"{v:.5g}" for v in numbers))


def _block_text(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["attention blocks: none"]
    body = [(r["name"], r["pooling"], "x".join(map(str, r["kernel"])), r["maps"], r["steps"]) for r in rows]
    return [
        f"attention blocks: {len(rows)}",
        *table(body, header=("name", "pooling", "kernel", "maps", "steps")),
    ]
