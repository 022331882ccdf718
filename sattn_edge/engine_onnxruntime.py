"""The ONNX Runtime engine: the CPU of any machine, and the reference for every other backend.

It needs no build: in form `reference` and FP32 it runs the model file as it lies there, else the graph is lowered in
memory when it is opened. The form is the one asked for, else what `sattn-build` remembers for this device, else the
usual one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

# Newer releases start a telemetry client when they are imported, which leaves files in the home folder. On a device
# that has to run unattended it is off, unless the user turned it on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from sattn_edge.contract import Contract
from sattn_edge.cpu import int8_saturates
from sattn_edge.engine import AUTO, Attended, EngineInfo, EngineOptions, HostEngine, no_attention
from sattn_edge.engine_manifest import Request, subject_of
from sattn_edge.engine_store import default_store
from sattn_edge.errors import ModelFileError, UnavailableError
from sattn_edge.model_file import ModelFile

VERSION: str = ort.__version__
PROVIDER = "CPUExecutionProvider"
BACKEND = "onnxruntime"
PRECISIONS = ("fp32", "int8")
_FREE_BATCH = 16  # windows at a time where a graph takes any number
_QUIET = 4  # ours are the errors a person reads; ONNX Runtime would print its own beside them


@dataclass(frozen=True)
class Runnable:
    """A graph as a session takes it, the form of its attention blocks, and what to know of it."""

    data: bytes
    attention: str
    notes: tuple[str, ...]


class OnnxRuntimeEngine(HostEngine):
    """An engine on ONNX Runtime's CPU provider. Windows are read in place."""

    def __init__(self, model: ModelFile, options: EngineOptions, graph: Runnable) -> None:
        self._name = model.name
        self._session = session(graph.data, model.name, options.threads)
        self._input = self._session.get_inputs()[0].name
        outputs = [output.name for output in self._session.get_outputs()]
        self._output, self._outputs = outputs[:1], outputs
        self.gates = model.attention
        self.contract: Contract = model.contract
        self.info = EngineInfo(
            backend=BACKEND,
            version=VERSION,
            precision=options.precision,
            device=PROVIDER,
            threads=options.threads,
            graph_digest=model.graph_digest,
            attention=graph.attention,
            notes=graph.notes,
        )

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run(self._output, {self._input: x})[0]
        except Exception as error:
            raise ModelFileError(self._name, f"ONNX Runtime can't run the graph ({error})") from error
        return logits

    def _run_attention(self, x: NDArray[np.float32]) -> Attended:
        if self.gates is None:
            raise no_attention()
        try:
            logits, attention = self._session.run(self._outputs, {self._input: x})
        except Exception as error:
            raise ModelFileError(self._name, f"ONNX Runtime can't run the graph ({error})") from error
        return logits, attention

    def close(self) -> None:
        """Frees the session."""
        del self._session


def open_engine(model: ModelFile, options: EngineOptions) -> OnnxRuntimeEngine:
    """Makes the engine. Raises UnavailableError for a precision this backend does not have here."""
    check_precision(options.precision)
    return OnnxRuntimeEngine(model, options, runnable(model, options))


def check_precision(precision: str) -> None:
    """Raises UnavailableError for a precision this backend does not have."""
    if precision in PRECISIONS:
        return
    known = f"known: {', '.join(PRECISIONS)}"
    if precision == "fp16":
        known = f"a CPU computes in float32, and rounding between the operators would win nothing; {known}"
    raise UnavailableError(
        f"precision '{precision}'",
        f"is not available on {BACKEND}",
        known,
        "TensorRT runs fp16 on a GPU" if precision == "fp16" else "",
    )


def request_of(options: EngineOptions) -> Request:
    """What an engine with these options is asked for: the batch is always free."""
    return Request(BACKEND, options.precision, options.attention, None, options.threads)


