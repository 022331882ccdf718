"""Power of a board, from the monitors it has: INA3221 and INA238 of Jetsons, as the kernel shows them.

| kernel | folder | files of a rail |
|---|---|---|
| JetPack 5 and newer | `<i2c device>/hwmon/hwmonN` | `in1_label`, `in1_input` (mV), `curr1_input` (mA) |
| Thor's INA238 | the same | `power1_input` (uW) |
| JetPack 4 | `<i2c device>/iio:deviceN` | `rail_name_0`, `in_power0_input` (mW) |

A rail that feeds the others (VIN, VDD_IN, POM_5V_IN) is the total; where there is none, the sum of the rails is, and
the carrier board is not in it. A rail behind another one is in that one already: on AGX Orin memory (VDDQ_VDD2_1V8AO)
hangs on the 5 V rail. Source: kernel.org, hwmon/ina3221; names of rails and what feeds what: what NVIDIA says of its
boards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_runtime.bench.gauges import Gauge, Track
from sattn_runtime.doctor.tree import Tree

_MONITORS = ("ina3221", "ina238")
_TOTALS = ("VIN", "VDD_IN", "POM_5V_IN")  # the first that a board has
_FED_BY = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_SUM = re.compile(r"\bsum of\b|^NC$", re.IGNORECASE)  # a channel that is no rail: all shunts added, not connected
_CHANNELS = range(1, 4)


@dataclass(frozen=True, eq=False)
class Power:
    """watts float64 [n] of the whole board as far as it tells; basis: `VDD_IN`, or `sum of GPU, CPU, SOC`."""

    at_ns: NDArray[np.int64]
    watts: NDArray[np.float64]
    basis: str

    def mean_w(self, spans: list[tuple[int, int]]) -> float | None:
        """Mean over spans (began, ended) of monotonic ns, each power holding until the next; None without a reading."""
        joules, seconds = self.energy(spans)
        return joules / seconds if seconds else None

    def energy(self, spans: list[tuple[int, int]]) -> tuple[float, float]:
        """(joules, seconds) of spans, by the trapezoidal rule between readings."""
        good = np.isfinite(self.watts)
        at, watts = self.at_ns[good], self.watts[good]
        if not len(at):
            return 0.0, 0.0
        joules = seconds = 0.0
        for began, ended in spans:
            inside = at[(at > began) & (at < ended)]
            points = np.concatenate([[began], inside, [ended]]).astype(np.float64) / 1e9
            height = np.interp(points, at / 1e9, watts)
            joules += float(np.sum(np.diff(points) * (height[1:] + height[:-1]) / 2))
            seconds += (ended - began) / 1e9
        return joules, seconds


def power_gauges(tree: Tree) -> list[Gauge]:
    """The files that tell the power of each rail."""
    gauges = []
    for name in tree.glob("sys/bus/i2c/devices/*/name"):
        if (tree.line(name) or "").lower().startswith(_MONITORS):
            device = name.rpartition("/")[0]
            for folder in tree.glob(f"{device}/hwmon/hwmon*"):
                gauges += _hwmon(tree, folder)
            for folder in tree.glob(f"{device}/iio:device*"):
                gauges += _iio(tree, folder)
    return gauges


def _hwmon(tree: Tree, folder: str) -> list[Gauge]:
    if tree.exists(f"{folder}/power1_input"):
        named = tree.line(f"{folder}/power1_label") or tree.line(f"{folder}/in1_label") or _TOTALS[0]
        return [Gauge("watt", named, f"{folder}/power1_input", 1e-6)]
    gauges = []
    for i in _CHANNELS:
        rail = tree.line(f"{folder}/in{i}_label")
        if rail is None or _SUM.search(rail):
            continue
        gauges.append(Gauge("volt", rail, f"{folder}/in{i}_input", 1e-3))
        gauges.append(Gauge("ampere", rail, f"{folder}/curr{i}_input", 1e-3))
    return gauges


def _iio(tree: Tree, folder: str) -> list[Gauge]:
    rails = [(i, tree.line(f"{folder}/rail_name_{i}")) for i in range(len(_CHANNELS))]
    return [
        Gauge("watt", rail, f"{folder}/in_power{i}_input", 1e-3) for i, rail in rails if rail and not _SUM.search(rail)
    ]


def rails_of(track: Track) -> dict[str, NDArray[np.float64]]:
    """Rail -> watts [n], NaN where nothing was told."""
    rails = track.of_kind("watt")
    ampere = track.of_kind("ampere")
    return {**rails, **{name: volt * ampere[name] for name, volt in track.of_kind("volt").items() if name in ampere}}


def power_of(at_ns: NDArray[np.int64], rails: dict[str, NDArray[np.float64]]) -> Power | None:
    """The board's power from its rails, None where it tells of none."""
    if not rails:
        return None
    for total in _TOTALS:
        if total in rails:
            return Power(at_ns, rails[total], total)
    apart = {name: watts for name, watts in rails.items() if _FED_BY.get(name) not in rails}
    return Power(at_ns, np.sum(list(apart.values()), axis=0), f"sum of {', '.join(apart)}")
