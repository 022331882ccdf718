"""The ONNX Runtime engine: the CPU of any machine, and the reference for every other backend."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

# Newer releases start a telemetry client when they are imported, which leaves files in the home folder. On a device
# that has to run unattended it is off, unless the user turned it on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.engine import EngineInfo, EngineOptions, HostEngine
from sattn_edge.errors import ModelFileError, UnavailableError
from sattn_edge.model_file import ModelFile

VERSION: str = ort.__version__
PROVIDER = "CPUExecutionProvider"
PRECISIONS = ("fp32",)
_QUIET = 4  # ours are the errors a person reads; ONNX Runtime would print its own beside them


class OnnxRuntimeEngine(HostEngine):
    """An engine on ONNX Runtime's CPU provider. Windows are read in place."""

    def __init__(self, model: ModelFile, options: EngineOptions) -> None:
        self._name = model.name
        self._session = session(model.data, model.name, options.threads)
        self._input = self._session.get_inputs()[0].name
        self._output = [self._session.get_outputs()[0].name]
        self.contract: Contract = model.contract
        self.info = EngineInfo(
            backend="onnxruntime",
            version=VERSION,
            precision=options.precision,
            device=PROVIDER,
            threads=options.threads,
            graph_digest=model.graph_digest,
        )

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run(self._output, {self._input: x})[0]
        except Exception as error:
            raise ModelFileError(self._name, f"ONNX Runtime can't run the graph ({error})") from error
        return logits

    def close(self) -> None:
        """Frees the session."""
        del self._session


def open_engine(model: ModelFile, options: EngineOptions) -> OnnxRuntimeEngine:
    """Makes the engine. Raises UnavailableError for a precision this backend does not have here."""
    if options.precision not in PRECISIONS:
        raise UnavailableError(
            f"precision '{options.precision}'",
            "is not available on onnxruntime",
            f"known: {', '.join(PRECISIONS)}",
        )
    return OnnxRuntimeEngine(model, options)


def session(data: bytes, name: str, threads: int = 1) -> Any:
    """An inference session from bytes that passed the gate: one explicit provider, a fixed number of threads.

    Raises ModelFileError where ONNX Runtime refuses the graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    # A pool that spins between windows would burn a core of a battery device for nothing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        made = ort.InferenceSession(data, options, providers=[PROVIDER])
    except Exception as error:
        raise ModelFileError(name, f"ONNX Runtime refuses the graph ({error})", todo="export it again") from error
    made.disable_fallback()
    return made
