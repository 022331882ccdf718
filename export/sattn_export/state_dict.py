"""Reading tensors, and nothing but tensors, from `.pt`, `.pth` and `.safetensors`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from sattn_edge.errors import CheckpointError

SUFFIXES = (".pt", ".pth", ".safetensors")
# Names training loops give the state_dict inside what they save, and prefixes that wrappers put before its keys.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")

StateDict = dict[str, torch.Tensor]


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a checkpoint by name, float32, on the CPU.

    Raises:
        CheckpointError: not there, damaged, a pickled module, not tensors, or tensors with NaN or Inf.

    """
    if not path.is_file():
        raise CheckpointError(str(path), "is not a file", todo="name a .pt, .pth or .safetensors file")
    if path.stat().st_size == 0:
        raise CheckpointError(path.name, "is empty", todo="save it again: torch.save(model.state_dict(), path)")
    raw = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    tensors = _strip_prefixes(_unwrap(raw, path.name))
    return {name: _float32(tensor, name, path.name) for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(path.name, f"is not a safetensors file ({error})", todo=_SAVE) from error


def _read_torch(path: Path) -> object:
    """`weights_only=True` always: a pickle may run any code, a state_dict needs none."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            path.name,
            "holds pickled Python objects (a whole module?)",
            "only plain tensors are loaded",
            _SAVE,
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(path.name, f"can't be read as a checkpoint ({first})", todo=_SAVE) from error


_SAVE = "save model.state_dict() with torch.save or safetensors, or export with package.module:factory --weights"


def _unwrap(raw: object, name: str) -> Mapping[str, torch.Tensor]:
    """The state_dict itself, out of the dict that a training loop saved around it."""
    if not isinstance(raw, Mapping):
        raise CheckpointError(name, f"holds a {type(raw).__name__}", "a state_dict (names to tensors)", _SAVE)
    inner = [raw[key] for key in _WRAPPERS if isinstance(raw.get(key), Mapping)]
    tensors = raw if not inner else inner[0]
    wrong = [str(key) for key, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if wrong or not tensors:
        found = f"'{wrong[0]}' is a {type(tensors[wrong[0]]).__name__}" if wrong else "it holds no tensors"
        raise CheckpointError(name, found, "a state_dict (names to tensors)", _SAVE)
    return tensors


def _strip_prefixes(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Without what DataParallel and torch.compile put before every name."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return tensors


def _float32(tensor: torch.Tensor, name: str, subject: str) -> torch.Tensor:
    """Counters stay integers, weights become float32; a trained weight is a finite number."""
    if not tensor.is_floating_point():
        return tensor
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(subject, f"tensor '{name}' holds NaN or Inf", "finite weights", "train it again")
    return tensor.to(torch.float32)
