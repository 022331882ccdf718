"""Meters of boards, on trees of files; and the energy of a window, from power that is known."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sattn_runtime.bench.gauges import Gauge, Sampler
from sattn_runtime.bench.power import Power, power_gauges, power_of, rails_of
from sattn_runtime.bench.tegrastats_meter import Meter, meter
from tests.sattn_runtime.bench.helpers_bench import board, sampled, write


@pytest.mark.parametrize(
    ("name", "basis", "watts", "rails"),
    [
        ("orin-nano", "VDD_IN", 5.0 * 1.2, {"VDD_IN", "VDD_CPU_GPU_CV"}),
        (
            "agx-orin",
            "sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0",
            20 * 0.12 + 20 * 0.04 + 5 * 0.8,
            {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"},
        ),
        ("nano", "POM_5V_IN", 3.129, {"POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"}),
        ("thor", "VIN", 31.5, {"VIN", "VDD_GPU"}),
    ],
)
def test_the_power_of_a_board(tmp_path, name, basis, watts, rails):
    tree = board(name, tmp_path)
    track = sampled(tree, power_gauges(tree))
    found = rails_of(track)
    assert set(found) == rails
    power = power_of(track.at_ns, found)
    assert power is not None
    assert power.basis == basis
    np.testing.assert_allclose(power.watts, watts)


def test_a_board_without_a_meter_tells_none(tmp_path):
    tree = board("orin-nano", tmp_path)
    write(tree, "sys/bus/i2c/devices/1-0040/name", "24c02\n")
    assert power_gauges(tree) == []
    assert power_of(np.array([1]), {}) is None


def power(*points: tuple[float, float]) -> Power:
    at, watts = np.array(points).T
    return Power((at * 1e9).astype(np.int64), watts, "VIN")


def spans(*parts: tuple[float, float]) -> list[tuple[int, int]]:
    return [(round(a * 1e9), round(b * 1e9)) for a, b in parts]


def test_energy_is_the_area_below_the_power_within_the_turns():
    rising = power((0, 0.0), (10, 10.0))  # P = t, so that the energy of a..b is (b2 - a2) / 2
    assert rising.energy(spans((2, 4))) == pytest.approx((6.0, 2.0))
    assert rising.energy(spans((0, 1), (4, 6))) == pytest.approx((0.5 + 10.0, 3.0))
    stepped = power((0, 1.0), (1, 1.0), (1.000001, 5.0), (3, 5.0))
    assert stepped.energy(spans((0.5, 2)))[0] == pytest.approx(0.5 + 5.0, rel=1e-4)
    assert stepped.mean_w(spans((0.5, 2))) == pytest.approx(5.5 / 1.5, rel=1e-4)


def test_a_moment_without_a_reading_is_bridged_and_none_at_all_is_no_energy():
    assert power((0, 2.0), (1, np.nan), (2, 2.0)).energy(spans((0, 2))) == pytest.approx((4.0, 2.0))
    assert power((0, np.nan)).energy(spans((0, 2))) == (0.0, 0.0)
    assert power((0, np.nan)).mean_w(spans((0, 2))) is None


def test_a_sample_sees_what_a_file_says_then(tmp_path):
    tree = board("orin-nano", tmp_path)
    path = "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input"
    track = sampled(tree, power_gauges(tree), lambda: write(tree, path, "2000\n"))
    np.testing.assert_allclose(rails_of(track)["VDD_IN"], [6.0, 10.0])


def test_the_thread_reads_by_itself(tmp_path):
    tree = board("nano", tmp_path)
    sampler = Sampler(tree, power_gauges(tree), interval_s=0.001)
    with sampler:
        while len(sampler.track().at_ns) < 5:
            os.sched_yield()
    track = sampler.track()
    assert (np.diff(track.at_ns) > 0).all()
    count = len(track.at_ns)
    assert len(sampler.track().at_ns) == count  # and stops


def test_files_that_tell_nothing_do_no_harm(tmp_path):
    (tmp_path / "words").write_text("no number")
    (tmp_path / "empty").write_text("")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    tree = board("nano", tmp_path)
    names = ("words", "empty", "folder", "pipe", "missing")
    track = sampled(tree, [Gauge("watt", name, name, 1.0) for name in names])
    assert np.isnan(track.values).all()
    assert track.of_kind("watt") == {}
    (tmp_path / "words").write_text("7\n")  # the control
    assert sampled(tree, [Gauge("watt", "w", "words", 1.0)]).values.tolist() == [[7.0], [7.0]]


def test_no_handle_is_left_open(tmp_path):
    tree = board("agx-orin", tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    sampled(tree, power_gauges(tree))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ------------------------------------------------------------------ tegrastats as the meter

TOOL = """#!/bin/sh
echo nonsense
while :; do echo 'RAM 1/2MB (lfb 1x4MB) CPU [1%@729] VDD_IN 5000mW/4000mW VDD_SOC 1000mW/900mW'; sleep 0.005; done
"""


def test_the_tool_is_read_while_it_runs_and_ended_after(tmp_path):
    tool = tmp_path / "tegrastats"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    with Meter([str(tool)]) as found:
        while len(found.readings()[0]) < 3:
            os.sched_yield()
        process = found._process
    assert process is not None
    assert process.poll() is not None
    at_ns, rails = found.readings()
    assert (np.diff(at_ns) >= 0).all()
    assert set(rails) == {"VDD_IN", "VDD_SOC"}
    seen = power_of(at_ns, rails)
    assert seen is not None
    assert seen.watts.tolist() == [5.0] * len(at_ns)


@pytest.mark.parametrize("command", [None, ["/no/such/tool"]])
def test_a_tool_that_is_not_there_tells_nothing(command):
    with Meter(command) as found:
        pass
    at_ns, rails = found.readings()
    assert len(at_ns) == 0
    assert rails == {}


def test_the_tool_is_run_only_where_it_is_wanted(tmp_path, monkeypatch):
    tool = tmp_path / "tegrastats"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert meter(wanted=False)._command is None
    assert meter(wanted=True)._command == [str(tool), "--interval", "250"]
