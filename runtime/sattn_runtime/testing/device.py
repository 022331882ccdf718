"""A CUDA device without a GPU: memory, streams, captured graphs, events and a clock that only work moves.

    from sattn_runtime.testing.device import current

    device = current()                              # what SATTN_FAKE_DEVICE says, one for this process
    device.called("Builder.build_serialized_network")
    device.enqueue(stream, work, cost_us=120.0)     # runs now, or at every launch of the graph being captured

The fakes of `cuda.bindings.runtime`, `pycuda.driver` and `tensorrt` all stand on it. Work runs when it is enqueued, in
the thread that enqueues it; what a real device would do later is as if it had been awaited. Nobody sleeps: an event
holds the device's clock, in microseconds, and work moves it by what it is said to cost.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from sattn_runtime.testing.fake_memory import Block, FaultError, Kind, Memory

__all__ = ["VARIABLE", "Device", "FakeConfig", "FaultError", "current", "reset"]

VARIABLE = "SATTN_FAKE_DEVICE"
_MIB = 2**20
Work = Callable[[], None]
Setting = bool | int | float | str | None
CaptureMode = Literal["global", "thread", "relaxed"]
_T = TypeVar("_T")


class FakeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the fakes are, decoded from the JSON object in SATTN_FAKE_DEVICE.

    release: the version of TensorRT. api: a JSON file of the names each release has; where given, the fake has no
    others. cuda_python, pycuda: versions of the two packages, empty where one is not installed; below 12.6 cuda-python
    has only the old name `cuda.cudart`. costs_us: (text, time of one execution) by the first text that occurs in the
    name of a node; copy_us and mapped_us: of one copy, and added for each tensor of an execution in mapped memory;
    enqueue_us and graph_launch_us: added for each piece of work outside a graph, and for each launch of a graph.
    faults: what goes wrong, see `fault`. log: a file that gets one line for every call.
    """

    release: str = "10.3.0"
    api: str | None = None
    gpu: str = "Fake Orin"
    compute_capability: str = "8.7"
    integrated: bool = True
    can_map_host: bool = True
    driver: int = 12060
    runtime: int = 12060
    memory_mib: int = 8192
    free_mib: int = 6000
    visible: bool = True
    cuda_python: str = "12.6.2"
    pycuda: str = "2026.1"
    costs_us: tuple[tuple[str, float], ...] = ()
    default_cost_us: float = 100.0
    copy_us: float = 0.0
    mapped_us: float = 0.0
    enqueue_us: float = 0.0
    graph_launch_us: float = 0.0
    faults: dict[str, Setting] = {}
    log: str | None = None

    def cost_us(self, nodes: Iterable[str]) -> float:
        """Time of one execution of a graph with nodes of these names."""
        names = tuple(nodes)
        return next((us for text, us in self.costs_us if any(text in name for name in names)), self.default_cost_us)

    def fault(self, name: str, nodes: Iterable[str] | None = None) -> Setting:
        """The value of a fault, None where it is not set.

        With names of nodes, a fault is set only for graphs where the text of `only_form` occurs in one of them.
        """
        only = self.faults.get("only_form")
        if nodes is not None and only is not None and not any(str(only) in node for node in nodes):
            return None
        return self.faults.get(name)


@dataclass(eq=False)
class Capture:
    """What a stream was given while it was captured. thread: the one that began; mode: who may not allocate."""

    thread: int
    mode: CaptureMode
    work: list[tuple[Work, float]] = field(default_factory=list)
    broken: bool = False


@dataclass(eq=False)
class Stream:
    """A queue; capture is set while it is being captured. blocking: it would wait for stream 0."""

    blocking: bool = True
    capture: Capture | None = None


@dataclass(eq=False)
class Event:
    """A point in time, in microseconds of the device's clock; None before it was recorded, or within a capture."""

    at_us: float | None = None


