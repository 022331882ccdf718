"""What an engine is, and the table of backends that can make one.

An engine is immutable and knows nothing of streams: it maps a batch of windows to logits. A new backend is one
module with `open_engine(model, options)` and one line in `BACKENDS`; nothing of it is imported until asked for.

Where the model file gives its attention away, an engine has `gates` and gives them beside the logits when it is asked
to; whoever wants the logits alone calls what they always called.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sattn_edge.attention_output import AttentionLayout
from sattn_edge.contract import Contract
from sattn_edge.errors import UnavailableError, UsageError, did_you_mean

if TYPE_CHECKING:
    from sattn_edge.model_file import ModelFile

BACKENDS = {
    "onnxruntime": "sattn_edge.engine_onnxruntime:open_engine",
    "tensorrt": "sattn_runtime.tensorrt.engine:open_engine",
    "tensorrt-rtx": "sattn_runtime.tensorrt.engine:open_rtx",
}
MODULES = {"tensorrt-rtx": "tensorrt_rtx"}  # what a backend imports, where it is not called like the backend
BUILT = ("tensorrt", "tensorrt-rtx")  # these run what sattn-build made on the device
DEFAULT_BACKEND = "onnxruntime"
DEFAULT_PRECISION = "fp32"
AUTO = "auto"

# Places in the list that `infer_stamped` fills, each a monotonic time in ns at which a stage had ended.
COPIED_IN, INFERRED, COPIED_OUT = range(3)


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is opened: precision of its arithmetic, and threads for one call.

    attention: the form of the attention blocks; `auto` is what `sattn-build` chose on this device, else the usual one.
    """

    precision: str = DEFAULT_PRECISION
    threads: int = 1
    attention: str = AUTO


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself in reports and journals.

    attention: the form its blocks run in. notes: what a person should know of how it came to be.
    """

    backend: str
    version: str
    precision: str
    device: str
    threads: int
    graph_digest: str
    attention: str = "reference"
    notes: tuple[str, ...] = ()


Attended = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Logits [b, classes], and the gates [b, values] that made them."""


class Engine(Protocol):
    """A batch of windows in, logits out. Safe to share between streams of one thread."""

    @property
    def info(self) -> EngineInfo:
        """What runs, where, and how."""

    @property
    def contract(self) -> Contract:
        """The contract of the model file it was made from."""

    @property
    def gates(self) -> AttentionLayout | None:
        """How the gates lie in what `infer_attention` gives, None where the model file does not give them."""

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`x` float32 `[b, 1, series, modal]` in physical units -> logits float32 `[b, classes]`.

        Raises:
            UsageError: another dtype or shape.
        """

    def infer_stamped(self, x: NDArray[np.float32], stamps: list[int]) -> NDArray[np.float32]:
        """Like `infer` without the checks; fills `stamps` at COPIED_IN, INFERRED, COPIED_OUT."""

    def infer_attention(self, x: NDArray[np.float32], stamps: list[int]) -> Attended:
        """Like `infer_stamped`, with the gates float32 `[b, values]` beside the logits.

        Raises:
            UsageError: the engine has no `gates`.
        """

    def close(self) -> None:
        """Lets go of device memory. The engine can't be used afterwards."""


class HostEngine(ABC):
    """An engine that computes where the windows lie: nothing is copied, so both copies take no time."""

    contract: Contract
    gates: AttentionLayout | None = None

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`[b, 1, series, modal]` in physical units -> logits `[b, classes]`. Raises UsageError on another shape."""
        check_windows(x, self.contract)
        return self._run(x)

    def infer_stamped(self, x: NDArray[np.float32], stamps: list[int]) -> NDArray[np.float32]:
        """Like `infer` without the checks, with the time each stage ended."""
        stamps[COPIED_IN] = monotonic_ns()
        logits = self._run(x)
        stamps[INFERRED] = stamps[COPIED_OUT] = monotonic_ns()
        return logits

    def infer_attention(self, x: NDArray[np.float32], stamps: list[int]) -> Attended:
        """Like `infer_stamped`, with the gates float32 `[b, values]`. Raises UsageError where there are none."""
        stamps[COPIED_IN] = monotonic_ns()
        found = self._run_attention(x)
        stamps[INFERRED] = stamps[COPIED_OUT] = monotonic_ns()
        return found

    @abstractmethod
    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Windows of the right shape to logits."""

    def _run_attention(self, x: NDArray[np.float32]) -> Attended:  # noqa: ARG002 - for engines that can
        """The same with the gates, of an engine that has them."""
        raise no_attention()


def load_engine(
    path: str | Path,
    backend: str = DEFAULT_BACKEND,
    precision: str = DEFAULT_PRECISION,
    threads: int = 1,
    attention: str = AUTO,
) -> Engine:
    """Opens a model file as an engine. `attention`: see `EngineOptions`.

    Raises:
        UsageError: an unknown backend or attention form, or fewer than one thread.
        ModelFileError: the file was refused, or has no calibration for int8.
        DigestError: its calibration was made for another graph.
        UnavailableError: the backend is not installed or does not have the precision, or others can write the store.
    """
    check_backend(backend)  # before a file is read
    from sattn_edge.model_file import load_model_file

    return open_engine(load_model_file(path), backend, EngineOptions(precision, threads, attention))


def open_engine(model: ModelFile, backend: str, options: EngineOptions) -> Engine:
    """Opens a model file that is already in memory; errors as in `load_engine`."""
    check_backend(backend)
    if options.threads < 1:
        raise UsageError("threads", f"got {options.threads}", "1 or more")
    module, function = BACKENDS[backend].split(":")
    engine: Engine = getattr(importlib.import_module(module), function)(model, options)
    return engine


def check_backend(backend: str) -> None:
    """Raises UsageError for a backend this version does not have, UnavailableError for one not installed."""
    if backend not in BACKENDS:
        raise UsageError("backend", f"got '{backend}'", did_you_mean(backend, BACKENDS))
    if importlib.util.find_spec(MODULES.get(backend, backend)) is None:
        raise not_installed(backend)


def not_installed(backend: str) -> UnavailableError:
    """The error for a backend that this interpreter does not find, with how to get it."""
    if backend == "tensorrt":
        todo = (
            "on a Jetson it is JetPack's: sudo apt install python3-libnvinfer; a virtual environment sees it if it is "
            "made with: python3 -m venv --system-site-packages .venv; sattn-doctor tells more"
        )
    elif backend == "tensorrt-rtx":
        todo = "install it: pip install 'sattn-edge[rtx]'"
    else:
        todo = f"install it: pip install {backend}"
    return UnavailableError(f"backend '{backend}'", "is not installed", todo=todo)


def no_attention() -> UsageError:
    """The error of an engine whose model file keeps its gates to itself."""
    return UsageError(
        "attention", "the model file does not give it", todo="export the model again with --attention-output"
    )


def check_windows(x: NDArray[np.float32], contract: Contract) -> None:
    """Raises UsageError unless `x` is float32 `[b, 1, series, modal]` for this contract, b at least 1."""
    allowed = f"float32 [batch, 1, {contract.window}, {contract.modal}]"
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        found = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise UsageError("input 'window'", f"got {found}", f"the contract says {allowed}", "convert it")
    if x.ndim != 4 or x.shape[1:] != (1, contract.window, contract.modal) or len(x) == 0:
        raise UsageError("input 'window'", f"got shape {list(x.shape)}", f"the contract says {allowed}")
