"""Errors of CUDA, with the name CUDA gives them and what to do about the common ones.

The runtime (`cudaMalloc`) and the driver (`cuMemAlloc`) name the same error differently; pycuda tells the driver's
words only. The table below leads from any of the three to the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from sattn_edge.errors import UnavailableError


@dataclass(frozen=True)
class KnownError:
    """One error: as the runtime names it, as the driver names it, in words, and what there is to say about it."""

    runtime: str
    driver: str
    meaning: str
    allowed: str = ""
    todo: str = ""


_DOCTOR = "run sattn-doctor"
_RESTART = "the context is lost with all that was on the device"
_FORKED = "CUDA can't be used in a child that was forked after CUDA was started"
_MATCH = "on JetPack 6: pip install 'sattn-edge[jetson6]'; on JetPack 7: pip install 'sattn-edge[jetson7]'"
_THREAD = "a handle is used where it was made and until it is destroyed"
_NO_GRAPH = "this call is not allowed while a CUDA graph is captured"
_WITHOUT_GRAPH = "use the engine without a CUDA graph"

# The words are those of cudaGetErrorString and cuGetErrorString, which agree.
KNOWN = (
    KnownError("cudaErrorInvalidValue", "CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    KnownError(
        "cudaErrorMemoryAllocation",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "out of memory",
        "a Jetson's GPU shares its memory with all that runs on the board",
        "end other programs, or ask for less with --workspace or --batch",
    ),
    KnownError(
        "cudaErrorInitializationError", "CUDA_ERROR_NOT_INITIALIZED", "initialization error", _FORKED, "start it anew"
    ),
    KnownError("cudaErrorCudartUnloading", "CUDA_ERROR_DEINITIALIZED", "driver shutting down"),
    KnownError(
        "cudaErrorInsufficientDriver",
        "",  # the driver itself has no such error
        "CUDA driver version is insufficient for CUDA runtime version",
        "cuda-python needs a driver of its own major version of CUDA, or a newer one",
        f"{_MATCH}; on a computer without a driver, install NVIDIA's; sattn-doctor tells which there is",
    ),
    KnownError(
        "cudaErrorDevicesUnavailable",
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
        "CUDA-capable device(s) is/are busy or unavailable",
        "another process may hold the GPU for itself",
        "end it",
    ),
    KnownError(
        "cudaErrorNoDevice",
        "CUDA_ERROR_NO_DEVICE",
        "no CUDA-capable device is detected",
        "a GPU that this process may use",
        "unset CUDA_VISIBLE_DEVICES; start a container with --runtime nvidia; add the user to the group video",
    ),
    KnownError("cudaErrorInvalidDevice", "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"),
    KnownError("cudaErrorDeviceUninitialized", "CUDA_ERROR_INVALID_CONTEXT", "invalid device context", _THREAD),
    KnownError(
        "cudaErrorOperatingSystem",
        "CUDA_ERROR_OPERATING_SYSTEM",
        "OS call failed or operation not supported on this OS",
        "",
        _DOCTOR,
    ),
    KnownError("cudaErrorInvalidResourceHandle", "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle", _THREAD),
    KnownError("cudaErrorNotReady", "CUDA_ERROR_NOT_READY", "device not ready"),
    KnownError(
        "cudaErrorIllegalAddress",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "an illegal memory access was encountered",
        _RESTART,
        "start the program again",
    ),
    KnownError(
        "cudaErrorContextIsDestroyed", "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed", _RESTART, "start anew"
    ),
    KnownError(
        "cudaErrorLaunchFailure",
        "CUDA_ERROR_LAUNCH_FAILED",
        "unspecified launch failure",
        _RESTART,
        "start the program again",
    ),
    KnownError("cudaErrorNotPermitted", "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"),
    KnownError("cudaErrorNotSupported", "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"),
    KnownError(
        "cudaErrorSystemDriverMismatch",
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "system has unsupported display driver / cuda driver combination",
        "the driver in the kernel and libcuda are of different versions",
        "restart the computer",
    ),
    KnownError(
        "cudaErrorStreamCaptureUnsupported",
        "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        "operation not permitted when stream is capturing",
        _NO_GRAPH,
        _WITHOUT_GRAPH,
    ),
    KnownError(
        "cudaErrorStreamCaptureInvalidated",
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        "operation failed due to a previous error during capture",
        "an earlier call is not allowed while a CUDA graph is captured",
        _WITHOUT_GRAPH,
    ),
    KnownError("cudaErrorUnknown", "CUDA_ERROR_UNKNOWN", "unknown error", "", _DOCTOR),
)
_BY_NAME = {name: known for known in KNOWN for name in (known.runtime, known.driver) if name}
_BY_MEANING = {known.meaning: known for known in KNOWN}


class CudaError(UnavailableError):
    """A call of CUDA failed. call: `cudaMalloc`; code: `cudaErrorMemoryAllocation`, or what is known of it."""

    def __init__(self, call: str, code: str, meaning: str = "") -> None:
        known = _BY_NAME.get(code)
        words = meaning or (known.meaning if known else "")
        self.call, self.code = call, code
        found = f"{call} gave {code}" + (f" ({words})" if words else "")
        super().__init__("CUDA", found, known.allowed if known else "", known.todo if known else _DOCTOR)

    @property
    def out_of_memory(self) -> bool:
        """Whether there was not enough memory on the device."""
        known = _BY_NAME.get(self.code)
        return known is not None and known.runtime == "cudaErrorMemoryAllocation"


def driver_name(meaning: str) -> str | None:
    """`CUDA_ERROR_OUT_OF_MEMORY` for `out of memory`; None where the words are not known."""
    known = _BY_MEANING.get(meaning)
    return known.driver or None if known is not None else None
