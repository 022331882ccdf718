"""Lines of tegrastats in the forms that JetPack's releases print, written from their documented fields."""

from __future__ import annotations

import pytest

from sattn_edge.errors import InputError
from sattn_runtime.bench.tegrastats import Core, TegraStats, parse_tegrastats

NANO = (
    "RAM 1200/3956MB (lfb 400x4MB) SWAP 3/1978MB (cached 1MB) IRAM 0/252kB(lfb 252kB) "
    "CPU [20%@1479,off,33%@1479,0%@102] EMC_FREQ 0% GR3D_FREQ 34% "
    "PLL@38C CPU@39.5C PMIC@100C thermal@38.75C POM_5V_IN 3129/3001 POM_5V_GPU 160/150"
)
TX1 = "RAM 800/3956MB (lfb 10x4MB) CPU [5%,7%,off,off]@921 EMC_FREQ 12%@1600 GR3D_FREQ 3%@76"
XAVIER = (
    "RAM 2300/15827MB (lfb 2900x4MB) CPU [2%@1190,off] EMC_FREQ 0% GR3D_FREQ 0% Tdiode@28.75C GPU@26C "
    "GPU 465/460 CPU 310/300 SOC 1242/1240 CV 0/0 VDDRQ 0/0 SYS5V 1776/1700"
)
ORIN5 = (
    "07-09-2024 13:31:31 RAM 3100/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 0MB) CPU [23%@1397,17%@1192] "
    "EMC_FREQ 2%@204 GR3D_FREQ 0%@[114] VIC_FREQ 115 APE 150 CV0@-256C AO@45C tj@46.5C "
    "VDD_IN 2763mW/2846mW VDD_CPU_GPU_CV 650mW/670mW NC 0mW/0mW VDD_SOC 650mW/711mW"
)
ORIN7 = (
    "07-25-2026 09:08:28 RAM 20600/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 7%@[1300,1298] NVENC0 off APE 174 cpu@52.968C/52.968C VIN 9871mW"
)
THOR = (
    "01-02-2026 01:02:03 RAM 5000/125772MB (lfb 3x4MB) SWAP 0/0MB (cached 0MB) CPU [0%@972,1%@972] EMC_FREQ 0%@665 "
    "GR3D_FREQ @[1000,1005,1000] gpu@62.906C VDD_GPU 3555mW/3555mW VIN 31500mW/31000mW"
)
THOR_BARE = "RAM 5000/125772MB (lfb 3x4MB) CPU [0%@972] gpu@62.906C VDD_GPU 3555mW/3555mW"


def read(line: str) -> TegraStats:
    return parse_tegrastats(line)


def test_nano():
    found = read(NANO)
    assert found == TegraStats(
        ram_mb=(1200, 3956),
        swap_mb=(3, 1978),
        cores=(Core(20, 1479), None, Core(33, 1479), Core(0, 102)),
        gpu_load=34,
        gpu_mhz=None,
        memory_mhz=None,
        temperature_c={"PLL": 38.0, "CPU": 39.5, "PMIC": 100.0, "thermal": 38.75},
        rails_w={"POM_5V_IN": 3.129, "POM_5V_GPU": 0.16},
    )


def test_one_clock_for_all_cores():
    found = read(TX1)
    assert found.cores == (Core(5, 921), Core(7, 921), None, None)
    assert (found.gpu_load, found.gpu_mhz, found.memory_mhz) == (3, 76, 1600)
    assert found.swap_mb is None
    assert found.rails_w == {}


def test_rails_that_are_called_like_units():
    found = read(XAVIER)
    assert found.rails_w == {"GPU": 0.465, "CPU": 0.31, "SOC": 1.242, "CV": 0.0, "VDDRQ": 0.0, "SYS5V": 1.776}
    assert found.temperature_c == {"Tdiode": 28.75, "GPU": 26.0}


def test_orin_of_jetpack_5_and_6():
    found = read(ORIN5)
    assert (found.gpu_load, found.gpu_mhz, found.memory_mhz) == (0, 114, 204)
    assert found.temperature_c == {"AO": 45.0, "tj": 46.5}  # what is off says -256
    assert found.rails_w == {"VDD_IN": 2.763, "VDD_CPU_GPU_CV": 0.65, "VDD_SOC": 0.65}


def test_orin_of_jetpack_7():
    found = read(ORIN7)
    assert (found.gpu_load, found.gpu_mhz, found.memory_mhz) == (7, 1300, 3199)
    assert found.temperature_c == {"cpu": 52.968}
    assert found.rails_w == {"VIN": 9.871}


def test_thor_tells_a_clock_without_a_load():
    found = read(THOR)
    assert (found.gpu_load, found.gpu_mhz) == (None, 1005)
    assert found.rails_w == {"VDD_GPU": 3.555, "VIN": 31.5}
    bare = read(THOR_BARE)
    assert (bare.gpu_load, bare.gpu_mhz, bare.memory_mhz) == (None, None, None)
    assert bare.rails_w == {"VDD_GPU": 3.555}


def test_a_rail_that_reads_below_nothing():
    """A monitor has an offset: a Thor's GPU at rest."""
    found = read("RAM 1/2MB VDD_GPU -392mW/-392mW VDD_CPU_SOC_MSS 3924mW/3835mW VIN -5mW")
    assert found.rails_w == {"VDD_GPU": -0.392, "VDD_CPU_SOC_MSS": 3.924, "VIN": -0.005}


@pytest.mark.parametrize("line", ["", "\n", "nonsense", "GR3D_FREQ 3%@76 VDD_IN 1mW/1mW", "\x00\xff" * 100])
def test_what_is_no_line_is_refused(line):
    with pytest.raises(InputError, match="tegrastats: a line without RAM"):
        read(line)


@pytest.mark.parametrize("line", [NANO, XAVIER, ORIN5, ORIN7, THOR])
def test_a_line_cut_off_anywhere_is_read_as_far_as_it_goes_or_refused(line):
    whole = read(line)
    for end in range(len(line)):
        try:
            part = read(line[:end])
        except InputError:
            continue
        assert set(part.temperature_c) <= set(whole.temperature_c) | {"CV0"}
        assert len(part.cores) <= len(whole.cores)
