"""An `.onnx` file by any exporter: run as it is, and taken over as the raw graph."""

from __future__ import annotations

from pathlib import Path

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
from sattn_export.source import Source


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
    _drop_initializer_inputs(model)
    _check_interface(model, contract, path.name)
    runtime = session(data, path.name)
    name = model.graph.input[0].name
    fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = [runtime.run(None, {name: x[i : i + fixed]})[0] for i in range(0, len(x), fixed)] if fixed else []
        logits: NDArray[np.float32] = np.concatenate(parts) if fixed else runtime.run(None, {name: x})[0]
        return logits

    return Source("onnx", path.name, digest(data), infer, inlined(model))


def _drop_initializer_inputs(model: ModelProto) -> None:
    """Up to IR 3 every weight stood among the inputs as well."""
    weights = {t.name for t in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _check_interface(model: ModelProto, contract: Contract, subject: str) -> None:
    inputs = model.graph.input
    if len(inputs) != 1 or len(model.graph.output) != 1:
        found = f"has {len(inputs)} inputs and {len(model.graph.output)} outputs"
        raise CheckpointError(subject, found, "one window in, one tensor of logits out")
    tensor = inputs[0].type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(shape) != 4:
        raise CheckpointError(subject, f"its input has shape {shape}", "float32 [batch, 1, series, modal]")
    wanted = [1, contract.window, contract.modal]
    if shape[1:] != wanted:
        raise ContractError("contract", f"it says [batch, {wanted}]", f"{subject} takes [batch, {shape[1:]}]")
    gives = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    if len(gives) == 2 and gives[1]:
        check_contract(contract, modal=contract.modal, classes=gives[1])
