"""A `.pt2` archive: a program saved with torch.export, run and written as ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sattn_edge.contract import Contract
from sattn_edge.errors import CheckpointError, ContractError, UsageError
from sattn_edge.files import digest
from sattn_export.source import Source
from sattn_export.tracing import CHUNK, check_logits, first_line, program_to_onnx, quiet, runner


def open_program(path: Path, contract: Contract, *, trust_code: bool) -> Source:
    """Loads a program. That can run code that lies in it, so the user has to say that it is trusted.

    Raises:
        UsageError: not trusted. CheckpointError: no program, or not one window to one tensor of logits.
        ContractError: other windows or classes than the contract's.
    """
    if not trust_code:
        raise UsageError(
            path.name,
            "a .pt2 archive can run code when it is loaded",
            todo="add --trust-code if you made it yourself",
        )
    try:
        with quiet():
            program = torch.export.load(path)
            module = program.module()
    except Exception as error:
        raise CheckpointError(
            path.name,
            f"is not a torch.export program ({first_line(error)})",
            todo="save it with torch.export.save",
        ) from error
    batch = _check_input(program, contract, path.name)
    _check_output(module, batch, contract, path.name)
    infer = runner(module, batch.least, batch.most)
    raw = program_to_onnx(program, path.name)
    return Source("torch.export program", path.name, digest(path.read_bytes()), infer, raw)


@dataclass(frozen=True)
class _Batch:
    """How many windows a program takes at a time."""

    least: int
    most: int


def _check_input(program: torch.export.ExportedProgram, contract: Contract, subject: str) -> _Batch:
    """The program's one input has the contract's shape, its batch aside."""
    inputs = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in program.graph_signature.user_inputs]
    shapes = [list(getattr(n.meta.get("val"), "shape", ())) for n in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise CheckpointError(subject, f"takes inputs of shape {shapes}", "one input [batch, 1, series, modal]")
    batch, *found = shapes[0]
    wanted = [1, contract.window, contract.modal]
    if found != wanted:
        raise ContractError("contract", f"it says [batch, {_list(wanted)}]", f"{subject} takes [batch, {_list(found)}]")
    if isinstance(batch, int):
        return _Batch(batch, batch)
    bounds = program.range_constraints.get(batch.node.expr)
    if bounds is None:
        return _Batch(1, CHUNK)
    least = max(int(bounds.lower), 1)
    return _Batch(least, max(least, CHUNK if bounds.upper > CHUNK else int(bounds.upper)))


def _check_output(module: Any, batch: _Batch, contract: Contract, subject: str) -> None:
    try:
        with torch.no_grad(), quiet():
            logits = module(torch.zeros(batch.least, 1, contract.window, contract.modal))
    except Exception as error:
        raise CheckpointError(subject, f"can't be run ({first_line(error)})", "a program for the CPU") from error
    check_logits(logits, contract, subject)


def _list(values: list[Any]) -> str:
    return ", ".join(str(v) for v in values)
