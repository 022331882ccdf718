"""What is known of Jetson boards and releases, as tables.

Sources: NVIDIA's JetPack archive pages and TensorRT's support matrices (releases), the device tree names of the chips
and CUDA's table of compute capabilities. A release that is not listed is named by its major version only.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, ...]

MIN_PYTHON: Version = (3, 10)
MIN_TENSORRT: Version = (8, 6)
MIN_ONNXRUNTIME: Version = (1, 23)
MIN_NUMPY: Version = (1, 26)


@dataclass(frozen=True)
class JetPack:
    """A release line. cuda, tensorrt, python: what it comes with; extra: of our distribution, for its CUDA."""

    name: str
    cuda: str
    tensorrt: str
    python: str
    extra: str | None = None

    @property
    def supported(self) -> bool:
        """Whether engines can be built on it: its TensorRT has bindings for a Python that we run on."""
        return self.extra is not None


JETPACK_4 = JetPack("4", "10.2", "8.2.1", "3.6")
JETPACK_5 = JetPack("5", "11.4", "8.5.2", "3.8")
JETPACK_6_0 = JetPack("6.0", "12.2", "8.6.2", "3.10", "jetson6")
JETPACK_6 = JetPack("6", "12.6", "10.3", "3.10", "jetson6")
JETPACK_7 = JetPack("7", "13.0", "10.13", "3.12", "jetson7")
JETPACK_7_2 = JetPack("7.2", "13.2", "10.16", "3.12", "jetson7")

# The first L4T of each release, and what it is called; sorted. A later revision of the same line belongs to the last.
_RELEASES: tuple[tuple[Version, str, JetPack], ...] = (
    ((32, 0), "4", JETPACK_4),
    ((32, 7, 1), "4.6", JETPACK_4),
    ((34, 0), "5", JETPACK_5),
    ((35, 0), "5", JETPACK_5),
    ((35, 2, 1), "5.1", JETPACK_5),
    ((36, 0), "6", JETPACK_6_0),
    ((36, 3), "6.0", JETPACK_6_0),
    ((36, 4), "6.1", JETPACK_6),
    ((36, 4, 3), "6.2", JETPACK_6),
    ((38, 0), "7", JETPACK_7),
    ((38, 2), "7.0", JETPACK_7),
    ((38, 4), "7.1", JETPACK_7),
    ((39, 0), "7.2", JETPACK_7_2),
)
NEWEST_L4T = 39


def jetpack_of(l4t: Version) -> JetPack | None:
    """The release with this L4T (`(36, 4, 3)`), or None for a line that is not known here."""
    revision = (*l4t, 0, 0)  # `39` is 39.0
    known = [row for row in _RELEASES if row[0] <= revision and row[0][0] == revision[0]]
    if not known:
        return None
    _, name, line = known[-1]
    return JetPack(name, line.cuda, line.tensorrt, line.python, line.extra)


@dataclass(frozen=True)
class Chip:
    """A Tegra: its family's name, its GPU's compute capability, and the last JetPack for it, None while it goes on."""

    family: str
    compute_capability: str
    last_jetpack: str | None = None


CHIPS = {
    "tegra210": Chip("Jetson Nano or TX1", "5.3", "4"),
    "tegra186": Chip("Jetson TX2", "6.2", "4"),
    "tegra194": Chip("Jetson Xavier", "7.2", "5"),
    "tegra234": Chip("Jetson Orin", "8.7"),
    "tegra264": Chip("Jetson Thor", "11.0"),
}

# The oldest driver of a desktop GPU that runs programs of a CUDA major version (CUDA release notes, table of drivers).
_DRIVERS: tuple[tuple[int, int], ...] = ((450, 11), (525, 12), (580, 13))


def cuda_major_of_driver(driver: str) -> int | None:
    """The newest CUDA major version that a desktop driver (`570.195.03`) runs, or None before CUDA 11."""
    branch = numbers(driver)[:1]
    found = [cuda for oldest, cuda in _DRIVERS if branch and branch[0] >= oldest]
    return found[-1] if found else None


def numbers(text: str) -> Version:
    """The leading numbers of a version: `10.3.0.30-1+cuda12.5` -> `(10, 3, 0, 30)`, `garbage` -> `()`."""
    found: list[int] = []
    for part in text.strip().split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits[:9]))
        if digits != part:
            break
    return tuple(found)


def dotted(version: Version) -> str:
    """`(36, 4, 3)` -> `36.4.3`."""
    return ".".join(str(number) for number in version)
