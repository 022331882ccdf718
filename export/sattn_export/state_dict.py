"""Reading tensors, and nothing but tensors, from `.pt`, `.pth` and `.safetensors`."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from sattn_edge.errors import CheckpointError

SUFFIXES = (".pt", ".pth", ".safetensors")
# Names training loops give the state_dict inside what they save, and prefixes that wrappers put before its keys.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
COUNTER = "num_batches_tracked"  # the one key whose value is a whole number

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
    raw = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    tensors = _strip_prefixes(_unwrap(raw, path.name))
    return {name: _float32(tensor, name, path.name) for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # a damaged header can name a type or a range that its reader trips over
        raise CheckpointError(path.name, f"is not a safetensors file ({error})", todo=_SAVE) from error


def _read_torch(path: Path) -> object:
    """`weights_only=True` always: a pickle may run any code, a state_dict needs none."""
    _refuse_archives(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch talks of its own storages
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle makes its reader do
        if isinstance(error, pickle.UnpicklingError) and "nsupported global" in str(error):
            raise CheckpointError(
                path.name, "holds pickled Python objects (a whole module?)", "only plain tensors are loaded", _SAVE
            ) from error
        raise CheckpointError(path.name, _what_it_is(path), "what torch.save writes", _SAVE) from error


_SAVE = "save model.state_dict() with torch.save or safetensors, or export with package.module:factory --weights"


def _refuse_archives(path: Path) -> None:
    """Two kinds of archive that torch itself makes and that hold programs."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(path.name, f"is a damaged archive ({error})", todo=_SAVE) from error
    if "constants.pkl" in names:
        raise CheckpointError(path.name, "is a TorchScript archive", "a state_dict", _SAVE)
    if "archive_format" in names:
        raise CheckpointError(path.name, "is a torch.export program", "a state_dict", "rename it to .pt2")


def _what_it_is(path: Path) -> str:
    """In a user's words, why a file could not be read."""
    with path.open("rb") as file:
        head = file.read(512)
    if all(b in b"\t\n\r" or 32 <= b < 127 for b in head):
        return "is text"
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "is cut short"
    return "is damaged, or no checkpoint"


def _unwrap(raw: object, name: str) -> Mapping[str, torch.Tensor]:
    """The state_dict itself, out of the dict that a training loop saved around it."""
    if not isinstance(raw, Mapping):
        raise CheckpointError(name, f"holds a {type(raw).__name__}", "a state_dict (names to tensors)", _SAVE)
    inner = [raw[key] for key in _WRAPPERS if isinstance(raw.get(key), Mapping)]
    tensors = raw if not inner else inner[0]
    wrong = [k for k, value in tensors.items() if not isinstance(k, str) or not isinstance(value, torch.Tensor)]
    if wrong or not tensors:
        found = f"{wrong[0]!r} is a {type(tensors[wrong[0]]).__name__}" if wrong else "it holds no tensors"
        raise CheckpointError(name, found, "a state_dict (names to tensors)", _SAVE)
    return tensors


def _strip_prefixes(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Without what DataParallel and torch.compile put before every name."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return tensors


def _float32(tensor: torch.Tensor, name: str, subject: str) -> torch.Tensor:
    """Weights become float32 and are finite then; counters stay whole numbers."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(subject, f"tensor '{name}' is {_kind(tensor)}", "plain tensors with data", _SAVE)
    if name.endswith(COUNTER):
        return tensor
    if not tensor.is_floating_point():
        raise CheckpointError(subject, f"tensor '{name}' is {_kind(tensor)}", "floating-point weights", _SAVE)
    weight = tensor.detach().to(torch.float32)
    if not bool(torch.isfinite(weight).all()):
        raise CheckpointError(subject, f"tensor '{name}' holds NaN or Inf", "finite weights", "train it again")
    return weight


def _kind(tensor: torch.Tensor) -> str:
    """`sparse_coo float32`, `meta float32`, `int8`."""
    what = "meta " if tensor.is_meta else "" if tensor.layout == torch.strided else f"{tensor.layout} "
    return f"{what}{tensor.dtype}".replace("torch.", "")
