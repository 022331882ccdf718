"""What speaks against a run, each thing beside a control in which it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sattn_runtime.bench.context import gauges, read_context
from sattn_runtime.bench.gauges import Gauge, Track
from sattn_runtime.bench.results import Clock, Context, Stability
from sattn_runtime.bench.stability import judge
from tests.sattn_runtime.bench.helpers_bench import board, context, sampled, write

BEFORE = context()


def track(**kinds: list[list[float]]) -> Track:
    """kind -> for each moment the value of each gauge."""
    rows = {kind: np.array(values, np.float64) for kind, values in {"cpu": [[1000.0]] * 3, **kinds}.items()}
    made = tuple(Gauge(k, f"{k}{i}", "", 1.0) for k, v in rows.items() for i in range(v.shape[1]))
    return Track(made, np.arange(3), np.concatenate(list(rows.values()), axis=1))


def verdict(after: Context = BEFORE, seen: Track | None = None, **options: Any) -> Stability:
    before = options.pop("before", BEFORE)
    return judge(before, after, seen or track(), options.pop("elapsed_s", 10.0), on_gpu=options.pop("on_gpu", False))


def test_a_device_that_stayed_the_same_is_stable():
    assert verdict() == Stability(True, (), ())


@pytest.mark.parametrize(("low", "stable"), [(951.0, True), (949.0, False)])
def test_a_clock_that_moved(low, stable):
    found = verdict(seen=track(cpu=[[1000.0], [low], [1000.0]]))
    assert found.stable is stable
    if not stable:
        assert found.reasons == (
            "the CPU clock moved between 949 and 1000 MHz; lock it: sudo cpupower frequency-set -g performance",
        )


def test_on_a_jetson_the_command_is_its_own():
    jetson = context(jetpack="6.2")
    assert "sudo jetson_clocks" in verdict(jetson, track(cpu=[[1000.0], [500.0], [500.0]]), before=jetson).reasons[0]


def test_a_core_that_rests_is_no_clock_that_moved():
    """What counts is the highest at each moment: the one that works."""
    assert verdict(seen=track(cpu=[[1000.0, 400.0], [400.0, 1000.0], [1000.0, 1000.0]])).stable


def test_a_moment_without_a_reading_is_no_clock_that_moved():
    lost = float("nan")
    assert verdict(seen=track(cpu=[[1000.0, 1000.0], [lost, lost], [lost, 1000.0]])).stable
    assert not verdict(seen=track(cpu=[[1000.0, 1000.0], [lost, lost], [lost, 500.0]])).stable
    assert verdict(seen=track(gpu=[[900.0], [lost], [900.0]]), on_gpu=True).stable
    assert not verdict(seen=track(gpu=[[900.0], [0.0], [900.0]]), on_gpu=True).stable  # off is told


def test_the_gpus_clock_counts_where_the_gpu_is_used():
    moved = track(gpu=[[900.0], [300.0], [0.0]])
    assert verdict(seen=moved).stable
    assert not verdict(seen=moved, on_gpu=True).stable
    assert verdict(seen=track(gpu=[[900.0]] * 3), on_gpu=True).stable
    assert verdict(on_gpu=True) == Stability(None, (), ("GPU clocks",))


def test_a_device_that_does_not_tell_its_clocks_is_not_called_stable():
    blind = context(cpu_clocks=(), temperature_c={}, busy_s=None)
    nothing = Track()
    assert verdict(blind, nothing, before=blind) == Stability(
        None, (), ("CPU clocks", "temperature", "the load of others")
    )
    throttled = context(cpu_clocks=(), throttled={"by heat": 1})
    assert verdict(throttled, nothing, before=blind).stable is False


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"power_mode": "25W"}, "the power mode changed from 15W to 25W"),
        ({"cpus": 2}, "the cores to run on changed from 4 to 2"),
        ({"throttled": {"by heat": 3}}, "throttled by heat, 3 times"),
        ({"cooling": {"cpu-throttle-alert": 1}}, "slowed down by heat: cpu-throttle-alert"),
        (
            {"cpu_clocks": (Clock("policy0", 1000.0, 1000.0, 1000.0, "powersave"),)},
            "governor or limits of the CPU clock changed",
        ),
        (
            {"cpu_clocks": (Clock("policy0", 800.0, 1000.0, 1000.0, "performance"),)},
            "governor or limits of the CPU clock changed",
        ),
    ],
)
def test_what_changed_between_the_ends(change, reason):
    assert verdict(context(**change)) == Stability(False, (reason,), ())


def test_cooling_that_was_seen_between_the_ends():
    assert verdict(seen=track(cooling=[[0.0], [1.0], [0.0]])).reasons == ("slowed down by heat: cooling0",)
    assert verdict(seen=track(cooling=[[0.0]] * 3)).stable


@pytest.mark.parametrize(("busy_s", "stable"), [(10.0 + 4.0, True), (10.0 + 4.2, False)])
def test_the_load_of_others(busy_s, stable):
    """Of 40 core seconds this process took 10; others may take 4."""
    found = verdict(context(busy_s=100.0 + busy_s, own_s=11.0))
    assert found.stable is stable
    if not stable:
        assert found.reasons == ("other processes took 0.41 of 4 cores; stop them",)


@pytest.mark.parametrize(("stolen_s", "stable"), [(0.7, True), (0.9, False)])
def test_what_a_hypervisor_took(stolen_s, stable):
    assert verdict(context(stolen_s=stolen_s)).stable is stable


# ------------------------------------------------------------------ the context itself


def test_a_boards_context(tmp_path):
    found = read_context(board("orin-nano", tmp_path))
    assert found.cpu_clocks == (Clock("policy0", 1344.0, 1344.0, 1344.0, "schedutil"),)
    assert found.temperature_c == {"cpu-thermal": pytest.approx(48.562), "tj-thermal": pytest.approx(49.312)}
    assert found.throttled == {"by current": 3}
    assert found.cooling == {}  # a fan costs no speed
    assert (found.busy_s, found.stolen_s) == (pytest.approx(15.1), pytest.approx(0.2))
    assert (found.load_1min, found.kernel) == (0.31, "5.15.148-tegra")


def test_a_board_that_slows_down(tmp_path):
    tree = board("orin-nano", tmp_path)
    before = read_context(tree)
    write(tree, "sys/class/thermal/cooling_device1/cur_state", "1\n")
    write(tree, "sys/class/hwmon/hwmon5/oc1_event_cnt", "7\n")
    found = judge(before, read_context(tree), Track(), 10.0, on_gpu=False)
    assert "throttled by current, 5 times" in found.reasons
    assert "slowed down by heat: cpu-throttle-alert" in found.reasons


def test_a_boards_clock_that_moves_is_seen_by_the_gauges(tmp_path):
    tree = board("orin-nano", tmp_path)
    before = read_context(tree)
    path = "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq"
    still = judge(before, before, sampled(tree, gauges(tree)), 10.0, on_gpu=False)
    moved = judge(
        before, before, sampled(tree, gauges(tree), lambda: write(tree, path, "729600\n")), 10.0, on_gpu=False
    )
    assert still.stable
    assert not moved.stable
    assert "between 730 and 1344 MHz" in moved.reasons[0]


def test_an_empty_tree_tells_nothing_and_breaks_nothing(tmp_path):
    found = read_context(board("nano", tmp_path))
    assert (found.cpu_clocks, found.gpu_clock, found.power_mode, found.busy_s) == ((), None, None, None)


@pytest.mark.parametrize("text", ["", "cpu", "cpu  1 2 x 4 5 6 7 8", "cpu  1 2 3"])
def test_times_that_can_not_be_read_are_not_told(tmp_path, text):
    tree = board("orin-nano", tmp_path)
    write(tree, "proc/stat", text)
    assert read_context(tree).busy_s is None


def test_this_machine_is_not_called_stable_without_reason(kept):
    """Whatever it is: the verdict follows from what is told."""
    said = kept.stability
    assert said.stable is (False if said.reasons else None if "CPU clocks" in said.not_told else True)
