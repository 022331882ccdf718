"""What machine it is, read from files: a Jetson, a machine with an NVIDIA driver, or neither."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from sattn_runtime.doctor.facts import CHIPS, Chip, JetPack, Version, dotted, jetpack_of, numbers
from sattn_runtime.doctor.packages import cuda_runtime, read_dpkg, tensorrt_libraries
from sattn_runtime.doctor.tree import Tree

Kind = Literal["jetson", "nvidia", "none"]
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_DRIVER = re.compile(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", re.MULTILINE)


@dataclass(frozen=True)
class Board:
    """A machine as its files tell it; None where they do not.

    kind: `nvidia` has a driver's files and is no Jetson. undriven: has a card of NVIDIA's and no driver for it.
    packages: Debian packages and their versions. tensorrt: of its libraries; cuda: of the toolkit or its runtime.
    """

    kind: Kind
    model: str | None = None
    soc: str | None = None
    l4t: Version | None = None
    driver: str | None = None
    cuda: str | None = None
    tensorrt: str | None = None
    packages: dict[str, str] | None = None
    undriven: bool = False

    @property
    def chip(self) -> Chip | None:
        """What is known of its Tegra."""
        return CHIPS.get(self.soc or "")

    @property
    def jetpack(self) -> JetPack | None:
        """The release its L4T belongs to."""
        return None if self.l4t is None else jetpack_of(self.l4t)

    @property
    def jetpack_name(self) -> str | None:
        """`6.2.1`, as the package `nvidia-jetpack` says, or as its L4T does: `6.2`."""
        said = dotted(numbers((self.packages or {}).get("nvidia-jetpack", "")))
        known = self.jetpack
        if known is not None and said.partition(".")[0] == known.name.partition(".")[0]:
            return said
        return None if known is None else known.name

    def has(self, package: str) -> bool:
        """Whether a Debian package is installed."""
        return package in (self.packages or {})


def read_board(tree: Tree) -> Board:
    """Examines the files of a machine. Nothing that is missing or broken in them is an error."""
    packages = read_dpkg(tree)
    soc, l4t, driver = _soc(tree), _l4t(tree, packages), _driver(tree)
    jetson = soc is not None or l4t is not None
    kind: Kind = "jetson" if jetson else "nvidia" if driver is not None else "none"
    model = tree.line("proc/device-tree/model") or _card(tree) or tree.line("sys/class/dmi/id/product_name")
    cuda, libraries = _cuda(tree, packages), tensorrt_libraries(packages)
    return Board(kind, model, soc, l4t, driver, cuda, libraries, packages, kind == "none" and _has_card(tree))


def _soc(tree: Tree) -> str | None:
    """`tegra234`, of what the device tree says the board is compatible with."""
    names = (tree.text("proc/device-tree/compatible") or "").split("\0")
    return next((name.partition(",")[2] for name in names if name.startswith("nvidia,tegra")), None)


def _l4t(tree: Tree, packages: dict[str, str]) -> Version | None:
    """Of the release file, which some JetPack 7 images lack; else of the package that is always there."""
    if match := _RELEASE.match(tree.text("etc/nv_tegra_release") or ""):
        return (int(match[1][:4]), *numbers(match[2]))
    return numbers(packages.get("nvidia-l4t-core", "")) or None


def _driver(tree: Tree) -> str | None:
    """`570.195.03`, of a kernel module that is loaded."""
    match = _DRIVER.search(tree.text("proc/driver/nvidia/version") or "")
    return None if match is None else match[1]


def _has_card(tree: Tree) -> bool:
    """Whether a display controller (class 0x03....) of NVIDIA's is on the bus."""
    folders = [path.rpartition("/")[0] for path in tree.glob("sys/bus/pci/devices/*/vendor")]
    nvidia = [path for path in folders if tree.line(f"{path}/vendor") == "0x10de"]
    return any((tree.line(f"{path}/class") or "").startswith("0x03") for path in nvidia)


def _card(tree: Tree) -> str | None:
    """The name of a desktop's first GPU."""
    for path in tree.glob("proc/driver/nvidia/gpus/*/information"):
        if match := re.search(r"^Model:\s*(\S.*?)\s*$", tree.text(path) or "", re.MULTILINE):
            return match[1]
    return None


def _cuda(tree: Tree, packages: dict[str, str]) -> str | None:
    text = tree.text("usr/local/cuda/version.json")
    with contextlib.suppress(msgspec.MsgspecError, UnicodeEncodeError):
        return msgspec.json.decode(text or "", type=_Toolkit).cuda.version
    found = cuda_runtime(packages)
    return None if found is None else dotted(found)


class _Part(msgspec.Struct, frozen=True):
    version: str


class _Toolkit(msgspec.Struct, frozen=True):
    """/usr/local/cuda/version.json; each part of the toolkit has an entry, of which one is the whole."""

    cuda: _Part
