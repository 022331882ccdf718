# ruff: noqa: N801, N802, N815, N816 - the names are those of CUDA
"""Looks like `cuda.bindings.runtime` on the fake device: the functions the adapter uses, and no others.

Functions return a tuple that begins with a cudaError_t, and raise for nothing but wrong types. Handles of streams,
events and graphs are objects that turn into a number only when asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import Any, Literal

from sattn_runtime.testing.device import CaptureMode, Device, FaultError, current
from sattn_runtime.testing.fake_codes import MEANINGS, cudaError_t

__all__ = [
    "cudaDeviceAttr",
    "cudaDeviceGetAttribute",
    "cudaDriverGetVersion",
    "cudaError_t",
    "cudaEventCreateWithFlags",
    "cudaEventDefault",
    "cudaEventDestroy",
    "cudaEventElapsedTime",
    "cudaEventRecord",
    "cudaEventSynchronize",
    "cudaFree",
    "cudaFreeHost",
    "cudaGetDeviceCount",
    "cudaGetDeviceProperties",
    "cudaGetErrorString",
    "cudaGetLastError",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
    "cudaHostAlloc",
    "cudaHostAllocDefault",
    "cudaHostAllocMapped",
    "cudaHostGetDevicePointer",
    "cudaMalloc",
    "cudaMemGetInfo",
    "cudaMemcpyAsync",
    "cudaMemcpyKind",
    "cudaRuntimeGetVersion",
    "cudaSetDevice",
    "cudaStreamBeginCapture",
    "cudaStreamCaptureMode",
    "cudaStreamCreateWithFlags",
    "cudaStreamDestroy",
    "cudaStreamEndCapture",
    "cudaStreamNonBlocking",
    "cudaStreamSynchronize",
]

cudaHostAllocDefault = 0
cudaHostAllocMapped = 2
cudaStreamNonBlocking = 1
cudaEventDefault = 0
_MIB = 2**20
Result = tuple[Any, ...]


class cudaMemcpyKind(IntEnum):
    """Directions of a copy."""

    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3
    cudaMemcpyDefault = 4


class cudaStreamCaptureMode(IntEnum):
    """What else may be called during a capture."""

    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


_MODES: dict[cudaStreamCaptureMode, CaptureMode] = {
    cudaStreamCaptureMode.cudaStreamCaptureModeGlobal: "global",
    cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal: "thread",
    cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed: "relaxed",
}


class cudaDeviceAttr(IntEnum):
    """Those of the device that the fake knows."""

    cudaDevAttrIntegrated = 18
    cudaDevAttrCanMapHostMemory = 19
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaDeviceProp:
    """Properties of a device; of the many, the name."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()


class _Handle:
    """A stream, an event or a graph."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


def _call(values: int = 0) -> Callable[[Callable[..., Any]], Callable[..., Result]]:
    """Makes a function of the runtime of one that takes the device first, and gives `values` values or raises."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Result]:
        @wraps(function)
        def called(*args: Any) -> Result:
            try:
                device = current()
                device.enter(function.__name__)
                _check_driver(device)
                given = function(device, *args)
            except FaultError as fault:
                return (cudaError_t[fault.code], *[None] * values)
            return (cudaError_t.cudaSuccess, *(given if values > 1 else [given] * values))

        return called

    return decorate


