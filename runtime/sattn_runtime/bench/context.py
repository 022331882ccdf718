"""The device a benchmark runs on, at one moment: what its latency was measured in."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime, timezone

from sattn_edge.cpu import cpu_name
from sattn_runtime.bench.gauges import Gauge
from sattn_runtime.bench.power import power_gauges
from sattn_runtime.bench.results import Clock, Context
from sattn_runtime.doctor.board import Board, read_board
from sattn_runtime.doctor.checks_power import is_gpu, read_power_modes
from sattn_runtime.doctor.tree import Tree

_POLICIES = "sys/devices/system/cpu/cpufreq/policy*"
_PER_CPU = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
_MOST_CLOCKS = 64
_MOST_ZONES = 32
# Cooling that costs no speed, and what only reports.
_FAN = re.compile(r"fan", re.IGNORECASE)
_CPU_LINE = re.compile(r"^cpu +(.*)$", re.MULTILINE)
_IDLE, _WAITING, _STOLEN, _GUEST = 3, 4, 7, 8  # places in that line, as proc(5) has them
_KHZ, _HZ, _MILLI = 1e-3, 1e-6, 1e-3


def read_context(tree: Tree) -> Context:
    """Reads it. Nothing that a machine does not tell is an error."""
    board = read_board(tree)
    busy, stolen = _cpu_times(tree)
    times = os.times()
    return Context(
        at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        machine=board.model,
        architecture=platform.machine(),
        cpu=_cpu(tree, board),
        cpus=len(os.sched_getaffinity(0)),
        kernel=tree.line("proc/sys/kernel/osrelease") or "unknown",
        jetpack=board.jetpack_name,
        power_mode=_power_mode(tree),
        cpu_clocks=tuple(_clock(tree, folder) for folder in _cpu_folders(tree)),
        gpu_clock=_gpu_clock(tree),
        temperature_c=_temperatures(tree),
        throttled=_throttled(tree),
        cooling=_cooling(tree),
        load_1min=_load(tree),
        busy_s=busy,
        stolen_s=stolen,
        own_s=times.user + times.system + times.children_user + times.children_system,
    )


def gauges(tree: Tree) -> list[Gauge]:
    """What of it is read while a benchmark runs."""
    clocks = _cpu_folders(tree)
    found = [Gauge("cpu", _clock_name(folder), f"{folder}/scaling_cur_freq", _KHZ) for folder in clocks]
    gpu = _gpu_folder(tree)
    if gpu is not None:
        found.append(Gauge("gpu", gpu.rpartition("/")[2], f"{gpu}/cur_freq", _HZ))
    found += [Gauge("temperature", name, f"{zone}/temp", _MILLI) for zone, name in _zones(tree)]
    found += [Gauge("cooling", name, f"{device}/cur_state", 1.0) for device, name in _coolers(tree)]
    return found + power_gauges(tree)


def _cpu(tree: Tree, board: Board) -> str:
    if tree.live:
        return cpu_name()
    found = re.search(r"^model name\s*:\s*(.+)$", tree.text("proc/cpuinfo") or "", re.MULTILINE)
    return found[1].strip() if found else board.model or "unknown"


def _power_mode(tree: Tree) -> str | None:
    modes, active = read_power_modes(tree)
    return None if active is None else modes.get(active, f"mode {active}")


# -- clocks


def _cpu_folders(tree: Tree) -> list[str]:
    """A folder for each group of cores that share a clock, of those this process may run on."""
    folders = tree.glob(_POLICIES) or tree.glob(_PER_CPU)
    mine = os.sched_getaffinity(0) if tree.live else set()
    kept = [f for f in folders if not mine or mine & (_cores(tree, f) or mine)]
    return kept[:_MOST_CLOCKS]


def _clock_name(folder: str) -> str:
    """`policy0`, or `cpu0` where each core has a folder."""
    *_, core, last = folder.split("/")
    return core if last == "cpufreq" else last


def _cores(tree: Tree, folder: str) -> set[int] | None:
    words = (tree.line(f"{folder}/affected_cpus") or "").split()
    return {int(word) for word in words if word.isdigit()} or None


def _clock(tree: Tree, folder: str) -> Clock:
    low, high, now = (tree.number(f"{folder}/scaling_{what}_freq") for what in ("min", "max", "cur"))
    governor = tree.line(f"{folder}/scaling_governor")
    return Clock(_clock_name(folder), _mhz(low, _KHZ), _mhz(high, _KHZ), _mhz(now, _KHZ), governor)


def _gpu_folder(tree: Tree) -> str | None:
    return next((p for p in tree.glob("sys/class/devfreq/*") if is_gpu(p.rpartition("/")[2])), None)


def _gpu_clock(tree: Tree) -> Clock | None:
    folder = _gpu_folder(tree)
    if folder is None:
        return None
    low, high, now = (tree.number(f"{folder}/{what}_freq") for what in ("min", "max", "cur"))
    name = folder.rpartition("/")[2]
    return Clock(name, _mhz(low, _HZ), _mhz(high, _HZ), _mhz(now, _HZ), tree.line(f"{folder}/governor"))


def _mhz(value: int | None, scale: float) -> float | None:
    return None if value is None else round(value * scale, 3)


# -- heat


def _zones(tree: Tree) -> list[tuple[str, str]]:
    """(folder, name) of what measures a temperature; a name that stands twice gets its number."""
    zones = tree.glob("sys/class/thermal/thermal_zone*")[:_MOST_ZONES]
    named = [(zone, tree.line(f"{zone}/type") or "zone") for zone in zones]
    return _unlike(named)


def _unlike(named: list[tuple[str, str]]) -> list[tuple[str, str]]:
    names = [name for _, name in named]
    return [(at, name if names.count(name) == 1 else f"{name} {at.rstrip('/')[-1]}") for at, name in named]


def _temperatures(tree: Tree) -> dict[str, float]:
    found = {name: tree.number(f"{zone}/temp") for zone, name in _zones(tree)}
    return {name: value * _MILLI for name, value in found.items() if value is not None}


def _coolers(tree: Tree) -> list[tuple[str, str]]:
    devices = tree.glob("sys/class/thermal/cooling_device*")[:_MOST_ZONES]
    named = [(device, tree.line(f"{device}/type") or "cooling") for device in devices]
    return _unlike([(device, name) for device, name in named if not _FAN.search(name)])


def _cooling(tree: Tree) -> dict[str, int]:
    found = {name: tree.number(f"{device}/cur_state") for device, name in _coolers(tree)}
    return {name: state for name, state in found.items() if state}


def _throttled(tree: Tree) -> dict[str, int]:
    """Events since boot: of x86 cores by heat, of Jetsons by current (the counters of their over-current alarms)."""
    found = {}
    heat = [tree.number(p) for p in tree.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")]
    if heat:
        found["by heat"] = sum(count or 0 for count in heat)
    alarms = [tree.number(path) for path in tree.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")]
    if alarms:
        found["by current"] = sum(count or 0 for count in alarms)
    return found


# -- load


def _load(tree: Tree) -> float | None:
    words = (tree.line("proc/loadavg") or "").split()
    try:
        return float(words[0])
    except (IndexError, ValueError):
        return None


def _cpu_times(tree: Tree) -> tuple[float | None, float | None]:
    """(busy, stolen by the hypervisor) seconds of all cores together since boot."""
    line = _CPU_LINE.search(tree.text("proc/stat", limit=1 << 20) or "")
    try:
        ticks = [int(word) for word in line[1].split()] if line else []
    except ValueError:
        ticks = []
    if len(ticks) <= _STOLEN:
        return None, None
    a_second = os.sysconf("SC_CLK_TCK")
    # Guests are in user and nice already.
    idle = ticks[_IDLE] + ticks[_WAITING] + ticks[_STOLEN]
    return (sum(ticks[:_GUEST]) - idle) / a_second, ticks[_STOLEN] / a_second
