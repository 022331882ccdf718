# ruff: noqa: A001, N801 - the names are those of pycuda
"""Looks like `pycuda.driver` on the fake device: what the adapter uses, and no more.

As in the real one, nothing works before `init` and without a context on this thread's stack, memory and handles are
given back when their object dies, errors are words (`cuMemAlloc failed: out of memory`), and there are no graphs. A
fault may be named as the driver or as the runtime names the call: `cuMemAlloc` or `cudaMalloc`.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sattn_runtime.testing import device as fake
from sattn_runtime.testing.device import FaultError, current
from sattn_runtime.testing.fake_codes import MEANINGS
from sattn_runtime.testing.fake_memory import Block

__all__ = [
    "Context",
    "Device",
    "DeviceAllocation",
    "Error",
    "Event",
    "LaunchError",
    "LogicError",
    "MemoryError",
    "PagelockedHostAllocation",
    "RuntimeError",
    "Stream",
    "device_attribute",
    "get_driver_version",
    "get_version",
    "host_alloc_flags",
    "init",
    "mem_alloc",
    "mem_get_info",
    "memcpy_dtoh_async",
    "memcpy_htod_async",
    "pagelocked_empty",
]

_MIB = 2**20
_NON_BLOCKING = 1


class Error(Exception):
    """Base of pycuda's errors."""


class MemoryError(Error):
    """There is not enough."""


class LogicError(Error):
    """A call that can't be right."""


class LaunchError(Error):
    """A kernel failed."""


class RuntimeError(Error):
    """There is no device, and the like."""


_CLASSES = {
    "cudaErrorMemoryAllocation": MemoryError,
    "cudaErrorNoDevice": RuntimeError,
    "cudaErrorLaunchFailure": LaunchError,
    "cudaErrorUnknown": Error,
}


class host_alloc_flags:
    """Of page-locked memory."""

    PORTABLE = 1
    DEVICEMAP = 2
    WRITECOMBINED = 4


class device_attribute:
    """Those of the device that the fake knows."""

    INTEGRATED = 18
    CAN_MAP_HOST_MEMORY = 19


@contextlib.contextmanager
def _driver(name: str, *also: str, context: bool = True) -> Iterator[fake.Device]:
    """A call of the driver: its faults, and its demand for a context, as pycuda's errors."""
    device = current()
    try:
        device.enter(name, *also)
        if context and not _stack(device):
            raise LogicError(
                "explicit_context_dependent failed: invalid device context - no currently active context?"
                if name.startswith(("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate"))
                else f"{name} failed: {MEANINGS['cudaErrorDeviceUninitialized']}"
            )
        yield device
    except FaultError as fault:
        raise _CLASSES.get(fault.code, LogicError)(f"{name} failed: {MEANINGS[fault.code]}") from None


def _stack(device: fake.Device) -> list[object]:
    return device.contexts.setdefault(threading.get_ident(), [])


# ------------------------------------------------------------------ device and context


def init(flags: int = 0) -> None:
    """Starts the driver."""
    with _driver("cuInit", "cudaGetDeviceCount", context=False) as device:
        if flags:
            raise FaultError("cudaErrorInvalidValue", f"flags {flags}")
        device.started = True


def get_version() -> tuple[int, int, int]:
    """The CUDA that pycuda was built with."""
    version = current().config.runtime
    return version // 1000, version % 1000 // 10, version % 10


def get_driver_version() -> int:
    """As CUDA counts, 12060."""
    return current().config.driver


