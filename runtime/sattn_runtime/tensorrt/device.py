"""The device an engine is for: bindings, GPU and what names them in the engine store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sattn_edge.engine_manifest import Gpu
from sattn_edge.errors import UnavailableError
from sattn_runtime.cuda import Cuda, CudaError, open_cuda
from sattn_runtime.tensorrt.bindings import Bindings, load

_L4T = Path("/etc/nv_tegra_release")
_NO_DEVICE = ("cudaErrorNoDevice", "cudaErrorInsufficientDriver", "CUDA_ERROR_NO_DEVICE")  # pycuda has the last


@dataclass(frozen=True, eq=False)
class Device:
    """Bindings and an open GPU; `gpu` is how the store names it."""

    bindings: Bindings
    cuda: Cuda
    gpu: Gpu

    @property
    def arch(self) -> str:
        """`sm87`."""
        return "sm" + self.gpu.compute_capability.replace(".", "")


def open_device(backend: str) -> Device:
    """Opens the GPU for a backend, in this thread.

    Raises:
        UnavailableError: no bindings, no CUDA adapter, or no GPU; exit code 6.
    """
    bindings = load(backend)
    cuda = open_cuda()
    return Device(bindings, cuda, gpu_of(cuda))


def device_or_reason(backend: str) -> Device | str:
    """Like `open_device`, and why there is none where there is no GPU or nothing to reach it with.

    Raises:
        UnavailableError: the bindings are missing, or a GPU is there and fails.
    """
    bindings = load(backend)
    try:
        cuda = open_cuda()
    except CudaError as error:
        if error.code not in _NO_DEVICE:
            raise
        return error.found
    except UnavailableError as error:
        return "; ".join(part for part in (error.found, error.todo) if part)
    return Device(bindings, cuda, gpu_of(cuda))


def gpu_of(cuda: Cuda) -> Gpu:
    """How the store names a GPU."""
    info = cuda.info
    return Gpu(info.name, info.compute_capability, info.driver, info.runtime, l4t_release())


def l4t_release(path: Path = _L4T) -> str | None:
    """`36.4.3` on a Jetson, None elsewhere."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"R(\d+)\b.*?REVISION:\s*([\d.]+)", text)
    return None if found is None else f"{found[1]}.{found[2]}"
