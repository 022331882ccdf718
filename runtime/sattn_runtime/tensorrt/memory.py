"""How much memory a build may take, and whether the kernel ended it for want of memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
LEAST_WORKSPACE = 16 * MIB
"""TensorRT-RTX 1.7 wants 8.2 MiB for the reference network."""
_SHARE = 2  # of what is available one part goes to the workspace, the rest is the builder's own
_MEMINFO = Path("/proc/meminfo")
_VMSTAT = Path("/proc/vmstat")


@dataclass(frozen=True)
class Workspace:
    """Bytes the compiler may use as scratch, and a note where that is not what was asked for."""

    bytes: int
    note: str = ""


def available_bytes(path: Path = _MEMINFO) -> int:
    """What the kernel says can be had without swapping; 0 where it does not say."""
    try:
        rows = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return 0


def workspace(asked_mib: int | None, free_gpu: int | None, available: int) -> Workspace:
    """The limit of the workspace pool: half of what is available where nothing is asked for, never more than all.

    free_gpu: bytes free on the GPU, None where it shares the board's memory or there is none. available: of the
    board's memory, 0 if not known.
    """
    room = available if free_gpu is None else free_gpu
    if asked_mib is None:
        return Workspace(max(LEAST_WORKSPACE, room // _SHARE))
    asked = asked_mib * MIB
    if room and asked > room:
        return Workspace(room, f"the workspace is limited to the {room // MIB:,} MiB that are free")
    return Workspace(asked)


def oom_kills(path: Path = _VMSTAT) -> int:
    """How often the kernel ended a process for want of memory since it started; -1 where it does not say."""
    try:
        rows = dict(line.split(" ", 1) for line in path.read_text().splitlines() if " " in line)
        return int(rows["oom_kill"])
    except (OSError, KeyError, ValueError):
        return -1
