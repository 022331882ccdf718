"""The CPU this runs on: its name, and the instructions that decide which integer kernels run."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

# Instructions that make 8-bit products of their own; x86 and ARM.
INTEGER_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_VNNI = {"avx_vnni", "avx512_vnni"}
_X86 = ("x86_64", "amd64", "i686", "i386")
_PROC = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")  # a Jetson says here what it is; its cpuinfo has numbers only


@cache
def cpu_name() -> str:
    """The model's name as the kernel or the firmware tells it; `unknown` where neither does."""
    rows = _rows()
    part = " ".join(rows[key] for key in ("CPU implementer", "CPU part") if key in rows)
    return _board() or rows.get("model name") or part or platform.processor() or "unknown"


@cache
def cpu_features() -> tuple[str, ...]:
    """Those of INTEGER_FEATURES it has, in their order. Empty where the system does not tell."""
    rows = _rows()
    found = set((rows.get("flags") or rows.get("Features") or "").split())
    return tuple(name for name in INTEGER_FEATURES if name in found)


def architecture() -> str:
    """`x86_64`, `aarch64`, ..."""
    return platform.machine()


def int8_saturates() -> bool:
    """Whether u8 x s8 products are added in 16 bits here: x86 without VNNI, or one that does not tell."""
    return architecture().lower() in _X86 and not _VNNI & set(cpu_features())


def _rows() -> dict[str, str]:
    """The first CPU of /proc/cpuinfo."""
    try:
        text = _PROC.read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _board() -> str:
    try:
        return _BOARD.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""
