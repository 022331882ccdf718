"""Steps on ONNX Runtime's CPU: an engine that is shared, and the states of one stream.

States change places instead of being copied: a step reads them from one set of buffers and writes the next ones into
another, and the next step the other way round. Both ways are bound once, so that a step hands ONNX Runtime nothing
but the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.calibration_table import placement_of
from sattn_edge.engine import EngineOptions
from sattn_edge.engine_onnxruntime import BACKEND, session
from sattn_edge.errors import ModelFileError, UnavailableError, UsageError
from sattn_edge.incremental.lower_step import lower_step
from sattn_edge.incremental.step_graph import Step
from sattn_edge.lowering import Target
from sattn_edge.model_file import ModelFile

Snapshot = list[list[NDArray[np.generic]]]


class StepEngine:
    """A plan that can be run; immutable, for any number of streams of one thread.

    Args:
        step: the graph of one step, of one stream.
        name: of the model file, for errors.
        threads: for one step.
    """

    def __init__(self, step: Step, name: str, threads: int = 1) -> None:
        self.plan, self.name = step.plan, name
        self.states = step.states
        self.session = session(step.model.SerializeToString(), name, threads)
        self.classes = int(self.session.get_outputs()[0].shape[1])

    def stepper(self) -> Stepper:
        """The states of a new stream."""
        return Stepper(self)


def open_steps(model: ModelFile, plan: str, hop: int, backend: str, options: EngineOptions) -> StepEngine:
    """Opens a plan of a model file.

    Raises:
        UsageError: the network has no such plan for this hop.
        UnavailableError: the backend runs whole windows only.
        ModelFileError, DigestError: int8 without a calibration table that fits.
    """
    if backend != BACKEND:
        raise UnavailableError(
            f"plan '{plan}'", f"is not available on {backend}", f"{BACKEND} runs it", "leave out --incremental"
        )
    placement = placement_of(model, BACKEND) if options.precision == "int8" else None
    target = Target("onnxruntime", "gemm", options.precision, placement=placement)
    return StepEngine(lower_step(model.proto, hop, plan, target), model.name, options.threads)


class Stepper:
    """One stream's states. In each phase steps follow one another `plan.advance` samples apart."""

    def __init__(self, engine: StepEngine) -> None:
        plan = engine.plan
        self._engine, self._plan = engine, plan
        self.samples: NDArray[np.float32] = np.zeros((plan.samples, plan.chain.modal), np.float32)
        self._logits: NDArray[np.float32] = np.zeros((1, engine.classes), np.float32)
        window = self.samples[None, None]
        self._phases = [Phase(engine, window, self._logits) for _ in range(plan.phases)]

    def step(self, phase: int) -> NDArray[np.float32]:
        """Takes `samples` [plan.samples, modal], which the caller has filled; logits [classes] of the window they end.

        What comes back holds until the next step. Raises ModelFileError where ONNX Runtime can't run the graph.
        """
        self._phases[phase].step()
        logits: NDArray[np.float32] = self._logits[0]
        return logits

    def restart(self) -> None:
        """Forgets everything: the signal begins anew."""
        for phase in self._phases:
            phase.begin()

    def snapshot(self) -> Snapshot:
        """The states of every phase, copied."""
        return [[array.copy() for array in phase.states] for phase in self._phases]

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot of the same plan. Raises UsageError on one of another."""
        shapes = [[(a.shape, a.dtype) for a in phase.states] for phase in self._phases]
        if shapes != [[(a.shape, a.dtype) for a in states] for states in snapshot]:
            raise UsageError("snapshot", "its states are of another plan", todo="restore it with the plan it was of")
        for phase, states in zip(self._phases, snapshot, strict=True):
            for array, value in zip(phase.states, states, strict=True):
                array[...] = value


class Phase:
    """Two sets of states, and a step from each into the other.

    Args:
        engine: whose step it is.
        samples: float32 [streams, 1, plan.samples, modal], filled before each step.
        logits: float32 [streams, classes], where they are written.
    """

    def __init__(self, engine: StepEngine, samples: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
        self._engine = engine
        self._sets = [[state.begin.copy() for state in engine.states] for _ in range(2)]
        self._at = 0
        self._outer = samples, logits  # a binding keeps addresses, not arrays
        self._bindings = [
            bind(engine.session, [samples, *before], [logits, *after])
            for before, after in (self._sets, self._sets[::-1])
        ]

    @property
    def states(self) -> list[NDArray[np.generic]]:
        """Those the next step reads."""
        return self._sets[self._at]

    def begin(self) -> None:
        """The next step is the first."""
        for array, state in zip(self.states, self._engine.states, strict=True):
            array[...] = state.begin

    def step(self) -> None:
        """Takes the samples. Raises ModelFileError where ONNX Runtime can't run the graph."""
        try:
            self._engine.session.run_with_iobinding(self._bindings[self._at])
        except Exception as error:
            raise ModelFileError(self._engine.name, f"ONNX Runtime can't run the step ({error})") from error
        self._at ^= 1


def bind(session: Any, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> Any:
    """A binding of a session to arrays in the order of its inputs and outputs, which have to outlive it."""
    binding = session.io_binding()
    for rows, arrays, add in (
        (session.get_inputs(), inputs, binding.bind_input),
        (session.get_outputs(), outputs, binding.bind_output),
    ):
        for row, array in zip(rows, arrays, strict=True):
            add(row.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    return binding
