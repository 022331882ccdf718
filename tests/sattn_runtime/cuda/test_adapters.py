"""One suite over both adapters, on the fake device: cuda-python as of CUDA 13, 12 and before 12.6, and pycuda."""

from __future__ import annotations

import numpy as np
import pytest

from sattn_runtime.cuda import Cuda, CudaError, GpuInfo
from sattn_runtime.testing import device as fake
from sattn_runtime.testing.fake_memory import FRESH
from tests.sattn_runtime.cuda.helpers_adapters import X, with_graphs

# ------------------------------------------------------------------ what it is


def test_the_device(opened):
    info = opened(gpu="Orin Nano", compute_capability="8.7", can_map_host=False, memory_mib=7620).info
    versions = {
        "cuda-python 13.0.1": "13.0",
        "cuda-python 12.6.2": "12.6",
        "cuda-python 12.2.1": "12.2",
        "pycuda 2026.1": "12.6",
    }
    version = versions[info.adapter]
    assert info == GpuInfo("Orin Nano", "8.7", True, False, 7620 * 2**20, version, version, info.adapter)


def test_another_device(opened):
    info = opened(gpu="RTX", compute_capability="12.0", integrated=False, can_map_host=True).info
    assert (info.name, info.compute_capability, info.integrated, info.can_map_host) == ("RTX", "12.0", False, True)


def test_what_is_free_is_what_is_not_taken(opened):
    cuda = opened(free_mib=100)
    assert cuda.free_bytes() == 100 * 2**20
    pointer = cuda.allocate(30 * 2**20)
    assert cuda.free_bytes() == 70 * 2**20
    cuda.free(pointer)
    assert cuda.free_bytes() == 100 * 2**20


