"""`package.module:factory` with `--weights`: the user's own network, called, given its weights, traced."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sattn_edge.contract import Contract
from sattn_edge.errors import CheckpointError, UsageError, did_you_mean
from sattn_edge.files import digest
from sattn_export.source import Source
from sattn_export.state_dict import read_state_dict
from sattn_export.tracing import first_line, trace_module

_MOST_NAMED = 400  # characters of keys that do not fit


def open_factory(spec: str, contract: Contract, weights: Path | None) -> Source:
    """Makes the network and loads its weights.

    Raises:
        UsageError: no weights. CheckpointError: no such factory, or it fails, or the weights do not fit.
        ContractError: the network does not take the contract's windows.
    """
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
    factory = _import_factory(spec)
    known = {
        "train_shape": (1, 1, contract.window, contract.modal),
        "category": len(contract.labels),
    }
    given = {key: known[key] for key in _parameters(factory) if key in known}
    try:
        made = factory(**given)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise CheckpointError(
            spec,
            f"can't be called ({type(error).__name__}: {first_line(error)})",
            "a factory takes no arguments, or train_shape and category",
        ) from error
    if not isinstance(made, nn.Module):
        raise CheckpointError(spec, f"gives a {type(made).__name__}", "a torch.nn.Module")
    return made


def _import_factory(spec: str) -> Callable[..., Any]:
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` does: the network usually lies beside its weights
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise CheckpointError(
            spec,
            f"module '{module_name}' can't be imported ({type(error).__name__}: {first_line(error)})",
            todo="run it where the module is, or install it",
        ) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise CheckpointError(spec, f"module '{module_name}' has no '{name}'", did_you_mean(name, public))
    factory: object = getattr(module, name)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise CheckpointError(spec, f"is a {type(factory).__name__}", "a class or function that makes the network")
    return factory


def _parameters(factory: Callable[..., Any]) -> list[str]:
    """Names of the parameters; none where Python can't tell."""
    with contextlib.suppress(TypeError, ValueError):
        return list(inspect.signature(factory).parameters)
    return []


def _load(module: nn.Module, state: dict[str, torch.Tensor], subject: str) -> None:
    try:
        module.to("cpu", torch.float32).load_state_dict(state)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        found = " ".join(lines) or first_line(error)
        short = found if len(found) <= _MOST_NAMED else f"{found[:_MOST_NAMED]} ..."
        raise CheckpointError(subject, short, "exactly the factory's keys") from error
