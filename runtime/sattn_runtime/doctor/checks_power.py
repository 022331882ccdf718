"""Power mode and clocks of a Jetson: what a latency was measured in, and what it will vary with."""

from __future__ import annotations

import re

from sattn_runtime.doctor.findings import Case, Finding
from sattn_runtime.doctor.tree import Tree

_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", re.MULTILINE)
_DEFAULT = re.compile(r"^<\s*PM_CONFIG\s+DEFAULT=(\d+)", re.MULTILINE)
_STATUS = re.compile(r"pmode:(\d+)")
# The GPU among the engines that scale: 17000000.ga10b, 17000000.gpu, gpu-gpc-0 and so on, by chip and release.
_GPU = re.compile(r"\.(?:gpu|ga10b|gv11b|gp10b|gm20b)$|^gpu-gpc-")
_MAX_CPUS = 64
_UNLIMITED_W = 10_000  # MAXN, above every mode with a number


def check_power_mode(case: Case) -> Finding | None:
    """The active mode beside the fastest the board has. Ids say nothing: a mode's name does."""
    if case.board.kind != "jetson":
        return None
    modes, active = read_power_modes(case.tree)
    if active is None:
        return case.ok("power mode", "not told by /var/lib/nvpmodel/status or /etc/nvpmodel.conf")
    told = f"{modes[active]} (mode {active})" if active in modes else f"mode {active}"
    fastest = max(modes, key=lambda mode: (_watts(modes[mode]), -mode), default=active)
    if _watts(modes.get(active, "")) >= _watts(modes.get(fastest, "")) or active not in modes:
        return case.ok("power mode", told)
    return case.advice(
        "power mode",
        f"{told}; the fastest here is {modes[fastest]} (mode {fastest})",
        "it caps the clocks of GPU, memory and CPU. Build and measure in the mode you deploy in",
        f"sudo nvpmodel -m {fastest}",
    )


def read_power_modes(tree: Tree) -> tuple[dict[int, str], int | None]:
    """The board's modes by id, and the active one: as it was set last, else the default of its configuration."""
    config = tree.text("etc/nvpmodel.conf") or ""
    modes = {int(found[1][:4]): found[2] for found in _MODE.finditer(config)}
    said = _STATUS.search(tree.text("var/lib/nvpmodel/status") or "") or _DEFAULT.search(config)
    return modes, None if said is None else int(said[1][:4])


def _watts(name: str) -> float:
    """How far a mode lets the board go, by its name: `MAXN_SUPER` above `MAXN` above `25W`, `MODE_30W_ALL` is 30."""
    if name.startswith("MAXN"):
        return _UNLIMITED_W + (name != "MAXN")
    found = re.search(r"(\d+)W", name)
    return float(found[1][:4]) if found else 0.0


def check_clocks(case: Case) -> Finding | None:
    """Whether GPU and CPU stay at their highest clock, as `jetson_clocks` makes them."""
    if case.board.kind != "jetson":
        return None
    gpu = _gpu_clocks(case.tree)
    if gpu is None:
        return case.ok("clocks", "the GPU's are not told under /sys/class/devfreq")
    low, high, now = gpu
    told = f"GPU {_range(low, high)}" + ("" if now is None else f", now {now / 1e6:.0f} MHz" if now else ", now off")
    cpus = _unlocked_cpus(case.tree)
    if low == high and not cpus:
        return case.ok("clocks", f"{told}, locked")
    which = "not locked" if low != high else f"locked, but not those of {cpus} CPU cores"
    return case.advice(
        "clocks",
        f"{told}, {which}",
        "they fall when nothing runs, so that a window after a pause takes longer, and timings of a build scatter. "
        "Locked until the next boot; the board gets warmer",
        "sudo jetson_clocks",
    )


def is_gpu(name: str) -> bool:
    """Whether an entry of /sys/class/devfreq is the GPU's."""
    return _GPU.search(name) is not None


def _range(low: int, high: int) -> str:
    return f"{high / 1e6:.0f} MHz" if low == high else f"{low / 1e6:.0f} to {high / 1e6:.0f} MHz"


def _gpu_clocks(tree: Tree) -> tuple[int, int, int | None] | None:
    """(lowest, highest, current) in Hz of the GPU."""
    for path in tree.glob("sys/class/devfreq/*"):
        if not is_gpu(path.rpartition("/")[2]):
            continue
        low, high = tree.number(f"{path}/min_freq"), tree.number(f"{path}/max_freq")
        if low is not None and high is not None:
            return low, high, tree.number(f"{path}/cur_freq")
    return None


def _unlocked_cpus(tree: Tree) -> int:
    """Cores whose lowest clock is below their highest."""
    count = 0
    for path in tree.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq")[:_MAX_CPUS]:
        low, high = tree.number(f"{path}/scaling_min_freq"), tree.number(f"{path}/scaling_max_freq")
        count += low is not None and high is not None and low < high
    return count