class Device:
    """Device 0."""

    def __init__(self, number: int) -> None:
        with _driver("cuDeviceGet", "cudaSetDevice", context=False) as device:
            if not device.started:
                raise FaultError("cudaErrorInitializationError", "init was not called")
            if number != 0:
                raise FaultError("cudaErrorInvalidDevice", f"{number}")

    @staticmethod
    def count() -> int:
        """One."""
        with _driver("cuDeviceGetCount", context=False):
            return 1

    def name(self) -> str:
        """As the driver tells it."""
        with _driver("cuDeviceGetName", "cudaGetDeviceProperties", context=False) as device:
            return device.config.gpu

    def compute_capability(self) -> tuple[int, int]:
        """(8, 7)."""
        with _driver("cuDeviceComputeCapability", context=False) as device:
            major, minor = device.config.compute_capability.split(".")
            return int(major), int(minor)

    def total_memory(self) -> int:
        """In bytes."""
        with _driver("cuDeviceTotalMem", context=False) as device:
            return device.config.memory_mib * _MIB

    def get_attribute(self, attribute: int) -> int:
        """One number."""
        with _driver("cuDeviceGetAttribute", "cudaDeviceGetAttribute", context=False) as device:
            return {
                device_attribute.INTEGRATED: int(device.config.integrated),
                device_attribute.CAN_MAP_HOST_MEMORY: int(device.config.can_map_host),
            }[attribute]

    def retain_primary_context(self) -> Context:
        """The context that the runtime uses; it is not pushed."""
        with _driver("cuDevicePrimaryCtxRetain", context=False) as device:
            device.retained += 1
            return Context()


class Context:
    """The primary context, retained once."""

    def __init__(self) -> None:
        self._valid = True

    def push(self) -> None:
        """Makes it this thread's."""
        with _driver("cuCtxPushCurrent", context=False) as device:
            _stack(device).append(self)

    @staticmethod
    def pop() -> None:
        """Takes the uppermost off this thread's stack."""
        with _driver("cuCtxPopCurrent") as device:
            _stack(device).pop()

    def detach(self) -> None:
        """Releases it."""
        with _driver("cuDevicePrimaryCtxRelease", context=False) as device:
            if not self._valid:
                raise LogicError("context::detach failed: invalid device context - cannot detach from invalid context")
            self._valid = False
            device.retained -= 1


# ------------------------------------------------------------------ memory


def mem_get_info() -> tuple[int, int]:
    """Free and total, in bytes."""
    with _driver("cuMemGetInfo", "cudaMemGetInfo") as device:
        return device.free_bytes(), device.config.memory_mib * _MIB


class _Owned:
    """Something of the device it was made on, given back when it dies."""

    def __init__(self, device: fake.Device, call: str, runtime: str) -> None:
        self._device, self._call, self._runtime = device, call, runtime
        self._valid = True

    def _give_back(self) -> None:
        raise NotImplementedError

    def free(self) -> None:
        """Gives it back now; twice is an error."""
        if not self._valid:
            raise LogicError(f"{type(self).__name__}::free failed: {MEANINGS['cudaErrorInvalidResourceHandle']}")
        with _driver(self._call, self._runtime):
            self._valid = False
            self._give_back()

    def __del__(self) -> None:
        if getattr(self, "_valid", False):
            self._valid = False
            self._device.called(self._call)
            with contextlib.suppress(FaultError):
                self._give_back()


class DeviceAllocation(_Owned):
    """Memory of the device; a number where one is wanted."""

    def __init__(self, device: fake.Device, address: int) -> None:
        super().__init__(device, "cuMemFree", "cudaFree")
        self._address = address

    def __int__(self) -> int:
        return self._address

    __index__ = __int__

    def _give_back(self) -> None:
        self._device.memory.free(self._address, "device")


def mem_alloc(size: int) -> DeviceAllocation:
    """Memory of the device."""
    with _driver("cuMemAlloc", "cudaMalloc") as device:
        return DeviceAllocation(device, device.allocate(size, "device").address)