def runnable(model: ModelFile, options: EngineOptions) -> Runnable:
    """The graph to run, lowered where it has to be.

    Raises:
        UsageError: no such attention form.
        ModelFileError: int8, and the file has no calibration table or none for this backend.
        DigestError: the table was made for another graph.
        UnavailableError: others can write the engine store.
    """
    form, notes = _form(model, options)
    if options.precision == "fp32" and form in (None, "reference"):
        return Runnable(model.data, "reference", notes)
    # Here and not above: a file that runs as it lies needs none of the passes.
    from sattn_edge.calibration_table import placement_of
    from sattn_edge.lowering import Target, lower

    placement = placement_of(model, BACKEND) if options.precision == "int8" else None
    target = Target("onnxruntime", form, options.precision, placement=placement)
    lowered = lower(model.proto, target)
    if placement is not None and not any(r.changed for r in lowered.reports if r.name == "quantize-onnxruntime"):
        notes = (*notes, f"no layer of {model.name} runs in INT8: its calibration left all of them in FP32")
    return Runnable(lowered.model.SerializeToString(), target.form, notes)


def outputs_in_float(model: ModelFile, options: EngineOptions, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What the very graph gives with every node run as it is written: Q/DQ in float32, no integer kernels.

    x float32 [n, 1, series, modal] in physical units -> logits float32 [n, classes], and the gates [n, values] where
    the file gives them. Raises what `runnable` raises.
    """
    plain = session(runnable(model, options).data, model.name, optimise=False)
    outputs: list[NDArray[np.float32]] = plain.run(None, {plain.get_inputs()[0].name: x})
    return outputs


def run_graph(model: ModelProto, x: NDArray[np.float32], *, optimise: bool = False) -> NDArray[np.float32]:
    """What a plain graph of any fixed or free batch gives for x float32 [n, 1, series, modal]: float32 [n, classes].

    Without `optimise` every node runs as it is written. Raises ModelFileError where ONNX Runtime refuses the graph.
    """
    return run_outputs(model, x, optimise=optimise)[0]


def run_outputs(model: ModelProto, x: NDArray[np.float32], *, optimise: bool = False) -> list[NDArray[np.float32]]:
    """Like `run_graph`, with every output of the graph: the logits first, then the gates where it gives them."""
    plain = session(model.SerializeToString(), "lowered graph", optimise=optimise)
    entry = plain.get_inputs()[0]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else _FREE_BATCH
    out: list[list[NDArray[np.float32]]] = []
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        # Whole batches: a graph of fixed batch gets the last one filled up.
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        out.append([values[: len(part)] for values in plain.run(None, {entry.name: filled})])
    return [np.concatenate(parts) for parts in zip(*out, strict=True)]


def _form(model: ModelFile, options: EngineOptions) -> tuple[str | None, tuple[str, ...]]:
    """The form asked for or remembered, None for the usual one, and a note where the store could not be used."""
    if options.attention != AUTO:
        return options.attention, ()
    found = default_store().look_up(subject_of(model, request_of(options), VERSION))
    notes = () if found.note is None else (found.note,)
    return (None if found.manifest is None else found.manifest.form), notes


def session(data: bytes, name: str, threads: int = 1, *, optimise: bool = True) -> Any:
    """An inference session from bytes that passed the gate: one explicit provider, a fixed number of threads.

    Without `optimise` every node runs as it is written. Raises ModelFileError where ONNX Runtime refuses the graph.
    """
    options = ort.SessionOptions()
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    # A pool that spins between windows would burn a core of a battery device for nothing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if int8_saturates():
        # Without VNNI two u8 x s8 products are added in 16 bits, which clips them. This makes the weights u8, whose
        # sums are exact. With VNNI they are exact anyway, and newer releases would give up its speed for it.
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        made = ort.InferenceSession(data, options, providers=[PROVIDER])
    except Exception as error:
        raise ModelFileError(name, f"ONNX Runtime refuses the graph ({error})", todo="export it again") from error
    made.disable_fallback()
    return made
