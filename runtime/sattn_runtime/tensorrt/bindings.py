"""NVIDIA's Python bindings, whichever release is there: what they are called and what they can do.

What a release can do is asked of the release (`Features`), never derived from its number. Branches on features are in
this package only where a release lacks something:

| feature | where it is missing | what is done there |
|---|---|---|
| strongly_typed | 8.6 | EXPLICIT_BATCH, and precision by builder flags |
| precision_flags | 11, TensorRT-RTX | precision is typed in the graph |
| progress | 8.6 | a heartbeat in place of progress |
| architectures | TensorRT | the engine is for the GPU it is built on |
| timing_cache | TensorRT-RTX, where it does nothing | none is kept |
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from sattn_edge.engine import MODULES, not_installed
from sattn_edge.engine_manifest import RUNTIMES
from sattn_edge.errors import UnavailableError

TENSORRT, RTX = "tensorrt", "tensorrt-rtx"


@dataclass(frozen=True)
class Features:
    """What a release can do, as its own module shows. See the table above."""

    strongly_typed: bool
    precision_flags: bool
    progress: bool
    architectures: bool
    timing_cache: bool


@dataclass(frozen=True, eq=False)
class Bindings:
    """The module, its backend's name, its release, and what it can do."""

    backend: str
    module: Any
    release: str
    features: Features

    @property
    def name(self) -> str:
        """`TensorRT 10.3.0`."""
        return f"{RUNTIMES[self.backend]} {self.release}"


def load(backend: str) -> Bindings:
    """Imports the bindings of a backend.

    Raises:
        UnavailableError: they are not there, or their libraries can't be loaded; exit code 6.
    """
    name = MODULES.get(backend, backend)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise _broken(backend, error) from error
        raise not_installed(backend) from error
    except (ImportError, OSError) as error:
        raise _broken(backend, error) from error
    try:
        features = features_of(backend, module)
    except AttributeError as error:  # some other module of that name, or a mere folder
        raise _broken(backend, error) from error
    return Bindings(backend, module, str(getattr(module, "__version__", "unknown")), features)


def features_of(backend: str, module: Any) -> Features:
    """Asks a module what it can do."""
    config = module.IBuilderConfig
    return Features(
        strongly_typed=hasattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
        precision_flags=hasattr(module.BuilderFlag, "FP16"),
        progress=hasattr(module, "IProgressMonitor") and hasattr(config, "progress_monitor"),
        architectures=hasattr(config, "set_compute_capability"),
        # The names are there in TensorRT-RTX too, which warns that they do nothing.
        timing_cache=backend == TENSORRT and hasattr(config, "create_timing_cache"),
    )


def logger(bindings: Bindings) -> Any:
    """The one logger of this process: TensorRT takes the first it is given and ignores all others."""
    return _logger(bindings.module)


@cache
def _logger(module: Any) -> Any:
    class Log(module.ILogger):  # type: ignore[misc] # a class of whatever was imported
        """Keeps what is said, for whoever asks for it."""

        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            """Called from any thread."""
            self.messages.append((str(severity).rpartition(".")[2], message))
            del self.messages[:-_MOST_MESSAGES]

    return Log()


_MOST_MESSAGES = 20_000
_ERRORS = ("ERROR", "INTERNAL_ERROR")


def errors_of(messages: list[tuple[str, str]], most: int = 3) -> str:
    """The last errors in a log, in one line, "" if there are none."""
    said = [" ".join(text.split()) for severity, text in messages if severity in _ERRORS]
    return "; ".join(dict.fromkeys(said[-most:]))


def _broken(backend: str, error: Exception) -> UnavailableError:
    said = " ".join(str(error).split())
    return UnavailableError(f"backend '{backend}'", f"can't be loaded ({said})", todo="run sattn-doctor")