class PagelockedHostAllocation(_Owned):
    """Page-locked memory of the CPU; what an array of it has as its base."""

    def __init__(self, device: fake.Device, block: Block, kind: np.dtype[Any]) -> None:
        super().__init__(device, "cuMemFreeHost", "cudaFreeHost")
        self._block = block
        self.__array_interface__ = {
            "shape": (block.nbytes // kind.itemsize,),
            "typestr": kind.str,
            "data": (block.address, False),
            "version": 3,
        }

    def get_device_pointer(self) -> int:
        """Where the device sees it."""
        with _driver("cuMemHostGetDevicePointer", "cudaHostGetDevicePointer"):
            if self._block.pointer is None:
                raise FaultError("cudaErrorInvalidValue", "it is not mapped")
            return self._block.pointer

    def _give_back(self) -> None:
        self._device.memory.free(self._block.address, "host", "mapped")


def pagelocked_empty(shape: int, dtype: DTypeLike, order: str = "C", mem_flags: int = 0) -> NDArray[Any]:
    """An array in page-locked memory, of one dimension here; its base is the allocation."""
    if order != "C":
        raise ValueError(order)
    with _driver("cuMemHostAlloc", "cudaHostAlloc") as device:
        kind = np.dtype(dtype)
        mapped = bool(mem_flags & host_alloc_flags.DEVICEMAP)
        block = device.allocate(shape * kind.itemsize, "mapped" if mapped else "host")
        return np.asarray(PagelockedHostAllocation(device, block, kind))


def memcpy_htod_async(dest: int, src: Any, stream: Stream | None = None) -> None:
    """A copy from anything with Python's buffer interface."""
    with _driver("cuMemcpyHtoDAsync", "cudaMemcpyAsync") as device:
        address, nbytes = _whole(src)
        device.copy_in(int(dest), address, nbytes, 0 if stream is None else stream.handle)


def memcpy_dtoh_async(dest: Any, src: int, stream: Stream | None = None) -> None:
    """A copy to anything with Python's buffer interface that can be written."""
    with _driver("cuMemcpyDtoHAsync", "cudaMemcpyAsync") as device:
        address, nbytes = _whole(dest)
        device.copy_out(address, int(src), nbytes, 0 if stream is None else stream.handle)


def _whole(data: Any) -> tuple[int, int]:
    """Address and size of a buffer."""
    view = memoryview(data).cast("B")
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(view)), view.nbytes


# ------------------------------------------------------------------ streams and events


class Stream(_Owned):
    """A queue."""

    def __init__(self, flags: int = 0) -> None:
        with _driver("cuStreamCreate", "cudaStreamCreateWithFlags") as device:
            if flags not in (0, _NON_BLOCKING):
                raise FaultError("cudaErrorInvalidValue", f"flags {flags}")
            super().__init__(device, "cuStreamDestroy", "cudaStreamDestroy")
            self.handle = device.create_stream(blocking=flags != _NON_BLOCKING)

    def synchronize(self) -> None:
        """Waits for it."""
        with _driver("cuStreamSynchronize", "cudaStreamSynchronize") as device:
            device.synchronize(self.handle)

    def _give_back(self) -> None:
        self._device.destroy("stream", self.handle)


class Event(_Owned):
    """A point in time."""

    def __init__(self, flags: int = 0) -> None:
        with _driver("cuEventCreate", "cudaEventCreateWithFlags") as device:
            if flags:
                raise FaultError("cudaErrorInvalidValue", f"flags {flags}")
            super().__init__(device, "cuEventDestroy", "cudaEventDestroy")
            self._handle = device.create_event()

    def record(self, stream: Stream | None = None) -> Event:
        """Enqueues it."""
        with _driver("cuEventRecord", "cudaEventRecord") as device:
            device.record(self._handle, 0 if stream is None else stream.handle)
        return self

    def synchronize(self) -> Event:
        """Waits for it."""
        with _driver("cuEventSynchronize", "cudaEventSynchronize") as device:
            device.elapsed_ms(self._handle, self._handle)
        return self

    def time_since(self, event: Event) -> float:
        """From another event to this one, in milliseconds."""
        with _driver("cuEventElapsedTime", "cudaEventElapsedTime") as device:
            return device.elapsed_ms(event._handle, self._handle)

    def _give_back(self) -> None:
        self._device.destroy("event", self._handle)
