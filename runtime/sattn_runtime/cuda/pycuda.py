"""The adapter for pycuda: the driver's interface, without graphs.

pycuda makes no context by itself here (no `pycuda.autoinit`, which would make a second one beside TensorRT's): the
primary context of device 0 is retained, pushed in the thread that opens, and popped and detached at `close`, at the
latest when the program ends. What pycuda makes is given back when its object dies, so each is kept until then.

A released pycuda has no graphs. Its errors are words only, `cuMemAlloc failed: out of memory`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import re
import weakref
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from sattn_edge.errors import UnavailableError, UsageError
from sattn_runtime.cuda.base import CudaError, GpuInfo, HostBuffer, NotInstalledError
from sattn_runtime.cuda.errors import driver_name
from sattn_runtime.cuda.owned import Owned, version_text

_DEVICE = 0
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of the driver's interface; pycuda has no name for it
_WORDS = re.compile(r"(?P<call>\w+) failed: (?P<meaning>.+?)(?: - .*)?")


def open_pycuda() -> PyCuda:
    """Opens device 0 for the calling thread.

    Raises:
        NotInstalledError: pycuda is not installed.
        UnavailableError: it can't be loaded.
        CudaError: there is no driver or no device it can use.
    """
    try:
        driver = importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        if error.name in ("pycuda", "pycuda.driver"):
            raise NotInstalledError from error
        raise _broken(error) from error
    except ImportError as error:
        if "libcuda.so" in str(error):
            raise CudaError("pycuda.driver", "cudaErrorInsufficientDriver", str(error)) from error
        raise _broken(error) from error
    return PyCuda(driver)


def _broken(error: Exception) -> UnavailableError:
    todo = "build it again for this CUDA: pip install --no-cache-dir --force-reinstall --no-binary pycuda pycuda"
    return UnavailableError("pycuda", f"can't be loaded ({error})", todo=todo)


class PyCuda(Owned):
    """`Cuda` on a module like `pycuda.driver`."""

    graphs = False

    def __init__(self, driver: ModuleType) -> None:
        super().__init__()
        self._driver: Any = driver
        self._streams: dict[int, Any] = {}
        with self._translated():
            self._driver.init()
            device = self._driver.Device(_DEVICE)
            self._context = device.retain_primary_context()
            self._context.push()
        # A bound method would keep the adapter, and the context, until the end.
        self._at_exit = partial(_close_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)
        try:
            with self._translated():
                self.info = self._describe(device)
        except CudaError:
            self.close()
            raise

    # ------------------------------------------------------------------ memory

    def free_bytes(self) -> int:
        """What the driver says can still be allocated."""
        self.check_thread()
        with self._translated():
            return int(self._driver.mem_get_info()[0])

    def allocate(self, nbytes: int) -> int:
        """Memory of the device."""
        self.check_thread()
        with self._translated():
            memory = self._driver.mem_alloc(nbytes)
        self._keep("device memory", int(memory), lambda: self._run(memory.free))
        return int(memory)

    def free(self, pointer: int) -> None:
        """Gives memory of the device back."""
        self._release("device memory", pointer)

    def allocate_host(self, nbytes: int, *, mapped: bool) -> HostBuffer:
        """Page-locked memory of the CPU; mapped: that the device sees too."""
        self.check_thread()
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._translated():
            array = self._driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
            memory, address = array.base, int(array.ctypes.data)
            try:
                pointer = int(memory.get_device_pointer()) if mapped else None
            except self._driver.Error:
                memory.free()
                raise
        self._keep("host memory", address, lambda: self._run(memory.free))
        return HostBuffer(address, nbytes, pointer)

    def free_host(self, buffer: HostBuffer) -> None:
        """Gives page-locked memory back."""
        self._release("host memory", buffer.address)

    def copy_in(self, device: int, host_address: int, nbytes: int, stream: int) -> None:
        """Enqueues a copy from the CPU's memory."""
        with self._translated():
            self._driver.memcpy_htod_async(device, _buffer(host_address, nbytes), self._streams[stream])

    def copy_out(self, host_address: int, device: int, nbytes: int, stream: int) -> None:
        """Enqueues a copy to the CPU's memory."""
        with self._translated():
            self._driver.memcpy_dtoh_async(_buffer(host_address, nbytes), device, self._streams[stream])

    # ------------------------------------------------------------------ streams and events

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        self.check_thread()
        with self._translated():
            stream = self._driver.Stream(_NON_BLOCKING)
        handle = int(stream.handle)
        self._streams[handle] = stream
        self._keep("stream", handle, lambda: self._forget(handle))
        return handle

    def destroy_stream(self, stream: int) -> None:
        """Gives a stream back."""
        self._release("stream", stream)

    def synchronize(self, stream: int) -> None:
        """Waits until all that was enqueued is done."""
        with self._translated():
            self._streams[stream].synchronize()

    def create_event(self) -> object:
        """An event that holds a time."""
        self.check_thread()
        with self._translated():
            event: object = self._driver.Event()
        kept = [event]  # the list is what is dropped: the event dies when the caller drops it too
        self._keep("event", id(event), kept.clear)
        return event

    def record(self, event: object, stream: int) -> None:
        """Enqueues the event."""
        recorded: Any = event
        with self._translated():
            recorded.record(self._streams[stream])

    def elapsed_ms(self, start: object, end: object) -> float:
        """Waits for `end`; the time between two events, in milliseconds."""
        self.check_thread()
        last: Any = end
        with self._translated():
            last.synchronize()
            return float(last.time_since(start))

    def destroy_event(self, event: object) -> None:
        """Lets go of an event; the driver's is destroyed with the last reference to it."""
        self._release("event", id(event))

    # ------------------------------------------------------------------ graphs

    def begin_capture(self, stream: int) -> None:  # noqa: ARG002 - the protocol
        """There are none; raises UnavailableError, as the other three do."""
        raise _no_graphs()

    def end_capture(self, stream: int) -> object:  # noqa: ARG002 - the protocol
        """There are none."""
        raise _no_graphs()

    def launch(self, graph: object, stream: int) -> None:  # noqa: ARG002 - the protocol
        """There are none."""
        raise _no_graphs()

    def destroy_graph(self, graph: object) -> None:  # noqa: ARG002 - the protocol
        """There are none."""
        raise _no_graphs()

    # ------------------------------------------------------------------ calls

    def _quiet(self) -> None:
        for handle in self._handles("stream"):
            if isinstance(handle, int):
                self.synchronize(handle)

    def _leave(self) -> None:
        atexit.unregister(self._at_exit)
        with contextlib.suppress(self._driver.Error):
            self._driver.Context.pop()
            self._context.detach()

    def _forget(self, stream: int) -> None:
        del self._streams[stream]  # destroyed with its last reference

    def _run(self, call: Any) -> None:
        with self._translated():
            call()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns errors of pycuda into CudaError, with the driver's name for what its words say."""
        try:
            yield
        except self._driver.Error as error:
            raise _named(str(error)) from error

    def _describe(self, device: Any) -> GpuInfo:
        kinds = self._driver.device_attribute
        major, minor = device.compute_capability()
        built = self._driver.get_version()
        return GpuInfo(
            name=str(device.name()).strip("\0 "),
            compute_capability=f"{major}.{minor}",
            integrated=bool(device.get_attribute(kinds.INTEGRATED)),
            can_map_host=bool(device.get_attribute(kinds.CAN_MAP_HOST_MEMORY)),
            total_bytes=int(device.total_memory()),
            driver=version_text(self._driver.get_driver_version()),
            runtime=f"{built[0]}.{built[1]}",
            adapter=f"pycuda {importlib.import_module('pycuda').VERSION_TEXT}",
        )


def _buffer(address: int, nbytes: int) -> ctypes.Array[ctypes.c_ubyte]:
    """Memory by its address as something with Python's buffer interface, which pycuda copies from and to."""
    return (ctypes.c_ubyte * nbytes).from_address(address)


def _named(words: str) -> CudaError:
    found = _WORDS.fullmatch(words)
    if found is None:
        return CudaError("pycuda", f"'{words}'")
    meaning = found["meaning"]
    code = driver_name(meaning)
    return CudaError(found["call"], f"'{meaning}'" if code is None else code)


def _no_graphs() -> UnavailableError:
    todo = "use cuda-python for them: pip install 'sattn-edge[jetson6]' or 'sattn-edge[jetson7]'"
    return UnavailableError("CUDA graphs", "pycuda has none", todo=todo)


def _close_at_exit(adapter: weakref.ref[PyCuda]) -> None:
    """Closes an adapter that is still open when the program ends; pycuda aborts where a context is left pushed."""
    found = adapter()
    if found is not None:
        with contextlib.suppress(UsageError):  # opened in another thread, whose context went with it
            found.close()
