"""Lines of `tegrastats`, the tool that every JetPack has, in the forms it has had.

    RAM 2015/3964MB (lfb 98x4MB) SWAP 29/1982MB (cached 3MB) CPU [6%@102,off] EMC_FREQ 0% GR3D_FREQ 34%@76 ...
        CPU@31.5C PMIC@100C POM_5V_IN 1388/1390 POM_5V_GPU 122/122                        JetPack 4, TX2 and Nano
        GPU 465/465 CPU 310/310 SOC 1242/1242                                             JetPack 4, AGX Xavier
    MM-DD-YYYY hh:mm:ss RAM ... GR3D_FREQ 0%@[305] ... tj@49.3C VDD_IN 5251mW/8535mW      JetPack 5 and 6
    MM-DD-YYYY hh:mm:ss RAM ... GR3D_FREQ 0%@[1300,1300] ... cpu@52.9C/52.9C VIN 9871mW   JetPack 7 on Orin
    MM-DD-YYYY hh:mm:ss RAM ... GR3D_FREQ @[1000,1000,1000] ... VDD_GPU 3555mW/3555mW     JetPack 7, Thor

Each field is looked for by itself: what a release leaves out is None or missing, what it adds is passed over. After
NVIDIA's developer guide (tegrastats utility) and what boards were reported to print.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sattn_edge.errors import InputError

_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_SWAP = re.compile(r"\bSWAP (\d+)/(\d+)MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\](?:@(\d+))?")
_CORE = re.compile(r"(\d+)%(?:@(\d+))?")
_ENGINE = re.compile(r"\b(EMC_FREQ|GR3D_FREQ) (?:(\d+)%)?(?:@(?:\[([\d,]*)\]|(\d+)))?")
_TEMPERATURE = re.compile(r"(?<![\w.@])([A-Za-z][\w.-]*)@(-?\d+(?:\.\d+)?)C(?:/-?\d+(?:\.\d+)?C)?(?!\w)")
_RAIL = re.compile(r"(?<![\w@/])([A-Za-z][A-Za-z0-9_]*) (-?\d+)(?:mW)?/(-?\d+)(?:mW)?(?![\w/])")
_LONE_RAIL = re.compile(r"(?<![\w@/])([A-Za-z][A-Za-z0-9_]*) (-?\d+)mW(?![\w/])")
_ABSENT_C = -256.0  # what a sensor of a part that is off says
_NO_RAILS = ("NC", "RAM", "SWAP", "IRAM")


@dataclass(frozen=True)
class Core:
    """A CPU core that is on: its load in percent, its clock where it is told."""

    load: int
    mhz: int | None


@dataclass(frozen=True)
class TegraStats:
    """One line. cores: None is a core that is off. gpu_mhz: the fastest of its parts. rails_w: what each draws now."""

    ram_mb: tuple[int, int]
    swap_mb: tuple[int, int] | None
    cores: tuple[Core | None, ...]
    gpu_load: int | None
    gpu_mhz: int | None
    memory_mhz: int | None
    temperature_c: dict[str, float]
    rails_w: dict[str, float]


def parse_tegrastats(line: str) -> TegraStats:
    """One line as data.

    Raises:
        InputError: it has no `RAM`, which a line of tegrastats begins with.
    """
    ram = _RAM.search(line)
    if ram is None:
        raise InputError("tegrastats", f"a line without RAM: '{line.strip()[:60]}'", "a line as tegrastats prints it")
    swap = _SWAP.search(line)
    engines = {found[1]: found for found in _ENGINE.finditer(line)}
    gpu = engines.get("GR3D_FREQ")
    return TegraStats(
        ram_mb=(int(ram[1]), int(ram[2])),
        swap_mb=None if swap is None else (int(swap[1]), int(swap[2])),
        cores=_cores(line),
        gpu_load=None if gpu is None or gpu[2] is None else int(gpu[2]),
        gpu_mhz=_clock(gpu),
        memory_mhz=_clock(engines.get("EMC_FREQ")),
        temperature_c={
            found[1]: float(found[2]) for found in _TEMPERATURE.finditer(line) if float(found[2]) != _ABSENT_C
        },
        rails_w=_rails(line),
    )


def _cores(line: str) -> tuple[Core | None, ...]:
    """`[6%@102,off]`, and `[6%,off]@102` where all have one clock."""
    found = _CPU.search(line)
    if found is None:
        return ()
    cores: list[Core | None] = []
    for text in found[1].split(","):
        core = _CORE.fullmatch(text.strip())
        if core is None:
            cores.append(None)
        else:
            clock = core[2] or found[2]
            cores.append(Core(int(core[1]), None if clock is None else int(clock)))
    return tuple(cores)


def _clock(engine: re.Match[str] | None) -> int | None:
    """`@1300` or the fastest of `@[1300,1298]`."""
    if engine is None:
        return None
    if engine[4] is not None:
        return int(engine[4])
    parts = [int(part) for part in (engine[3] or "").split(",") if part]
    return max(parts, default=None)


def _rails(line: str) -> dict[str, float]:
    """Rails in watts; the second number of a pair is a mean since the tool began, which is nobody's run.

    A monitor's offset can make one negative: a Thor's GPU at rest says -392 mW.
    """
    pairs = [*_RAIL.finditer(line), *_LONE_RAIL.finditer(line)]
    return {found[1]: int(found[2]) / 1000 for found in pairs if found[1] not in _NO_RAILS}
