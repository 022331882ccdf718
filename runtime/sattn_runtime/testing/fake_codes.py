# ruff: noqa: N801, N815 - the names are those of CUDA
"""Error codes of CUDA: numbers as in driver_types.h, words as cudaGetErrorString gives them."""

from __future__ import annotations

from enum import IntEnum


class cudaError_t(IntEnum):
    """Those that the fakes give, or that a test may ask them for."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInitializationError = 3
    cudaErrorInvalidMemcpyDirection = 21
    cudaErrorInsufficientDriver = 35
    cudaErrorDevicesUnavailable = 46
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorDeviceUninitialized = 201
    cudaErrorOperatingSystem = 304
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalState = 401
    cudaErrorIllegalAddress = 700
    cudaErrorContextIsDestroyed = 709
    cudaErrorLaunchFailure = 719
    cudaErrorNotPermitted = 800
    cudaErrorNotSupported = 801
    cudaErrorSystemDriverMismatch = 803
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureWrongThread = 908
    cudaErrorUnknown = 999


MEANINGS = {
    "cudaSuccess": "no error",
    "cudaErrorInvalidValue": "invalid argument",
    "cudaErrorMemoryAllocation": "out of memory",
    "cudaErrorInitializationError": "initialization error",
    "cudaErrorInvalidMemcpyDirection": "invalid copy direction for memcpy",
    "cudaErrorInsufficientDriver": "CUDA driver version is insufficient for CUDA runtime version",
    "cudaErrorDevicesUnavailable": "CUDA-capable device(s) is/are busy or unavailable",
    "cudaErrorNoDevice": "no CUDA-capable device is detected",
    "cudaErrorInvalidDevice": "invalid device ordinal",
    "cudaErrorDeviceUninitialized": "invalid device context",
    "cudaErrorOperatingSystem": "OS call failed or operation not supported on this OS",
    "cudaErrorInvalidResourceHandle": "invalid resource handle",
    "cudaErrorIllegalState": "the operation cannot be performed in the present state",
    "cudaErrorIllegalAddress": "an illegal memory access was encountered",
    "cudaErrorContextIsDestroyed": "context is destroyed",
    "cudaErrorLaunchFailure": "unspecified launch failure",
    "cudaErrorNotPermitted": "operation not permitted",
    "cudaErrorNotSupported": "operation not supported",
    "cudaErrorSystemDriverMismatch": "system has unsupported display driver / cuda driver combination",
    "cudaErrorStreamCaptureUnsupported": "operation not permitted when stream is capturing",
    "cudaErrorStreamCaptureInvalidated": "operation failed due to a previous error during capture",
    "cudaErrorStreamCaptureWrongThread": "attempt to terminate a thread-local capture sequence from another thread",
    "cudaErrorUnknown": "unknown error",
}
