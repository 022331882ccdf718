"""The adapter for cuda-python: NVIDIA's own binding of the CUDA runtime, with graphs.

`cuda.bindings.runtime` is there from 12.6 on, `cuda.cudart` before; of what is used here both offer the same functions
with the same arguments, in every 12.x and 13.x. Their functions return a tuple that begins with the error, and pass no
failure on by themselves. The runtime makes and finds the primary context on its own, in any thread.

Info comes from single attributes where there are any: the struct of properties differs between 12 and 13.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any

from sattn_edge.errors import UnavailableError
from sattn_runtime.cuda.base import Cuda, CudaError, GpuInfo, HostBuffer, NotInstalledError
from sattn_runtime.cuda.owned import Owned, version_text

MODULES = ("cuda.bindings.runtime", "cuda.cudart")
"""Where the runtime is bound, the newer place first."""
_DEVICE = 0


def open_cuda_python() -> Cuda:
    """Opens device 0 for the calling thread.

    Raises:
        NotInstalledError: cuda-python is not installed.
        UnavailableError: it can't be loaded.
        CudaError: there is no driver or no device it can use.
    """
    return CudaPython(load_runtime())


def load_runtime() -> ModuleType:
    """The module with the functions of the CUDA runtime; raises as `open_cuda_python` does."""
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise _broken(error) from error
        except (ImportError, RuntimeError) as error:  # a library that it needs is not there
            raise _broken(error) from error
    raise NotInstalledError


def _broken(error: Exception) -> UnavailableError:
    todo = "install it again: pip install --force-reinstall cuda-python, of the CUDA version of the device"
    return UnavailableError("cuda-python", f"can't be loaded ({error})", todo=todo)


class CudaPython(Owned):
    """`Cuda` on the functions of a module like `cuda.bindings.runtime`."""

    graphs = True

    def __init__(self, runtime: ModuleType) -> None:
        super().__init__()
        self._runtime: Any = runtime
        self._success = self._runtime.cudaError_t.cudaSuccess
        self._copy: Callable[..., tuple[Any, ...]] = self._runtime.cudaMemcpyAsync
        self._in, self._out = (
            self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice,
            self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost,
        )
        self._capturing: set[int] = set()
        try:
            self._call("cudaGetDeviceCount")
        except RuntimeError as error:  # cuda-python before 12.6 looks for libcuda itself, and raises
            raise CudaError("cudaGetDeviceCount", "cudaErrorInsufficientDriver", str(error)) from error
        self._call("cudaSetDevice", _DEVICE)
        self.info = self._describe(runtime)

    # ------------------------------------------------------------------ memory

    def free_bytes(self) -> int:
        """What the driver says can still be allocated."""
        self.check_thread()
        return int(self._call("cudaMemGetInfo")[0])

    def allocate(self, nbytes: int) -> int:
        """Memory of the device."""
        self.check_thread()
        pointer = int(self._one("cudaMalloc", nbytes))
        self._keep("device memory", pointer, lambda: self._run("cudaFree", pointer))
        return pointer

    def free(self, pointer: int) -> None:
        """Gives memory of the device back."""
        self._release("device memory", pointer)

    def allocate_host(self, nbytes: int, *, mapped: bool) -> HostBuffer:
        """Page-locked memory of the CPU; mapped: that the device sees too."""
        self.check_thread()
        flag = self._runtime.cudaHostAllocMapped if mapped else self._runtime.cudaHostAllocDefault
        address = int(self._one("cudaHostAlloc", nbytes, flag))
        self._keep("host memory", address, lambda: self._run("cudaFreeHost", address))
        if not mapped:
            return HostBuffer(address, nbytes)
        try:
            return HostBuffer(address, nbytes, int(self._one("cudaHostGetDevicePointer", address, 0)))
        except CudaError:
            self._release("host memory", address)
            raise

    def free_host(self, buffer: HostBuffer) -> None:
        """Gives page-locked memory back."""
        self._release("host memory", buffer.address)

    def copy_in(self, device: int, host_address: int, nbytes: int, stream: int) -> None:
        """Enqueues a copy from the CPU's memory."""
        (error,) = self._copy(device, host_address, nbytes, self._in, stream)
        if error != self._success:
            raise self._failed("cudaMemcpyAsync", error)

    def copy_out(self, host_address: int, device: int, nbytes: int, stream: int) -> None:
        """Enqueues a copy to the CPU's memory."""
        (error,) = self._copy(host_address, device, nbytes, self._out, stream)
        if error != self._success:
            raise self._failed("cudaMemcpyAsync", error)

    # ------------------------------------------------------------------ streams and events

    def create_stream(self) -> int:
        """A stream that does not wait for the default one: nobody else's work there delays ours."""
        self.check_thread()
        stream = int(self._one("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))
        self._keep("stream", stream, lambda: self._run("cudaStreamDestroy", stream))
        return stream

    def destroy_stream(self, stream: int) -> None:
        """Gives a stream back."""
        self._release("stream", stream)

    def synchronize(self, stream: int) -> None:
        """Waits until all that was enqueued is done."""
        self._run("cudaStreamSynchronize", stream)

    def create_event(self) -> object:
        """An event that holds a time."""
        self.check_thread()
        event: object = self._one("cudaEventCreateWithFlags", self._runtime.cudaEventDefault)
        self._keep("event", id(event), lambda: self._run("cudaEventDestroy", event))
        return event

    def record(self, event: object, stream: int) -> None:
        """Enqueues the event."""
        self._run("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: object, end: object) -> float:
        """Waits for `end`; the time between two events, in milliseconds."""
        self.check_thread()
        self._run("cudaEventSynchronize", end)
        return float(self._one("cudaEventElapsedTime", start, end))

    def destroy_event(self, event: object) -> None:
        """Gives an event back."""
        self._release("event", id(event))

    # ------------------------------------------------------------------ graphs

    def begin_capture(self, stream: int) -> None:
        """From now on work enqueued on the stream is kept for a graph.

        The mode is thread-local. Other threads (readers, other engines) may allocate meanwhile, which the global mode
        forbids; an allocation in this thread still fails the capture, where the relaxed mode would let a library
        bake memory into the graph that it frees later.
        """
        self.check_thread()
        self._run(
            "cudaStreamBeginCapture", stream, self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        self._capturing.add(stream)

    def end_capture(self, stream: int) -> object:
        """The graph, ready to launch. Whatever comes out, the stream is an ordinary one again."""
        self.check_thread()
        self._capturing.discard(stream)
        captured = self._one("cudaStreamEndCapture", stream)
        try:
            graph: object = self._one("cudaGraphInstantiate", captured, 0)
        finally:
            self._run("cudaGraphDestroy", captured)
        self._keep("graph", id(graph), lambda: self._run("cudaGraphExecDestroy", graph))
        return graph

    def launch(self, graph: object, stream: int) -> None:
        """Enqueues all that was captured."""
        self._run("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: object) -> None:
        """Gives a graph back."""
        self._release("graph", id(graph))

    # ------------------------------------------------------------------ calls

    def _quiet(self) -> None:
        for stream in tuple(self._capturing):  # an open capture would refuse to be awaited
            with contextlib.suppress(CudaError):
                self._run("cudaGraphDestroy", self._one("cudaStreamEndCapture", stream))
        for handle in self._handles("stream"):
            self._run("cudaStreamSynchronize", handle)

    def _call(self, name: str, *args: object) -> tuple[Any, ...]:
        """What a function of the runtime returns behind its error; raises CudaError where there is one."""
        error, *values = getattr(self._runtime, name)(*args)
        if error != self._success:
            raise self._failed(name, error)
        return tuple(values)

    def _run(self, name: str, *args: object) -> None:
        self._call(name, *args)

    def _one(self, name: str, *args: object) -> Any:
        (value,) = self._call(name, *args)
        return value

    def _failed(self, name: str, error: Any) -> CudaError:
        # The runtime keeps an error for whoever asks next, and that may be TensorRT, about a call of its own.
        self._runtime.cudaGetLastError()
        words = self._runtime.cudaGetErrorString(error)[-1]
        return CudaError(name, error.name, words.decode(errors="replace") if isinstance(words, bytes) else str(words))

    def _describe(self, runtime: ModuleType) -> GpuInfo:
        kinds = self._runtime.cudaDeviceAttr

        def attribute(kind: object) -> int:
            return int(self._one("cudaDeviceGetAttribute", kind, _DEVICE))

        capability = (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
        name = self._one("cudaGetDeviceProperties", _DEVICE).name
        return GpuInfo(
            name=name.decode(errors="replace").strip("\0 ") if isinstance(name, bytes) else str(name),
            compute_capability=".".join(str(attribute(kind)) for kind in capability),
            integrated=bool(attribute(kinds.cudaDevAttrIntegrated)),
            can_map_host=bool(attribute(kinds.cudaDevAttrCanMapHostMemory)),
            total_bytes=int(self._call("cudaMemGetInfo")[1]),
            driver=version_text(self._one("cudaDriverGetVersion")),
            runtime=version_text(self._one("cudaRuntimeGetVersion")),
            adapter=f"cuda-python {_adapter_version(runtime)}",
        )


def _adapter_version(runtime: ModuleType) -> str:
    """The version of the package whose module it is."""
    parent = importlib.import_module(runtime.__name__.rpartition(".")[0])
    if isinstance(told := getattr(parent, "__version__", None), str):
        return told
    try:
        return metadata.version("cuda-python")
    except metadata.PackageNotFoundError:
        return "of unknown version"
