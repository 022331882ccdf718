"""Releases, versions and drivers."""

from __future__ import annotations

import pytest

from sattn_runtime.doctor.facts import CHIPS, cuda_major_of_driver, dotted, jetpack_of, numbers


@pytest.mark.parametrize(
    ("l4t", "name", "cuda", "tensorrt", "python", "extra"),
    [
        ((32, 7, 6), "4.6", "10.2", "8.2.1", "3.6", None),
        ((35, 1, 0), "5", "11.4", "8.5.2", "3.8", None),
        ((35, 2, 1), "5.1", "11.4", "8.5.2", "3.8", None),
        ((35, 6, 5), "5.1", "11.4", "8.5.2", "3.8", None),
        ((36, 3, 0), "6.0", "12.2", "8.6.2", "3.10", "jetson6"),
        ((36, 4, 0), "6.1", "12.6", "10.3", "3.10", "jetson6"),
        ((36, 4, 2), "6.1", "12.6", "10.3", "3.10", "jetson6"),
        ((36, 4, 3), "6.2", "12.6", "10.3", "3.10", "jetson6"),
        ((36, 5, 2), "6.2", "12.6", "10.3", "3.10", "jetson6"),
        ((38, 2, 0), "7.0", "13.0", "10.13", "3.12", "jetson7"),
        ((38, 4, 0), "7.1", "13.0", "10.13", "3.12", "jetson7"),
        ((39,), "7.2", "13.2", "10.16", "3.12", "jetson7"),
        ((39, 0), "7.2", "13.2", "10.16", "3.12", "jetson7"),
        ((39, 2, 1), "7.2", "13.2", "10.16", "3.12", "jetson7"),
    ],
)
def test_release_of_an_l4t(l4t, name, cuda, tensorrt, python, extra):
    found = jetpack_of(l4t)
    assert found is not None
    assert (found.name, found.cuda, found.tensorrt, found.python, found.extra) == (name, cuda, tensorrt, python, extra)
    assert found.supported == (extra is not None)


@pytest.mark.parametrize("l4t", [(40, 0), (37, 1), (33, 1), (28, 2), (99,), (0, 0)])
def test_a_line_that_is_not_known_is_not_guessed(l4t):
    assert jetpack_of(l4t) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.3.0.30-1+cuda12.5", (10, 3, 0, 30)),
        ("8.6.2.3-1+cuda12.2", (8, 6, 2, 3)),
        ("6.2.2+b24", (6, 2, 2)),
        ("36.4.3-20250107174145", (36, 4, 3)),
        (" 3.10 ", (3, 10)),
        ("2.0rc1", (2, 0)),
        ("rc1", ()),
        ("", ()),
        (".5", ()),
        ("\u0663.1", ()),  # an Arabic digit is none of a version's
        ("1" * 5000, (111111111,)),  # cut, not refused by int()
    ],
)
def test_leading_numbers(text, expected):
    assert numbers(text) == expected


def test_dotted_is_the_way_back():
    assert dotted(numbers("36.4.3")) == "36.4.3"
    assert dotted(()) == ""


@pytest.mark.parametrize(
    ("driver", "major"),
    [
        ("580.95.05", 13),
        ("580.00", 13),
        ("579.99", 12),
        ("570.195.03", 12),
        ("525.60", 12),
        ("524.99", 11),
        ("450.80.02", 11),
        ("449.0", None),
        ("garbage", None),
        ("", None),
    ],
)
def test_cuda_of_a_driver(driver, major):
    assert cuda_major_of_driver(driver) == major


def test_compute_capabilities():
    """NVIDIA's table of CUDA GPUs."""
    assert {soc: chip.compute_capability for soc, chip in CHIPS.items()} == {
        "tegra210": "5.3",
        "tegra186": "6.2",
        "tegra194": "7.2",
        "tegra234": "8.7",
        "tegra264": "11.0",
    }
