"""CUDA, as narrow as the engine needs it, over cuda-python or pycuda."""

from __future__ import annotations

from sattn_runtime.cuda.base import Cuda, CudaError, GpuInfo, HostBuffer, open_cuda

__all__ = ["Cuda", "CudaError", "GpuInfo", "HostBuffer", "open_cuda"]
