"""The memory of the fake device: whatever a program may mix up is found, and nothing crashes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from sattn_runtime.testing.device import Device, FakeConfig, FaultError
from sattn_runtime.testing.fake_memory import FREED, FRESH


@pytest.fixture
def device() -> Device:
    return Device(FakeConfig())


def fault(code: str):
    """That the device answers with this error."""
    return pytest.raises(FaultError, match=f"^{code}: ")


def test_memory_is_aligned_and_full_of_what_nobody_wrote(device):
    block = device.allocate(100, "device")
    assert block.address % 256 == 0
    assert set(device.memory.on_device(block.address, 100)) == {FRESH}


def test_a_copy_in_and_out(device):
    block, host = device.allocate(64, "device"), np.arange(16, dtype=np.float32)
    back = np.zeros_like(host)
    device.copy_in(block.address, host.ctypes.data, 64, 0)
    device.copy_out(back.ctypes.data, block.address, 64, 0)
    np.testing.assert_array_equal(back, host)
    device.copy_out(back.ctypes.data, block.address + 32, 32, 0)
    np.testing.assert_array_equal(back[:8], host[8:])


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 65), (1, 64), (-1, 10), (64, 1), (63, 2)])
def test_a_copy_that_leaves_its_block(device, offset, nbytes):
    block, host = device.allocate(64, "device"), np.zeros(256, np.uint8)
    with fault("cudaErrorIllegalAddress"):
        device.copy_in(block.address + offset, host.ctypes.data, nbytes, 0)
    with fault("cudaErrorIllegalAddress"):
        device.copy_out(host.ctypes.data, block.address + offset, nbytes, 0)


@pytest.mark.parametrize("kind", ["host", "mapped"])
@pytest.mark.parametrize(("offset", "nbytes"), [(0, 65), (-1, 10), (63, 2)])
def test_a_copy_that_leaves_its_host_block(device, kind, offset, nbytes):
    block, host = device.allocate(256, "device"), device.allocate(64, kind)
    device.copy_in(block.address, host.address, 64, 0)
    with fault("cudaErrorInvalidValue"):
        device.copy_in(block.address, host.address + offset, nbytes, 0)


def test_host_memory_is_told_from_device_memory(device):
    block, host = device.allocate(64, "device"), device.allocate(64, "host")
    with fault("cudaErrorIllegalAddress"):
        device.copy_in(host.address, host.address, 64, 0)
    with fault("cudaErrorInvalidValue"):
        device.copy_in(block.address, block.address, 64, 0)
    with fault("cudaErrorInvalidValue"):
        device.copy_out(block.address, block.address, 64, 0)


def test_mapped_memory_has_an_address_for_each_side(device):
    block, other = device.allocate(64, "mapped"), device.allocate(64, "device")
    assert block.pointer != block.address
    device.memory.on_host(block.address, 64, write=True)[:] = bytes(range(64))
    assert bytes(device.memory.on_device(block.pointer, 64)) == bytes(range(64))
    assert (device.memory.is_mapped(block.pointer), device.memory.is_mapped(other.address)) == (True, False)
    with fault("cudaErrorIllegalAddress"):
        device.memory.on_device(block.address, 64)
    with fault("cudaErrorInvalidValue"):
        device.memory.on_host(block.pointer, 64, write=False)


def test_memory_that_is_not_there(device):
    block = device.allocate(64, "device")
    for address in (0, 8, 2**47 - 4096):
        with fault("cudaErrorInvalidValue"):
            device.copy_in(block.address, address, 8, 0)


def test_memory_that_can_not_be_written(device):
    block = device.allocate(64, "device")
    constant = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value  # code
    assert constant is not None
    device.copy_in(block.address, constant, 8, 0)
    with fault("cudaErrorInvalidValue"):
        device.copy_out(constant, block.address, 8, 0)


@pytest.mark.parametrize("kind", ["device", "host", "mapped"])
def test_what_was_freed_is_found_out(device, kind):
    block, other, host = device.allocate(64, kind), device.allocate(64, "device"), np.zeros(64, np.uint8)
    device.memory.free(block.address, kind)
    if kind == "device":
        with fault("cudaErrorIllegalAddress"):
            device.copy_in(block.address, host.ctypes.data, 8, 0)
    with fault("cudaErrorInvalidValue"):
        device.copy_in(other.address, block.address, 8, 0)
    with fault("cudaErrorInvalidValue"):
        device.memory.free(block.address, kind)
    assert ctypes.string_at(block.address, 64) == bytes([FREED]) * 64  # no crash for who still looks


def test_memory_is_freed_as_what_it_is(device):
    block, host = device.allocate(64, "device"), device.allocate(64, "host")
    with fault("cudaErrorInvalidValue"):
        device.memory.free(block.address, "host", "mapped")
    with fault("cudaErrorInvalidValue"):
        device.memory.free(host.address, "device")
    with fault("cudaErrorInvalidValue"):
        device.memory.free(block.address + 1, "device")


@pytest.mark.parametrize(("integrated", "left"), [(True, 0), (False, 1)])
def test_host_memory_is_the_devices_where_it_is_integrated(integrated, left):
    device = Device(FakeConfig(free_mib=2, integrated=integrated))
    device.allocate(2**20, "device")
    device.allocate(2**20, "host")
    assert device.free_bytes() == left * 2**20
    with fault("cudaErrorMemoryAllocation"):
        device.allocate(left * 2**20 + 1, "device")