# ------------------------------------------------------------------ memory and copies


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "pageable"])
def test_what_goes_in_comes_out(cuda, pinned):
    stream, device = cuda.create_stream(), cuda.allocate(X.nbytes)
    if pinned:
        there = cuda.allocate_host(X.nbytes, mapped=False).array(np.float32, X.shape)
        back = cuda.allocate_host(X.nbytes, mapped=False).array(np.float32, X.shape)
        there[:] = X
    else:
        there, back = X.copy(), np.zeros_like(X)
    before = back.copy()
    cuda.copy_in(device, there.ctypes.data, X.nbytes, stream)
    np.testing.assert_array_equal(back, before)
    cuda.copy_out(back.ctypes.data, device, X.nbytes, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(back, X)


def test_what_was_not_copied_in_does_not_come_out(cuda):
    """The control."""
    stream, device, back = cuda.create_stream(), cuda.allocate(X.nbytes), np.zeros_like(X)
    cuda.copy_out(back.ctypes.data, device, X.nbytes, stream)
    cuda.synchronize(stream)
    assert (back.view(np.uint8) == FRESH).all()


def test_mapped_memory_is_the_same_for_both(cuda):
    buffer = cuda.allocate_host(X.nbytes, mapped=True)
    buffer.array(np.float32, X.shape)[:] = X
    assert buffer.device_pointer is not None
    seen = fake.current().memory.on_device(buffer.device_pointer, X.nbytes)
    np.testing.assert_array_equal(np.frombuffer(seen, np.float32), X.ravel())
    seen[:4] = np.float32(7).tobytes()
    assert buffer.array(np.float32, (1,)).tolist() == [7]


def test_memory_that_is_not_mapped_has_no_address_on_the_device(cuda):
    buffer = cuda.allocate_host(64, mapped=False)
    assert buffer.device_pointer is None
    with pytest.raises(CudaError, match="an illegal memory access"):
        cuda.copy_in(buffer.address, buffer.address, 64, cuda.create_stream())


def test_a_device_that_can_not_map_says_so_and_nothing_is_left(opened):
    cuda = opened(can_map_host=False)
    with pytest.raises(CudaError, match="operation not supported"):
        cuda.allocate_host(64, mapped=True)
    assert fake.current().live()["host"] == 0
    assert cuda.allocate_host(64, mapped=False).nbytes == 64


def test_mapped_memory_without_an_address_is_given_back(opened):
    cuda = opened(faults={"cudaHostGetDevicePointer": "cudaErrorInvalidValue"})
    with pytest.raises(CudaError, match="invalid argument") as caught:
        cuda.allocate_host(64, mapped=True)
    assert fake.current().live()["host"] == 0  # now, and not when the error with all it holds is forgotten
    assert caught.value.call.endswith("HostGetDevicePointer")


def test_an_array_is_not_larger_than_its_buffer(cuda):
    buffer = cuda.allocate_host(16, mapped=False)
    assert buffer.array(np.float32, (2, 2)).shape == (2, 2)
    assert buffer.array(np.float16, (3,)).nbytes == 6
    with pytest.raises(ValueError, match=r"an array of \[2, 3\] float32 is larger than the 16 bytes of the buffer"):
        buffer.array(np.float32, (2, 3))


@pytest.mark.parametrize("beyond", [1, 64])
def test_a_copy_beyond_what_was_allocated(cuda, beyond):
    stream, device, host = cuda.create_stream(), cuda.allocate(64), cuda.allocate_host(64, mapped=False)
    for copy in (
        lambda: cuda.copy_in(device, host.address, 64 + beyond, stream),
        lambda: cuda.copy_out(host.address, device, 64 + beyond, stream),
    ):
        with pytest.raises(CudaError, match=r"(illegal memory access|invalid argument)"):
            copy()


# ------------------------------------------------------------------ streams and time


def test_a_stream_does_not_wait_for_the_default_one(cuda):
    assert not fake.current().stream(cuda.create_stream()).blocking
    assert fake.current().stream(fake.current().create_stream()).blocking


def test_events_hold_the_time_of_the_device(opened):
    cuda = opened(copy_us=5.0)
    stream, device, host = cuda.create_stream(), cuda.allocate(64), cuda.allocate_host(64, mapped=False)
    start, end = cuda.create_event(), cuda.create_event()
    cuda.record(start, stream)
    fake.current().enqueue(stream, lambda: None, 120.0)
    cuda.copy_in(device, host.address, 64, stream)
    cuda.record(end, stream)
    assert cuda.elapsed_ms(start, end) == pytest.approx(0.125)
    assert cuda.elapsed_ms(start, start) == 0


def test_an_event_that_was_never_recorded(cuda):
    with pytest.raises(CudaError, match="invalid resource handle"):
        cuda.elapsed_ms(cuda.create_event(), cuda.create_event())


# ------------------------------------------------------------------ errors

TOLD = "cudaErrorLaunchFailure"


@pytest.mark.parametrize(
    ("runtime", "driver", "work"),
    [
        ("cudaMemGetInfo", "cuMemGetInfo", lambda c: c.free_bytes()),
        ("cudaMalloc", "cuMemAlloc", lambda c: c.allocate(8)),
        ("cudaFree", "cuMemFree", lambda c: c.free(c.allocate(8))),
        ("cudaHostAlloc", "cuMemHostAlloc", lambda c: c.allocate_host(8, mapped=False)),
        ("cudaFreeHost", "cuMemFreeHost", lambda c: c.free_host(c.allocate_host(8, mapped=False))),
        ("cudaStreamCreateWithFlags", "cuStreamCreate", lambda c: c.create_stream()),
        ("cudaStreamSynchronize", "cuStreamSynchronize", lambda c: c.synchronize(c.create_stream())),
        (
            "cudaMemcpyAsync",
            "cuMemcpyHtoDAsync",
            lambda c: c.copy_in(c.allocate(8), X.ctypes.data, 8, stream(c)),
        ),
        ("cudaMemcpyAsync", "cuMemcpyDtoHAsync", lambda c: c.copy_out(X.ctypes.data, c.allocate(8), 8, stream(c))),
        ("cudaEventCreateWithFlags", "cuEventCreate", lambda c: c.create_event()),
        ("cudaEventRecord", "cuEventRecord", lambda c: c.record(c.create_event(), stream(c))),
        ("cudaEventSynchronize", "cuEventSynchronize", lambda c: c.elapsed_ms(*recorded(c))),
        ("cudaEventElapsedTime", "cuEventElapsedTime", lambda c: c.elapsed_ms(*recorded(c))),
    ],
)
def test_an_error_carries_the_call_and_the_name(opened, runtime, driver, work):
    # When cuda-python opens, it asks for the memory once already.
    cuda = opened(faults={runtime: "cudaErrorLaunchFailure@2" if runtime == "cudaMemGetInfo" else TOLD})
    if runtime == "cudaMemGetInfo" and not cuda.graphs:
        work(cuda)
    with pytest.raises(CudaError) as caught:
        work(cuda)
    call, code = (runtime, TOLD) if cuda.graphs else (driver, "CUDA_ERROR_LAUNCH_FAILED")
    assert (caught.value.call, caught.value.code, caught.value.exit_code) == (call, code, 6)
    assert str(caught.value).startswith(f"CUDA: {call} gave {code} (unspecified launch failure); the context is lost")


def stream(cuda: Cuda) -> int:
    return cuda.create_stream()


def recorded(cuda: Cuda) -> tuple[object, object]:
    """Two events, both recorded."""
    at, events = cuda.create_stream(), (cuda.create_event(), cuda.create_event())
    for event in events:
        cuda.record(event, at)
    return events


def test_too_little_memory(opened):
    cuda = opened(free_mib=1)
    with pytest.raises(CudaError, match=r"\(out of memory\); .*; end other programs, or ask for less") as caught:
        cuda.allocate(2 * 2**20)
    assert caught.value.out_of_memory
    with pytest.raises(CudaError) as other:
        cuda.allocate(0)
    assert not other.value.out_of_memory


@with_graphs
def test_an_error_of_cuda_python_is_not_left_for_tensorrt_to_find(opened, monkeypatch):
    cuda, asked = opened(faults={"cudaMalloc": "cudaErrorMemoryAllocation@2"}), []
    monkeypatch.setattr(cuda._runtime, "cudaGetLastError", lambda: asked.append(1))
    cuda.allocate(8)
    assert asked == []
    with pytest.raises(CudaError):
        cuda.allocate(8)
    assert asked == [1]
