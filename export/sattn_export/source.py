"""Any checkpoint, opened: something that gives logits in its own framework, and its raw ONNX graph.

CHECKPOINT is told by its form: `package.module:factory`, or a file's suffix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from sattn_edge.contract import Contract
from sattn_edge.errors import CheckpointError, UsageError
from sattn_edge.files import digest

Infer = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Source:
    """A checkpoint as its framework runs it.

    `infer` maps normalised windows float32 [b, 1, series, modal] to logits [b, classes]; `raw` is the graph as
    its exporter wrote it; `kind`, `description` and `digest` go into the provenance.
    """

    kind: str
    description: str
    digest: str
    infer: Infer
    raw: ModelProto


def open_source(checkpoint: str, contract: Contract, *, weights: Path | None, trust_code: bool) -> Source:
    """Opens whatever CHECKPOINT names.

    Raises:
        UsageError: options that do not go with this kind of checkpoint.
        CheckpointError: it can't be read or is not a network over such windows.
        ContractError: it does not fit the contract.
    """
    path = Path(checkpoint)
    if ":" in checkpoint and not path.exists():
        from sattn_export.factory_source import open_factory

        return open_factory(checkpoint, contract, weights)
    if weights is not None:
        raise UsageError("--weights", f"given with '{checkpoint}'", "only with package.module:factory")
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is not there"
        raise CheckpointError(checkpoint, found, "a .pt, .pth, .safetensors, .pt2 or .onnx file, or module:factory")
    if path.suffix.lower() == ".onnx":
        from sattn_export.onnx_source import open_onnx

        return open_onnx(path, contract)
    if path.suffix.lower() == ".pt2":
        from sattn_export.program_source import open_program

        return open_program(path, contract, trust_code=trust_code)
    return _open_state_dict(path, contract)


def _open_state_dict(path: Path, contract: Contract) -> Source:
    from sattn_export.reference_network import build_reference, read_architecture
    from sattn_export.state_dict import SUFFIXES, read_state_dict
    from sattn_export.tracing import trace_module

    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(
            path.name, f"has suffix '{path.suffix}'", f"one of {', '.join((*SUFFIXES, '.pt2', '.onnx'))}"
        )
    state = read_state_dict(path)
    network = build_reference(state, contract, path.name)
    infer, raw = trace_module(network, contract, path.name)
    return Source(
        kind="state_dict",
        description=f"{path.name}: {read_architecture(state, contract, path.name)}",
        digest=digest(path.read_bytes()),
        infer=infer,
        raw=raw,
    )
