"""PyTorch modules and programs: run, and traced to ONNX."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from sattn_edge.contract import Contract
from sattn_edge.errors import CheckpointError, ContractError, UsageError
from sattn_edge.files import digest
from sattn_export.reference_network import check_contract
from sattn_export.source import Infer, Source
from sattn_export.state_dict import read_state_dict

# The newest opset whose operators, reductions apart, mean what they mean at 17.
TRACE_OPSET = 18
_LONGEST_TRY = 1 << 14
_CHUNK = 256


def trace_module(module: nn.Module, contract: Contract, subject: str) -> tuple[Infer, ModelProto]:
    """Runs a module once with the contract's shape, then traces it with a free batch axis.

    Raises:
        ContractError: the module refuses the contract's window, channels or labels; says the least window.
        CheckpointError: it can't be traced, or does not map [b, 1, series, modal] to [b, classes].

    """
    module = module.eval().to("cpu", torch.float32)
    _try_forward(module, contract, subject)
    example = torch.zeros(2, 1, contract.window, contract.modal)
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:
        raise CheckpointError(
            subject, f"torch.export can't trace it ({_first_line(error)})", todo="export it to .onnx yourself"
        ) from error
    return _runner(module), program_to_onnx(program, subject)


def program_to_onnx(program: torch.export.ExportedProgram, subject: str) -> ModelProto:
    """A traced program as a raw ONNX graph."""
    try:
        with _quiet():
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=TRACE_OPSET,
                input_names=["window"],
                output_names=["logits"],
                verbose=False,
            )
            proto: ModelProto = made.model_proto
    except Exception as error:
        raise CheckpointError(subject, f"can't be written as ONNX ({_first_line(error)})") from error
    return proto


def open_factory(spec: str, contract: Contract, weights: Path | None) -> Source:
    """`package.module:factory`: called, given its weights, traced."""
    if weights is None:
        raise UsageError(
            spec,
            "there are no weights",
            "a factory makes the network, --weights FILE its state_dict",
            "add --weights",
        )
    module = call_factory(spec, contract)
    state = read_state_dict(weights)
    _load(module, state, weights.name)
    infer, raw = trace_module(module, contract, spec)
    return Source("factory", f"{spec} with {weights.name}", digest(weights.read_bytes()), infer, raw)


def call_factory(spec: str, contract: Contract) -> nn.Module:
    """Imports and calls the factory; parameters `train_shape` and `category` are filled from the contract."""
    module_name, _, name = spec.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: the network usually lies beside its weights
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, ValueError) as error:
        raise CheckpointError(spec, f"can't be imported ({error})", todo="run it where the module is") from error
    except AttributeError as error:
        raise CheckpointError(spec, f"module '{module_name}' has no '{name}'") from error
    finally:
        sys.path.pop(0)
    known = {
        "train_shape": (1, 1, contract.window, contract.modal),
        "category": len(contract.labels),
    }
    given = {key: known[key] for key in inspect.signature(factory).parameters if key in known}
    try:
        made = factory(**given)
    except TypeError as error:
        raise CheckpointError(
            spec, f"can't be called ({error})", "a factory takes no arguments, or train_shape and category"
        ) from error
    if not isinstance(made, nn.Module):
        raise CheckpointError(spec, f"gives a {type(made).__name__}", "a torch.nn.Module")
    return made


def _load(module: nn.Module, state: dict[str, torch.Tensor], subject: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(subject, " ".join(lines) or str(error), "exactly the factory's keys") from error


def open_program(path: Path, contract: Contract, *, trust_code: bool) -> Source:
    """A `.pt2` archive. Loading one can run code that lies in it, so the user has to say that it is trusted."""
    if not trust_code:
        raise UsageError(
            path.name,
            "a .pt2 archive can run code when it is loaded",
            todo="add --trust-code if you made it yourself",
        )
    try:
        with _quiet():
            program = torch.export.load(path)
    except Exception as error:
        raise CheckpointError(
            path.name,
            f"is not a torch.export program ({_first_line(error)})",
            todo="save it with torch.export.save",
        ) from error
    module: nn.Module = program.module()
    _check_program(program, contract, path.name)
    raw = program_to_onnx(program, path.name)
    return Source("torch.export program", path.name, digest(path.read_bytes()), _runner(module), raw)


def _check_program(program: torch.export.ExportedProgram, contract: Contract, subject: str) -> None:
    """The program's one input has the contract's shape, its batch aside."""
    inputs = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in program.graph_signature.user_inputs]
    shape = [list(n.meta["val"].shape) for n in inputs]
    if len(shape) != 1 or len(shape[0]) != 4:
        raise CheckpointError(subject, f"takes inputs of shape {shape}", "one input [batch, 1, series, modal]")
    found, wanted = shape[0][1:], [1, contract.window, contract.modal]
    if found != wanted:
        raise ContractError("contract", f"it says [batch, {_list(wanted)}]", f"{subject} takes [batch, {_list(found)}]")


def _list(values: list[Any]) -> str:
    return ", ".join(str(v) for v in values)


def _runner(module: nn.Module) -> Infer:
    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            parts = [module(torch.from_numpy(x[i : i + _CHUNK])) for i in range(0, len(x), _CHUNK)]
        logits: NDArray[np.float32] = torch.cat(parts).numpy()
        return logits

    return infer


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
            f"{subject} refuses a window [1, 1, {contract.window}, {contract.modal}] ({_first_line(error)})",
            todo="give the window and the channels it was trained on",
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise CheckpointError(subject, f"gives {found}", "one tensor of logits [batch, classes]")
    check_contract(contract, modal=contract.modal, classes=int(logits.shape[1]))


def _forward(module: nn.Module, window: int, modal: int) -> Any:
    with torch.no_grad():
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
def _quiet() -> Iterator[None]:
    """The exporter talks of its own internals on stdout, stderr and the log; a user has no use for that."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
