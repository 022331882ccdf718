"""An `.onnx` file by any exporter: run as it is, and taken over as the raw graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from sattn_edge.contract import Contract
from sattn_edge.cost import inlined
from sattn_edge.engine_onnxruntime import session
from sattn_edge.errors import CheckpointError, ContractError
from sattn_edge.files import digest
from sattn_edge.gate import admit
from sattn_edge.model_file import PREFIX
from sattn_export.reference_network import check_contract
from sattn_export.source import Infer, Source

# The newest IR version that every ONNX Runtime in the field reads, and the oldest with weights that are no inputs.
_RUNNABLE_IR, _FREE_WEIGHTS_IR = 10, 4


def open_onnx(path: Path, contract: Contract) -> Source:
    """Gates the file and checks that it maps windows to logits.

    Raises:
        ModelFileError: refused by the gate or by ONNX Runtime.
        CheckpointError: already a model file, or not one window tensor to one logits tensor.
        ContractError: other window, channels or classes than the contract's.
    """
    data = path.read_bytes()
    model = admit(data, path.name, foreign=True)
    if any(p.key == f"{PREFIX}format" for p in model.metadata_props):
        raise CheckpointError(path.name, "is a model file already", todo="inspect it with sattn-inspect")
    runnable = data if model.ir_version <= _RUNNABLE_IR else _relabelled(model)
    _drop_initializer_inputs(model)
    _check_interface(model, contract, path.name)
    fixed = int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)
    infer = _runner(session(runnable, path.name), fixed, path.name)
    logits = infer(np.zeros((fixed or 1, 1, contract.window, contract.modal), np.float32))
    if logits.ndim != 2:
        raise CheckpointError(path.name, f"gives {list(logits.shape)}", "one tensor of logits [batch, classes]")
    check_contract(contract, modal=contract.modal, classes=logits.shape[1])
    return Source("onnx", path.name, digest(data), infer, inlined(model))


def _relabelled(model: ModelProto) -> bytes:
    """The file for an ONNX Runtime older than its IR version; what newer versions added, the gate refuses."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = _RUNNABLE_IR
    return bytes(copy.SerializeToString())


def _runner(runtime: Any, fixed: int, subject: str) -> Infer:
    """Runs a session on many windows, `fixed` at a time where its batch axis is not free (0)."""
    name = runtime.get_inputs()[0].name

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        size = fixed or len(x)
        try:
            parts = [runtime.run(None, {name: x[i : i + size]})[0] for i in range(0, len(x), size)]
            logits: NDArray[np.float32] = np.concatenate(parts)
        except Exception as error:
            raise CheckpointError(subject, f"ONNX Runtime can't run it ({error})", todo="export it again") from error
        return logits

    return infer


def _drop_initializer_inputs(model: ModelProto) -> None:
    """Up to IR 3 every weight stood among the inputs as well."""
    weights = {t.name for t in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, _FREE_WEIGHTS_IR)


def _check_interface(model: ModelProto, contract: Contract, subject: str) -> None:
    inputs = model.graph.input
    if len(inputs) != 1 or len(model.graph.output) != 1:
        found = f"has {len(inputs)} inputs and {len(model.graph.output)} outputs"
        raise CheckpointError(subject, found, "one window in, one tensor of logits out")
    shape = [d.dim_value if d.HasField("dim_value") else None for d in inputs[0].type.tensor_type.shape.dim]
    if inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT or len(shape) != 4:
        raise CheckpointError(subject, f"its input has shape {shape}", "float32 [batch, 1, series, modal]")
    found, wanted = _list(shape[1:]), _list([1, contract.window, contract.modal])
    if found != wanted:
        raise ContractError("contract", f"it says [batch, {wanted}]", f"{subject} takes [batch, {found}]")


def _list(values: list[int | None] | list[int]) -> str:
    return ", ".join(str(v) for v in values)
