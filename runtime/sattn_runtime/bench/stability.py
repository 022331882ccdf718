"""Whether a run can be called stable: whether the device was the same from its beginning to its end.

A latency that was measured while clocks moved is that of no clock at all. So each thing that speaks against a run is
named; and where a device does not tell its clocks, nothing is claimed either way.
"""

from __future__ import annotations

import numpy as np

from sattn_runtime.bench.gauges import Track
from sattn_runtime.bench.results import Clock, Context, Stability

# How far a clock may be below its highest. Readings of x86 clocks are means of counters: they scatter by a percent.
CLOCK_SPREAD = 0.05
# CPU time that others may take, as a part of all cores this process may use; and what a hypervisor may.
OTHERS = 0.10
STOLEN = 0.02
_TICKS_S = 0.02  # the kernel counts a core's time in ticks of 10 ms, at both ends


def judge(before: Context, after: Context, track: Track, elapsed_s: float, *, on_gpu: bool) -> Stability:
    """Holds the two ends, `elapsed_s` apart, and what was told between them, against each other.

    on_gpu: an engine ran there.
    """
    reasons = [*_clocks(before, track, on_gpu), *_settings(before, after, on_gpu), *_heat(before, after, track)]
    reasons += _load(before, after, elapsed_s)
    not_told = []
    if not before.cpu_clocks or not track.of_kind("cpu"):
        not_told.append("CPU clocks")
    if on_gpu and not track.of_kind("gpu"):
        not_told.append("GPU clocks")
    blind = bool(not_told)
    if not before.temperature_c:
        not_told.append("temperature")
    if before.busy_s is None:
        not_told.append("the load of others")
    stable = False if reasons else None if blind else True
    return Stability(stable, tuple(reasons), tuple(not_told))


def _clocks(before: Context, track: Track, on_gpu: bool) -> list[str]:
    """The highest CPU clock of every moment, since a core that has nothing to do slows down; and the GPU's."""
    lock = "sudo jetson_clocks" if before.jetpack else "sudo cpupower frequency-set -g performance"
    reasons = []
    cores = track.of_kind("cpu")
    if cores:
        reasons += _moved("CPU", np.fmax.reduce(np.array(list(cores.values()))), lock)
    if on_gpu:
        for clock in track.of_kind("gpu").values():
            reasons += _moved("GPU", clock, lock)
    return reasons


def _moved(what: str, clock_mhz: np.ndarray[tuple[int, ...], np.dtype[np.float64]], lock: str) -> list[str]:
    # A moment without a reading tells nothing; a clock that is off says 0.
    low, high = float(np.nanmin(clock_mhz)), float(np.nanmax(clock_mhz))
    if high - low <= CLOCK_SPREAD * high:
        return []
    return [f"the {what} clock moved between {low:.0f} and {high:.0f} MHz; lock it: {lock}"]


def _settings(before: Context, after: Context, on_gpu: bool) -> list[str]:
    reasons = []
    if before.power_mode != after.power_mode:
        reasons.append(f"the power mode changed from {before.power_mode} to {after.power_mode}")
    if before.cpus != after.cpus:
        reasons.append(f"the cores to run on changed from {before.cpus} to {after.cpus}")
    pairs = [("CPU", _limits(before.cpu_clocks), _limits(after.cpu_clocks))]
    if on_gpu:
        gpus = [() if context.gpu_clock is None else (context.gpu_clock,) for context in (before, after)]
        pairs.append(("GPU", _limits(gpus[0]), _limits(gpus[1])))
    return reasons + [f"governor or limits of the {what} clock changed" for what, was, now in pairs if was != now]


def _limits(clocks: tuple[Clock, ...]) -> list[tuple[str, float | None, float | None, str | None]]:
    return [(clock.name, clock.min_mhz, clock.max_mhz, clock.governor) for clock in clocks]


def _heat(before: Context, after: Context, track: Track) -> list[str]:
    reasons = []
    for how, count in after.throttled.items():
        if count > before.throttled.get(how, 0):
            reasons.append(f"throttled {how}, {count - before.throttled.get(how, 0)} times")
    seen = {name for name, state in track.of_kind("cooling").items() if np.nanmax(state) > 0}
    cooling = sorted(seen | set(before.cooling) | set(after.cooling))
    if cooling:
        reasons.append(f"slowed down by heat: {', '.join(cooling)}")
    return reasons


def _load(before: Context, after: Context, elapsed_s: float) -> list[str]:
    reasons = []
    if before.busy_s is None or after.busy_s is None or elapsed_s <= 0:
        return []
    room_s = elapsed_s * before.cpus
    others_s = after.busy_s - before.busy_s - (after.own_s - before.own_s) - _TICKS_S * before.cpus
    if others_s > OTHERS * room_s:
        reasons.append(f"other processes took {others_s / elapsed_s:.2f} of {before.cpus} cores; stop them")
    stolen_s = (after.stolen_s or 0.0) - (before.stolen_s or 0.0)
    if stolen_s > STOLEN * room_s:
        reasons.append(f"the hypervisor took {stolen_s / room_s:.0%} of the cores' time")
    return reasons