def _check_driver(device: Device) -> None:
    """A runtime needs a driver of its own major version, or a newer one."""
    config = device.config
    if config.driver // 1000 >= config.runtime // 1000:
        return
    if config.driver == 0 and _version(config.cuda_python) < (12, 6):
        raise RuntimeError("Failed to dlopen libcuda.so.1")
    raise FaultError("cudaErrorInsufficientDriver", f"driver {config.driver}, runtime {config.runtime}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


# ------------------------------------------------------------------ device


def cudaDriverGetVersion() -> Result:
    """0 where there is no driver."""
    return (cudaError_t.cudaSuccess, current().config.driver)


def cudaRuntimeGetVersion() -> Result:
    """The runtime that the binding carries."""
    return (cudaError_t.cudaSuccess, current().config.runtime)


def cudaGetLastError() -> Result:
    """Nothing is kept."""
    return (cudaError_t.cudaSuccess,)


def cudaGetErrorString(error: cudaError_t) -> Result:
    """The words for an error, as bytes."""
    return (cudaError_t.cudaSuccess, MEANINGS[error.name].encode())


@_call(values=1)
def cudaGetDeviceCount(device: Device) -> int:  # noqa: ARG001 - every call has it
    """One."""
    return 1


@_call()
def cudaSetDevice(device: Device, ordinal: int) -> None:  # noqa: ARG001 - every call has it
    """Device 0 only."""
    if ordinal != 0:
        raise FaultError("cudaErrorInvalidDevice", f"{ordinal}")


@_call(values=1)
def cudaDeviceGetAttribute(device: Device, attribute: cudaDeviceAttr, ordinal: int) -> int:
    """One number of device 0."""
    if ordinal != 0:
        raise FaultError("cudaErrorInvalidDevice", f"{ordinal}")
    major, minor = _version(device.config.compute_capability)
    return {
        cudaDeviceAttr.cudaDevAttrIntegrated: int(device.config.integrated),
        cudaDeviceAttr.cudaDevAttrCanMapHostMemory: int(device.config.can_map_host),
        cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor: major,
        cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor: minor,
    }[attribute]


@_call(values=1)
def cudaGetDeviceProperties(device: Device, ordinal: int) -> cudaDeviceProp:
    """The struct of device 0."""
    if ordinal != 0:
        raise FaultError("cudaErrorInvalidDevice", f"{ordinal}")
    return cudaDeviceProp(device.config.gpu)


@_call(values=2)
def cudaMemGetInfo(device: Device) -> tuple[int, int]:
    """Free and total, in bytes."""
    return device.free_bytes(), device.config.memory_mib * _MIB


# ------------------------------------------------------------------ memory


@_call(values=1)
def cudaMalloc(device: Device, size: int) -> int:
    """Memory of the device."""
    device.refuse_while_capturing()
    return device.allocate(size, "device").address


@_call()
def cudaFree(device: Device, pointer: int) -> None:
    """Gives it back."""
    device.refuse_while_capturing()
    device.memory.free(pointer, "device")


@_call(values=1)
def cudaHostAlloc(device: Device, size: int, flags: int) -> int:
    """Page-locked memory of the CPU, mapped if flags say so."""
    device.refuse_while_capturing()
    return device.allocate(size, "mapped" if flags & cudaHostAllocMapped else "host").address


@_call()
def cudaFreeHost(device: Device, address: int) -> None:
    """Gives it back."""
    device.memory.free(address, "host", "mapped")


@_call(values=1)
def cudaHostGetDevicePointer(device: Device, address: int, flags: int) -> int:
    """Where the device sees mapped memory."""
    block = device.memory.blocks.get(address)
    if block is None or block.pointer is None or block.kind != "mapped" or flags:
        raise FaultError("cudaErrorInvalidValue", f"{address:#x} is not mapped")
    return block.pointer


@_call()
def cudaMemcpyAsync(device: Device, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Any) -> None:
    """A copy in or out."""
    if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
        device.copy_in(dst, src, count, int(stream))
    elif kind == cudaMemcpyKind.cudaMemcpyDeviceToHost:
        device.copy_out(dst, src, count, int(stream))
    else:
        raise FaultError("cudaErrorInvalidMemcpyDirection", f"{kind}")


# ------------------------------------------------------------------ streams, events, graphs


@_call(values=1)
def cudaStreamCreateWithFlags(device: Device, flags: int) -> _Handle:
    """A stream."""
    if flags not in (0, cudaStreamNonBlocking):
        raise FaultError("cudaErrorInvalidValue", f"flags {flags}")
    return _Handle(device.create_stream(blocking=flags != cudaStreamNonBlocking))


@_call()
def cudaStreamSynchronize(device: Device, stream: Any) -> None:
    """Waits for a stream."""
    device.synchronize(int(stream))


@_call(values=1)
def cudaEventCreateWithFlags(device: Device, flags: int) -> _Handle:
    """An event, with a time."""
    if flags != cudaEventDefault:
        raise FaultError("cudaErrorInvalidValue", f"flags {flags}")
    return _Handle(device.create_event())


@_call()
def cudaEventRecord(device: Device, event: Any, stream: Any) -> None:
    """Enqueues an event."""
    device.record(int(event), int(stream))


@_call()
def cudaEventSynchronize(device: Device, event: Any) -> None:
    """Waits for an event."""
    device.elapsed_ms(int(event), int(event))


@_call(values=1)
def cudaEventElapsedTime(device: Device, start: Any, end: Any) -> float:
    """In milliseconds."""
    return device.elapsed_ms(int(start), int(end))


@_call()
def cudaStreamBeginCapture(device: Device, stream: Any, mode: cudaStreamCaptureMode) -> None:
    """Begins a capture."""
    device.begin_capture(int(stream), _MODES[mode])


@_call(values=1)
def cudaStreamEndCapture(device: Device, stream: Any) -> _Handle:
    """Ends it: the graph, not yet one to launch."""
    return _Handle(device.end_capture(int(stream)))


@_call(values=1)
def cudaGraphInstantiate(device: Device, graph: Any, flags: int) -> _Handle:
    """The graph, ready to launch."""
    if flags:
        raise FaultError("cudaErrorInvalidValue", f"flags {flags}")
    return _Handle(device.instantiate(int(graph)))


@_call()
def cudaGraphLaunch(device: Device, executable: Any, stream: Any) -> None:
    """Runs what was captured."""
    device.launch(int(executable), int(stream))


def _destroyer(name: str, what: Literal["stream", "event", "graph", "executable"]) -> Callable[..., Result]:
    def destroy(device: Device, handle: Any) -> None:
        device.destroy(what, int(handle))

    destroy.__name__ = name
    return _call()(destroy)


cudaStreamDestroy = _destroyer("cudaStreamDestroy", "stream")
cudaEventDestroy = _destroyer("cudaEventDestroy", "event")
cudaGraphDestroy = _destroyer("cudaGraphDestroy", "graph")
cudaGraphExecDestroy = _destroyer("cudaGraphExecDestroy", "executable")
