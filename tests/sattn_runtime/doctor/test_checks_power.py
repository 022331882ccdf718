"""Power mode and clocks, each check beside what breaks it."""

from __future__ import annotations

import pytest

from tests.sattn_runtime.doctor.helpers_boards import plant
from tests.sattn_runtime.doctor.helpers_cases import diagnosed, told


@pytest.mark.parametrize(
    ("modes", "active", "mend"),
    [
        ("0=MAXN 1=MODE_15W 2=MODE_30W 3=MODE_50W", 0, ""),
        ("0=MAXN 1=MODE_15W 2=MODE_30W 3=MODE_50W", 3, "sudo nvpmodel -m 0"),
        ("0=15W 1=25W 2=MAXN_SUPER 3=7W", 3, "sudo nvpmodel -m 2"),
        ("0=15W 1=25W 2=MAXN_SUPER 3=7W", 2, ""),
        ("0=MAXN 1=25W 2=MAXN_SUPER", 0, "sudo nvpmodel -m 2"),
        ("0=15W 1=7W", 1, "sudo nvpmodel -m 0"),
        ("0=MODE_15W_2CORE 2=MODE_15W_6CORE", 2, ""),  # as many watts: no advice
        ("0=OURS 1=THEIRS", 1, ""),  # names that tell nothing
        ("0=15W", 7, ""),  # a mode that the configuration does not have
    ],
)
def test_the_fastest_mode_goes_by_its_name(tmp_path, modes, active, mend):
    plant("jetpack6.1-agx-orin", tmp_path)
    rows = [mode.split("=") for mode in modes.split()]
    config = "# < POWER_MODEL ID=5 NAME=MAXN_SUPER >\n" + "".join(f"< POWER_MODEL ID={i} NAME={n} >\n" for i, n in rows)
    (tmp_path / "etc/nvpmodel.conf").write_text(config + "< PM_CONFIG DEFAULT=9 >\n")
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    (tmp_path / "var/lib/nvpmodel/status").write_text(f"pmode:{active:04d}")
    assert told(diagnosed(tmp_path), "power mode")[2] == mend


@pytest.mark.parametrize("unlocked", ["gpu", "cpu", None])
def test_clocks_are_locked_where_lowest_is_highest(tmp_path, unlocked):
    plant("jetpack6.1-agx-orin", tmp_path)
    if unlocked == "gpu":
        (tmp_path / "sys/class/devfreq/17000000.ga10b/min_freq").write_text("306000000\n")
    if unlocked == "cpu":
        (tmp_path / "sys/devices/system/cpu/cpu1/cpufreq/scaling_min_freq").write_text("729600\n")
    level, _, mend = told(diagnosed(tmp_path), "clocks")
    assert (level, mend) == (("ok", "") if unlocked is None else ("advice", "sudo jetson_clocks"))
