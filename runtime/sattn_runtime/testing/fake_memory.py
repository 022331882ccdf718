"""The memory of the fake device: ordinary memory of this process, in a table that says what each address is.

    kind       made by              the CPU may touch it   the device may touch it
    device     cudaMalloc           no                     at its address
    host       cudaHostAlloc        at its address         no (only copies do)
    mapped     cudaHostAlloc, with  at its address         at its *other* address
               the mapped flag

Mapped memory has two addresses of the same bytes, so that a mix-up of the two is found; on most devices they would be
equal and the mix-up would wait for the one where they are not. What is freed is overwritten and kept until the device
is reset: who still reads it gets wrong numbers and no crash.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["device", "host", "mapped"]

ALIGNMENT = 256
"""Of what cudaMalloc gives."""
FRESH, FREED = 0xA5, 0xDD
"""Bytes of memory that nobody wrote yet, and of memory that was given back: large, and no zeros to hide behind."""
_MAPS = Path("/proc/self/maps")


class FaultError(Exception):
    """What CUDA would answer with an error code. `code` is its name, `cudaErrorIllegalAddress`."""

    def __init__(self, code: str, found: str) -> None:
        self.code = code
        super().__init__(f"{code}: {found}")


@dataclass(frozen=True, eq=False)
class Block:
    """One allocation. pointer: where the device sees it, None where it doesn't; owners keep the bytes alive."""

    kind: Kind
    address: int
    nbytes: int
    pointer: int | None
    owners: tuple[object, ...]

    def fill(self, value: int) -> None:
        """Sets every byte."""
        ctypes.memset(self.address, value, self.nbytes)


class Memory:
    """The table. Sizes are in bytes, addresses real."""

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}
        self._freed: list[Block] = []

    def used(self, *kinds: Kind) -> int:
        """Bytes allocated of these kinds."""
        return sum(block.nbytes for block in self.blocks.values() if block.kind in kinds)

    def allocate(self, nbytes: int, kind: Kind) -> Block:
        """Makes a block, filled with FRESH."""
        make = _aliased if kind == "mapped" else _plain
        block = make(nbytes, kind)
        block.fill(FRESH)
        self.blocks[block.address] = block
        return block

    def free(self, address: int, *kinds: Kind) -> None:
        """Gives a block back.

        Raises:
            FaultError: no block of these kinds begins there (any more).
        """
        block = self.blocks.get(address)
        if block is None or block.kind not in kinds:
            raise FaultError("cudaErrorInvalidValue", f"{address:#x} is no {' or '.join(kinds)} memory")
        del self.blocks[address]
        block.fill(FREED)
        self._freed.append(block)

    def on_device(self, address: int, nbytes: int) -> memoryview:
        """The bytes that a kernel sees at an address: writable, without a copy.

        Raises:
            FaultError: the device can't touch all of them.
        """
        for block in self.blocks.values():
            if block.pointer is not None and _inside(address, nbytes, block.pointer, block.nbytes):
                return _view(address, nbytes)
        raise FaultError("cudaErrorIllegalAddress", f"{nbytes} bytes at {address:#x} are not on the device")

    def on_host(self, address: int, nbytes: int, *, write: bool) -> memoryview:
        """The bytes that the CPU sees at an address: of a host block, or any memory of this process that is no block.

        Raises:
            FaultError: they are device memory, reach beyond their block, or are not there.
        """
        for block in self.blocks.values():
            if block.kind != "device" and _inside(address, nbytes, block.address, block.nbytes):
                return _view(address, nbytes)
            starts = {block.address, block.address if block.pointer is None else block.pointer}
            if any(_touches(address, nbytes, start, block.nbytes) for start in starts):
                raise FaultError("cudaErrorInvalidValue", f"{nbytes} bytes at {address:#x} are not all host memory")
        if any(_touches(address, nbytes, block.address, block.nbytes) for block in self._freed):
            raise FaultError("cudaErrorInvalidValue", f"{nbytes} bytes at {address:#x} were given back")
        if not _in_this_process(address, nbytes, write=write):
            raise FaultError("cudaErrorInvalidValue", f"{nbytes} bytes at {address:#x} are no memory of this process")
        return _view(address, nbytes)

    def is_mapped(self, address: int) -> bool:
        """Whether a device address is host memory that the device sees."""
        return any(
            block.kind == "mapped" and _inside(address, 1, block.pointer or 0, block.nbytes)
            for block in self.blocks.values()
        )


def _plain(nbytes: int, kind: Kind) -> Block:
    owner = ctypes.create_string_buffer(nbytes + ALIGNMENT)
    address = -(-ctypes.addressof(owner) // ALIGNMENT) * ALIGNMENT
    return Block(kind, address, nbytes, address if kind == "device" else None, (owner,))


def _aliased(nbytes: int, kind: Kind) -> Block:
    """One piece of memory at two addresses."""
    file = os.memfd_create("sattn-fake-mapped")
    try:
        os.ftruncate(file, nbytes)
        maps = tuple(mmap.mmap(file, nbytes) for _ in range(2))
    finally:
        os.close(file)
    host, device = (ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in maps)
    return Block(kind, host, nbytes, device, maps)


def _view(address: int, nbytes: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * nbytes).from_address(address)).cast("B")


def _inside(address: int, nbytes: int, start: int, size: int) -> bool:
    return start <= address and address + nbytes <= start + size


def _touches(address: int, nbytes: int, start: int, size: int) -> bool:
    return address < start + size and start < address + nbytes


def _in_this_process(address: int, nbytes: int, *, write: bool) -> bool:
    """Whether the kernel has every byte mapped, as readable (and writable)."""
    wanted, at = "rw" if write else "r", address
    for line in _MAPS.read_text().splitlines():
        span, rights = line.split(maxsplit=2)[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= at < end and all(right in rights for right in wanted):
            at = end
        if at >= address + nbytes:
            return True
    return False
