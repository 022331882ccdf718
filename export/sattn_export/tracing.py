"""A PyTorch module: run once with the contract's shape, and traced to ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from sattn_edge.contract import Contract
from sattn_edge.cost import inlined
from sattn_edge.errors import CheckpointError, ContractError
from sattn_export.reference_network import check_contract
from sattn_export.source import Infer

# The newest opset whose operators, reductions apart, mean what they mean at 17.
TRACE_OPSET = 18
CHUNK = 256
_LONGEST_TRY = 1 << 14

Forward = Callable[[torch.Tensor], Any]


def trace_module(module: nn.Module, contract: Contract, subject: str) -> tuple[Infer, ModelProto]:
    """Runs a module once with the contract's shape, then traces it with a free batch axis.

    Raises:
        ContractError: the module refuses the contract's window, channels or labels; says the least window.
        CheckpointError: it can't be traced, or does not map [b, 1, series, modal] to [b, classes].
    """
    module = module.eval()
    _try_forward(module, contract, subject)
    example = torch.zeros(2, 1, contract.window, contract.modal)
    batch = torch.export.Dim("batch")
    try:
        with quiet():
            program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:
        raise CheckpointError(
            subject, f"torch.export can't trace it ({first_line(error)})", todo="export it to .onnx yourself"
        ) from error
    return runner(module), program_to_onnx(program, subject)


def program_to_onnx(program: torch.export.ExportedProgram, subject: str) -> ModelProto:
    """A traced program as a raw ONNX graph, the exporter's own functions opened."""
    try:
        with quiet():
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=TRACE_OPSET,
                input_names=["window"],
                output_names=["logits"],
                verbose=False,
            )
            return inlined(made.model_proto)
    except Exception as error:
        raise CheckpointError(subject, f"can't be written as ONNX ({first_line(error)})") from error


def runner(module: Forward, least: int = 1, most: int = CHUNK) -> Infer:
    """Runs many windows, `most` at a time; a rest shorter than `least` is filled up and cut again."""

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = []
        for at in range(0, len(x), most):
            chunk = x[at : at + most]
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], max(least - len(chunk), 0), axis=0)])
            with torch.no_grad():
                parts.append(module(torch.from_numpy(filled))[: len(chunk)])
        logits: NDArray[np.float32] = torch.cat(parts).numpy()
        return logits

    return infer


def check_logits(logits: object, contract: Contract, subject: str) -> None:
    """Raises CheckpointError for anything but one tensor [b, classes], ContractError for other classes."""
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise CheckpointError(subject, f"gives {found}", "one tensor of logits [batch, classes]")
    if logits.dtype != torch.float32:
        raise CheckpointError(subject, f"gives {str(logits.dtype).removeprefix('torch.')}", "float32 logits")
    check_contract(contract, modal=contract.modal, classes=int(logits.shape[1]))


def _try_forward(module: nn.Module, contract: Contract, subject: str) -> None:
    try:
        logits = _forward(module, contract.window, contract.modal)
    except Exception as error:
        least = _least_window(module, contract)
        if least is not None:
            raise ContractError(
                "contract, window",
                f"{contract.window} samples are too short for {subject}",
                f"at least {least}",
            ) from error
        raise ContractError(
            "contract",
            f"{subject} refuses a window [1, 1, {contract.window}, {contract.modal}] ({first_line(error)})",
            todo="give the window and the channels it was trained on",
        ) from error
    check_logits(logits, contract, subject)


def _forward(module: nn.Module, window: int, modal: int) -> Any:
    with torch.no_grad(), quiet():
        return module(torch.zeros(1, 1, window, modal))


def _least_window(module: nn.Module, contract: Contract) -> int | None:
    """The shortest window above the contract's that the module takes, None if length is not the trouble."""

    def takes(window: int) -> bool:
        with contextlib.suppress(Exception):
            _forward(module, window, contract.modal)
            return True
        return False

    high = contract.window
    while not takes(high):
        high *= 2
        if high > _LONGEST_TRY:
            return None
    low = high // 2  # refused
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(middle) else (middle, high)
    return high


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter talks of its own internals on stdout and in the log; a user has no use for that."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def first_line(error: BaseException) -> str:
    """What an error says, in one line of bounded length."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