class Device:
    """One GPU. Handles of streams, events and graphs are numbers; stream 0 is always there."""

    def __init__(self, config: FakeConfig) -> None:
        self.config = config
        self.memory = Memory()
        self.streams: dict[int, Stream] = {0: Stream()}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, tuple[tuple[Work, float], ...]] = {}
        self.executables: dict[int, tuple[tuple[Work, float], ...]] = {}
        # Of pycuda only: whether `init` was called, the stack of contexts of each thread, how often one is retained.
        self.started = False
        self.contexts: dict[int, list[object]] = {}
        self.retained = 0
        self.now_us = 0.0
        self._handles = itertools.count(0x1000, 0x10)
        self._lock = threading.RLock()
        self._calls: dict[str, int] = {}
        self._log = None if config.log is None else os.open(config.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Closes the log; what is allocated goes with the object."""
        if self._log is not None:
            os.close(self._log)
            self._log = None

    # ------------------------------------------------------------------ calls

    def called(self, name: str) -> None:
        """Writes one line into the log; several processes may write the same one."""
        if self._log is not None:
            os.write(self._log, f"{name}\n".encode())

    def enter(self, *names: str) -> None:
        """A call of CUDA begins: logged under its first name, and refused where a fault of any of its names says so.

        A fault is the name of an error, `cudaErrorMemoryAllocation`, for every call, or with `@3` for the third only.

        Raises:
            FaultError: as asked, or there is no device.
        """
        self.called(names[0])
        with self._lock:
            self._calls[names[0]] = nth = self._calls.get(names[0], 0) + 1
        for name in names:
            code, _, only = str(self.config.faults.get(name) or "").partition("@")
            if code and (not only or int(only) == nth):
                raise FaultError(code, f"{name} was told to fail")
        if not self.config.visible:
            raise FaultError("cudaErrorNoDevice", "no CUDA-capable device is detected")

    # ------------------------------------------------------------------ memory

    def free_bytes(self) -> int:
        """What can still be allocated; on an integrated device host memory is taken from the same."""
        kinds: tuple[Kind, ...] = ("device", "host", "mapped") if self.config.integrated else ("device",)
        return self.config.free_mib * _MIB - self.memory.used(*kinds)

    def allocate(self, nbytes: int, kind: Kind) -> Block:
        """Memory of a kind.

        Raises:
            FaultError: there is not enough, the size is nothing, or it can't be mapped.
        """
        if nbytes < 1:
            raise FaultError("cudaErrorInvalidValue", f"asked for {nbytes} bytes")
        if kind == "mapped" and not self.config.can_map_host:
            raise FaultError("cudaErrorNotSupported", "this device can't map host memory")
        with self._lock:
            if nbytes > self.free_bytes():
                raise FaultError("cudaErrorMemoryAllocation", f"asked for {nbytes} of {self.free_bytes()} bytes")
            return self.memory.allocate(nbytes, kind)

    def copy_in(self, device: int, host: int, nbytes: int, stream: int) -> None:
        """Enqueues a copy from the host; both ends are looked up when it runs."""

        def work() -> None:
            source = self.memory.on_host(host, nbytes, write=False)
            self.memory.on_device(device, nbytes)[:] = source

        self.enqueue(stream, work, self.config.copy_us)

    def copy_out(self, host: int, device: int, nbytes: int, stream: int) -> None:
        """Enqueues a copy to the host; both ends are looked up when it runs."""

        def work() -> None:
            source = self.memory.on_device(device, nbytes)
            self.memory.on_host(host, nbytes, write=True)[:] = source

        self.enqueue(stream, work, self.config.copy_us)

    # ------------------------------------------------------------------ streams and graphs

    def create_stream(self, *, blocking: bool = True) -> int:
        """A new queue."""
        handle = next(self._handles)
        self.streams[handle] = Stream(blocking)
        return handle

    def stream(self, handle: int) -> Stream:
        """The queue of a handle; raises FaultError where there is none."""
        return _of(self.streams, handle, "stream")

    def enqueue(self, stream: int, work: Work, cost_us: float) -> None:
        """Runs work now; or, while the stream is captured, at every launch of the graph and not now.

        Raises:
            FaultError: no such stream, or what the work raises: it touched memory that is not the device's.
        """
        with self._lock:
            queue = self.stream(stream)
            if queue.capture is not None:
                queue.capture.work.append((work, cost_us))
                return
            work()
            self.now_us += cost_us + self.config.enqueue_us

    def synchronize(self, stream: int) -> None:
        """Nothing to wait for; raises FaultError where the stream is captured, and spoils the capture."""
        if (capture := self.stream(stream).capture) is not None:
            capture.broken = True
            raise FaultError("cudaErrorStreamCaptureUnsupported", "a stream that is captured can't be awaited")

    def begin_capture(self, stream: int, mode: CaptureMode = "thread") -> None:
        """From now on work is kept and not run. mode: who may not allocate till then: any thread, this one, or none."""
        queue = self.stream(stream)
        if stream == 0 or queue.capture is not None:
            raise FaultError("cudaErrorStreamCaptureUnsupported", "the stream can't be captured, or is already")
        queue.capture = Capture(threading.get_ident(), mode)

    def refuse_while_capturing(self) -> None:
        """For calls that may break a capture, as allocating does; spoils the capture.

        Raises:
            FaultError: this thread captures, or another one that lets nobody else.
        """
        for queue in self.streams.values():
            capture = queue.capture
            if capture is None or capture.mode == "relaxed":
                continue
            if capture.mode == "global" or capture.thread == threading.get_ident():
                capture.broken = True
                raise FaultError("cudaErrorStreamCaptureUnsupported", "not allowed during a capture")

    def end_capture(self, stream: int) -> int:
        """The graph of what came since begin_capture; the stream is an ordinary one again, whatever happens.

        Raises:
            FaultError: nothing is captured, something spoilt it, the fault `capture` is set, or another thread began.
        """
        queue = self.stream(stream)
        capture, queue.capture = queue.capture, None
        if capture is None:
            raise FaultError("cudaErrorIllegalState", "the stream is not captured")
        if capture.thread != threading.get_ident() and capture.mode != "relaxed":
            raise FaultError("cudaErrorStreamCaptureWrongThread", "another thread began the capture")
        if capture.broken or self.config.fault("capture"):
            raise FaultError("cudaErrorStreamCaptureInvalidated", "the capture was spoilt")
        handle = next(self._handles)
        self.graphs[handle] = tuple(capture.work)
        return handle

    def instantiate(self, graph: int) -> int:
        """An executable made of a graph; it lives on when the graph is destroyed."""
        kept = _of(self.graphs, graph, "graph")
        handle = next(self._handles)
        self.executables[handle] = kept
        return handle

    def launch(self, executable: int, stream: int) -> None:
        """Runs all that was captured, with the addresses it was captured with; raises FaultError as `enqueue` does."""
        kept = _of(self.executables, executable, "executable graph")
        with self._lock:
            queue = self.stream(stream)
            if queue.capture is not None:
                queue.capture.work.extend(kept)
                return
            self.now_us += self.config.graph_launch_us
            for work, cost_us in kept:
                work()
                self.now_us += cost_us

    # ------------------------------------------------------------------ events

    def create_event(self) -> int:
        """A new event."""
        handle = next(self._handles)
        self.events[handle] = Event()
        return handle

    def record(self, event: int, stream: int) -> None:
        """The event holds the clock as it stands after all that was enqueued; nothing while the stream is captured."""
        captured = self.stream(stream).capture is not None
        _of(self.events, event, "event").at_us = None if captured else self.now_us

    def elapsed_ms(self, start: int, end: int) -> float:
        """Between two events, in milliseconds; raises FaultError where one was never recorded."""
        first, last = (_of(self.events, each, "event").at_us for each in (start, end))
        if first is None or last is None:
            raise FaultError("cudaErrorInvalidResourceHandle", "an event was not recorded")
        return (last - first) / 1000

    def destroy(self, what: Literal["stream", "event", "graph", "executable"], handle: int) -> None:
        """Forgets one of them; raises FaultError where there is none, or it is stream 0."""
        tables: dict[str, dict[int, Any]] = {
            "stream": self.streams,
            "event": self.events,
            "graph": self.graphs,
            "executable": self.executables,
        }
        if what == "stream" and handle == 0:
            raise FaultError("cudaErrorInvalidResourceHandle", "stream 0 is not ours to destroy")
        _of(tables[what], handle, what)
        del tables[what][handle]

    def live(self) -> dict[str, int]:
        """How many of each thing are still there; what a program that cleans up leaves at 0."""
        kinds = [block.kind for block in self.memory.blocks.values()]
        return {
            "device": kinds.count("device"),
            "host": kinds.count("host") + kinds.count("mapped"),
            "streams": len(self.streams) - 1,
            "events": len(self.events),
            "graphs": len(self.graphs) + len(self.executables),
            "contexts": sum(len(stack) for stack in self.contexts.values()) + self.retained,
        }


_current: tuple[str, Device] | None = None
_choosing = threading.Lock()


def current() -> Device:
    """The device of this process: the same until SATTN_FAKE_DEVICE changes or `reset` is called.

    Raises:
        ValueError: the variable is no JSON object with the fields of FakeConfig.
    """
    global _current
    text = os.environ.get(VARIABLE, "{}")
    with _choosing:
        if _current is None or _current[0] != text:
            device = Device(msgspec.json.decode(text, type=FakeConfig))  # a DecodeError is a ValueError
            _drop()
            _current = (text, device)
        return _current[1]


def reset() -> None:
    """Forgets the device with all that is allocated on it; the next call of `current` makes a new one."""
    with _choosing:
        _drop()


def _drop() -> None:
    global _current
    if _current is not None:
        _current[1].close()
    _current = None


def _of(table: dict[int, _T], handle: int, what: str) -> _T:
    try:
        return table[handle]
    except KeyError:
        raise FaultError("cudaErrorInvalidResourceHandle", f"{handle:#x} is no {what}") from None
