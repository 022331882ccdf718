"""What the engine needs of CUDA, and nothing else: memory, copies, streams, events and, where there are any, graphs.

    with closing(open_cuda()) as cuda:
        stream = cuda.create_stream()
        window = cuda.allocate_host(4608, mapped=False)
        device = cuda.allocate(4608)
        window.array(np.float32, (1, 1, 128, 9))[:] = x
        cuda.copy_in(device, window.address, window.nbytes, stream)
        cuda.synchronize(stream)

Two adapters obey the protocol: cuda-python (with graphs) and pycuda (without). Both use the primary context of device
0, which is TensorRT's too. Pointers and streams are plain numbers, as TensorRT takes them. An adapter belongs to the
thread that opened it: one engine, one context, one thread.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sattn_edge.errors import UnavailableError, UsageError, did_you_mean
from sattn_runtime.cuda.errors import CudaError

__all__ = ["ADAPTERS", "Cuda", "CudaError", "GpuInfo", "HostBuffer", "NotInstalledError", "open_cuda"]

_Scalar = TypeVar("_Scalar", bound=np.generic)
ADAPTERS = ("cuda-python", "pycuda")
"""In the order they are looked for."""


@dataclass(frozen=True)
class GpuInfo:
    """Device 0. compute_capability `8.7`; driver and runtime are versions of CUDA, `12.6`; adapter: name and version.

    integrated: its memory is the CPU's. can_map_host: it can read and write page-locked memory of the CPU in place.
    """

    name: str
    compute_capability: str
    integrated: bool
    can_map_host: bool
    total_bytes: int
    driver: str
    runtime: str
    adapter: str


@dataclass(frozen=True)
class HostBuffer:
    """Page-locked memory of the CPU. device_pointer: where the device sees it, None where it is not mapped."""

    address: int
    nbytes: int
    device_pointer: int | None = None

    def array(self, dtype: type[_Scalar] | np.dtype[_Scalar], shape: tuple[int, ...]) -> NDArray[_Scalar]:
        """Its first bytes as an array, without a copy. The array must not be used after `free_host`.

        Raises:
            ValueError: the array would be larger than the buffer.
        """
        kind = np.dtype(dtype)
        count = math.prod(shape)
        if count * kind.itemsize > self.nbytes:
            raise ValueError(f"an array of {list(shape)} {kind} is larger than the {self.nbytes} bytes of the buffer")
        memory = (ctypes.c_ubyte * self.nbytes).from_address(self.address)
        return np.frombuffer(memoryview(memory), kind, count).reshape(shape)


class Cuda(Protocol):
    """The device, from one thread. Sizes are in bytes; every method may raise CudaError.

    copy_in, copy_out, launch, record and synchronize are called for every window and do not check the thread; the
    others raise UsageError in a thread that did not open the adapter. What is given to `free` and the like must have
    come from this adapter: anything else is a ValueError.
    """

    info: GpuInfo
    graphs: bool
    """Whether there are begin_capture, end_capture and launch; without, they raise UnavailableError."""

    def check_thread(self) -> None:
        """Raises UsageError in another thread than the one that opened the adapter."""

    def free_bytes(self) -> int:
        """What the driver says can still be allocated."""

    def allocate(self, nbytes: int) -> int:
        """Memory of the device; what is in it is not defined."""

    def free(self, pointer: int) -> None:
        """Gives memory of the device back."""

    def allocate_host(self, nbytes: int, *, mapped: bool) -> HostBuffer:
        """Page-locked memory of the CPU; mapped: that the device sees too."""

    def free_host(self, buffer: HostBuffer) -> None:
        """Gives page-locked memory back; no array made of it may be used any more."""

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None:
        """Gives a stream back."""

    def synchronize(self, stream: int) -> None:
        """Waits until all that was enqueued is done; errors of that work come out here."""

    def copy_in(self, device: int, host_address: int, nbytes: int, stream: int) -> None:
        """Enqueues a copy from the CPU's memory. Page-locked memory must be left alone until `synchronize`."""

    def copy_out(self, host_address: int, device: int, nbytes: int, stream: int) -> None:
        """Enqueues a copy to the CPU's memory. It is there after `synchronize`."""

    def create_event(self) -> object:
        """An event that holds a time."""

    def record(self, event: object, stream: int) -> None:
        """Enqueues the event: it will hold the time when all before it is done."""

    def elapsed_ms(self, start: object, end: object) -> float:
        """Waits for `end`; the time between two events that were recorded, in milliseconds."""

    def destroy_event(self, event: object) -> None:
        """Gives an event back."""

    def begin_capture(self, stream: int) -> None:
        """From now on work enqueued on the stream is kept for a graph and not run."""

    def end_capture(self, stream: int) -> object:
        """The graph of it, ready to launch. Whatever comes out, the stream is an ordinary one again."""

    def launch(self, graph: object, stream: int) -> None:
        """Enqueues all that was captured: with the same addresses, so the buffers must still be there."""

    def destroy_graph(self, graph: object) -> None:
        """Gives a graph back."""

    def close(self) -> None:
        """Gives everything back that is still allocated. A second time does nothing."""


class NotInstalledError(Exception):
    """The package of an adapter is not installed; never leaves `open_cuda`."""


def open_cuda(adapter: str | None = None) -> Cuda:
    """Opens device 0 for the calling thread.

    Args:
        adapter: `cuda-python` or `pycuda`; without, the first of them that is installed.

    Raises:
        UsageError: no such adapter.
        UnavailableError: none is installed, or the one that is can't be loaded.
        CudaError: there is no device or no driver that it can use.
    """
    if adapter is not None and adapter not in ADAPTERS:
        raise UsageError("CUDA adapter", f"got '{adapter}'", did_you_mean(adapter, ADAPTERS))
    for name in ADAPTERS if adapter is None else (adapter,):
        try:
            return _opener(name)()
        except NotInstalledError:
            continue
    todo = (
        "on JetPack 6: pip install 'sattn-edge[jetson6]'; on JetPack 7: pip install 'sattn-edge[jetson7]'; "
        "or, with a compiler and the CUDA toolkit: pip install 'sattn-edge[pycuda]'"
    )
    found = "neither cuda-python nor pycuda is installed" if adapter is None else f"{adapter} is not installed"
    raise UnavailableError("CUDA adapter", found, todo=todo)


def _opener(name: str) -> Callable[[], Cuda]:
    if name == "cuda-python":
        from sattn_runtime.cuda.cuda_python import open_cuda_python

        return open_cuda_python
    from sattn_runtime.cuda.pycuda import open_pycuda

    return open_pycuda
