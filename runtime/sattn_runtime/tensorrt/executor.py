"""An engine called on one stream with buffers that never move.

    windows (host) -> [host buffer ->] device input -> execute_async_v3 -> device output [-> host buffer] -> logits

How windows get there is a `Shortcut`: `pageable` and `pinned` copy between a host buffer and one of the device,
`mapped` lets the GPU read and write the host buffer itself, which costs nothing where the two share their memory. With
`graph` the copies and the engine are captured once, after one plain run, and replayed by one call.

A batch that the engine does not have is filled up with whatever lies in the buffer: windows do not see each other.
Every size of batch has a context of its own, so that what was captured for one is not disturbed by another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic_ns
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sattn_edge.attention_output import OUTPUT
from sattn_edge.engine import no_attention
from sattn_edge.engine_manifest import Shortcut
from sattn_edge.errors import UnavailableError
from sattn_runtime.cuda import Cuda
from sattn_runtime.tensorrt.bindings import Bindings, errors_of, logger
from sattn_runtime.tensorrt.job import Profile

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Tensors:
    """Names and shapes [.., without the batch] of the engine's one input, its logits, and its gates where it has them.

    gates: name of the output `attention`, "" where there is none; values: how many numbers it has for one window.
    """

    input: str
    output: str
    window: tuple[int, ...]
    classes: int
    gates: str = ""
    values: int = 0


@dataclass(frozen=True, eq=False)
class _Buffer:
    """A host array [largest batch, ...] and its address, where the GPU finds the same data, the bytes of one window."""

    array: NDArray[np.float32]
    address: int
    device: int
    each: int


@dataclass(eq=False)
class _Ready:
    """A context for one size of batch, and the captured call once there is one."""

    context: Any
    graph: object | None = None
    ran: bool = False


class Executor:
    """Calls one engine. It belongs to the thread that opened its CUDA context."""

    def __init__(self, bindings: Bindings, cuda: Cuda, engine: Any, batch: Profile, shortcut: Shortcut) -> None:
        """Makes stream and buffers for the largest batch.

        Raises:
            UnavailableError: memory ran out, or the engine has other inputs and outputs than a model file.
        """
        self.shortcut, self.batch = shortcut, batch
        self._bindings, self._cuda, self._engine = bindings, cuda, engine
        self.check_thread = cuda.check_thread
        self.tensors = tensors_of(bindings, engine)
        self._ready: dict[int, _Ready] = {}
        self._stream = cuda.create_stream()
        tensors = self.tensors
        self._in = self._buffer(tensors.window)
        self._out = {tensors.output: self._buffer((tensors.classes,))}
        if tensors.gates:
            self._out[tensors.gates] = self._buffer((tensors.values,))
        self._host_in, self._host_out = self._in.array, self._out[tensors.output].array

    def _buffer(self, tail: tuple[int, ...]) -> _Buffer:
        """Room for the largest batch of [b, *tail]."""
        shape, each = (self.batch.most, *tail), int(np.prod(tail)) * _FLOAT32.itemsize
        return _Buffer(*self._memory(shape, self.batch.most * each), each)

    def _memory(self, shape: tuple[int, ...], nbytes: int) -> tuple[NDArray[np.float32], int, int]:
        if self.shortcut.memory == "pageable":
            array = np.zeros(shape, np.float32)
            return array, array.ctypes.data, self._cuda.allocate(nbytes)
        buffer = self._cuda.allocate_host(nbytes, mapped=self.shortcut.memory == "mapped")
        array = cast("NDArray[np.float32]", buffer.array(np.float32, shape))
        array[...] = 0
        if self.shortcut.memory == "pinned":
            return array, buffer.address, self._cuda.allocate(nbytes)
        if buffer.device_pointer is None:
            raise UnavailableError("mapped memory", "this GPU can't read the host's memory")
        return array, buffer.address, buffer.device_pointer

    def run(self, x: NDArray[np.float32], stamps: list[int] | None = None) -> NDArray[np.float32]:
        """Windows float32 [b, 1, series, modal], b up to the largest batch -> logits float32 [b, classes].

        Until the next call, `gates` has the gates of the same windows.

        stamps: filled with the times when the windows were copied, the GPU was done, and the logits were copied. What
        copies on the stream itself is part of the second.
        """
        n = len(x)
        size = max(n, self.batch.least)
        np.copyto(self._host_in[:n], x)
        if stamps is not None:
            stamps[0] = monotonic_ns()
        ready = self._ready.get(size) or self._prepare(size)
        if ready.graph is not None:
            self._cuda.launch(ready.graph, self._stream)
        else:
            self._enqueue(ready.context, size)
        self._cuda.synchronize(self._stream)
        if stamps is not None:
            stamps[1] = monotonic_ns()
        logits: NDArray[np.float32] = self._host_out[:n].copy()
        if stamps is not None:
            stamps[2] = monotonic_ns()
        if self.shortcut.graph and ready.graph is None:
            # TensorRT sets up what it needs at the first call of a shape, which must not be part of what is captured.
            ready.graph = self._capture(ready.context, size)
        return logits

    def gates(self, n: int) -> NDArray[np.float32]:
        """The gates float32 [n, values] of the n windows of the last call. Raises UsageError where there are none."""
        if not self.tensors.gates:
            raise no_attention()
        found: NDArray[np.float32] = self._out[self.tensors.gates].array[:n].copy()
        return found

    def device_us(self, calls: int) -> list[float]:
        """Times of the engine alone on the GPU, by CUDA events, for the usual batch. Copies are no part of it."""
        size = self.batch.usual
        ready = self._ready.get(size) or self._prepare(size)
        begin, end = self._cuda.create_event(), self._cuda.create_event()
        spent = []
        try:
            self._execute(ready.context)  # the first call finds what another engine left in the caches
            for _ in range(calls):
                self._cuda.record(begin, self._stream)
                self._execute(ready.context)
                self._cuda.record(end, self._stream)
                spent.append(1000 * self._cuda.elapsed_ms(begin, end))
        finally:
            self._cuda.destroy_event(begin)
            self._cuda.destroy_event(end)
        return spent

    def inspected(self) -> str:
        """The engine's own list of its layers, as JSON, with the shapes of the usual batch."""
        inspector = self._engine.create_engine_inspector()
        if self.batch.least != self.batch.most:  # without a context it has no shapes to tell
            size = self.batch.usual
            inspector.execution_context = (self._ready.get(size) or self._prepare(size)).context
        return str(inspector.get_engine_information(self._bindings.module.LayerInformationFormat.JSON))

    def _prepare(self, size: int) -> _Ready:
        """A context for a size of batch, its addresses set once and for all."""
        context = self._engine.create_execution_context()
        if context is None:
            raise UnavailableError(
                "engine", f"no execution context can be made ({self._said()})", todo="free memory of the GPU"
            )
        if self.batch.least != self.batch.most:
            self._must(context.set_input_shape(self.tensors.input, (size, *self.tensors.window)), "set_input_shape")
        for name, buffer in ((self.tensors.input, self._in), *self._out.items()):
            self._must(context.set_tensor_address(name, buffer.device), "set_tensor_address")
        ready = self._ready[size] = _Ready(context)
        return ready

    def _enqueue(self, context: Any, size: int) -> None:
        copies = self.shortcut.memory != "mapped"
        if copies:
            self._cuda.copy_in(self._in.device, self._in.address, size * self._in.each, self._stream)
        self._execute(context)
        if copies:
            for out in self._out.values():
                self._cuda.copy_out(out.address, out.device, size * out.each, self._stream)

    def _execute(self, context: Any) -> None:
        self._must(context.execute_async_v3(self._stream), "execute_async_v3")

    def _capture(self, context: Any, size: int) -> object:
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue(context, size)
        except BaseException:
            self._abandon_capture()
            raise
        return self._cuda.end_capture(self._stream)

    def _abandon_capture(self) -> None:
        """A stream that is being captured takes nothing else; the error that led here is the one to tell."""
        try:
            self._cuda.destroy_graph(self._cuda.end_capture(self._stream))
        except UnavailableError:
            pass

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise UnavailableError("engine", f"{what} failed ({self._said()})", todo="build it again with --retune")

    def _said(self) -> str:
        return errors_of(logger(self._bindings).messages) or "TensorRT gave no reason"

    def close(self) -> None:
        """Lets go of contexts and engine, while there is a CUDA context; buffers and streams go with that."""
        for ready in self._ready.values():
            if ready.graph is not None:
                self._cuda.destroy_graph(ready.graph)
        self._ready.clear()
        self._engine = None


def tensors_of(bindings: Bindings, engine: Any) -> Tensors:
    """Input and output of an engine, by name.

    Raises:
        UnavailableError: other than one float32 input [b, 1, series, modal], one float32 output [b, classes] and at
            most one more called `attention` [b, values].
    """
    trt = bindings.module
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
    shapes = {n: tuple(engine.get_tensor_shape(n)) for n in names}
    floats = all(engine.get_tensor_dtype(n) == trt.DataType.FLOAT for n in names)
    gates = [n for n in outputs if n == OUTPUT and len(outputs) > 1]
    logits = [n for n in outputs if n not in gates]
    if (len(inputs), len(logits)) != (1, 1) or not floats or any(len(shapes[n]) != 2 for n in outputs):
        told = ", ".join(f"{n} {list(shapes[n])}" for n in names)
        found = f"has other inputs and outputs than a model file ({told})"
        raise UnavailableError("engine", found, todo="build it again")
    tensors = Tensors(inputs[0], logits[0], shapes[inputs[0]][1:], int(shapes[logits[0]][1]))
    return replace(tensors, gates=OUTPUT, values=int(shapes[OUTPUT][1])) if gates else tensors
