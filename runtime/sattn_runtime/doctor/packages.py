"""Installed packages: those of the system, and distributions of Python in a copied tree."""

from __future__ import annotations

import re

from sattn_runtime.doctor.facts import Version, dotted, numbers
from sattn_runtime.doctor.tree import Tree

DPKG = "var/lib/dpkg/status"
TENSORRT_BINDINGS = "python3-libnvinfer"  # the Debian package of JetPack's Python module
_DPKG_LIMIT = 64 * 1024 * 1024  # a JetPack's has a few MB
# `libnvinfer10`, not `libnvinfer-dev`, `libnvinfer-plugin10`
_TENSORRT = re.compile(r"libnvinfer\d+")
_CUDA_RUNTIME = re.compile(r"cuda-cudart-(\d+)-(\d+)")
_DISTRIBUTION = re.compile(r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>\d[^-]*)\.(dist|egg)-info")


def read_dpkg(tree: Tree) -> dict[str, str]:
    """Debian packages that are installed -> their versions. Empty where the system has none or can't tell."""
    found: dict[str, str] = {}
    for paragraph in (tree.text(DPKG, _DPKG_LIMIT) or "").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): *(.*?) *$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            found[fields["Package"]] = fields.get("Version", "")
    return found


def tensorrt_libraries(packages: dict[str, str]) -> str | None:
    """The version of TensorRT's libraries, `10.3.0.30`; the newest where several are installed."""
    found = [numbers(version) for name, version in packages.items() if _TENSORRT.fullmatch(name)]
    return dotted(max(found)) if any(found) else None


def cuda_runtime(packages: dict[str, str]) -> Version | None:
    """The CUDA whose runtime library is installed, `(12, 6)`; the newest where several are."""
    matches = [_CUDA_RUNTIME.fullmatch(name) for name in packages]
    return max((tuple(int(part) for part in match.groups()) for match in matches if match), default=None)


def distributions(tree: Tree, folders: list[str]) -> dict[str, str]:
    """Python distributions in folders of a tree, the first folder that has one wins: name -> version."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in tree.glob(f"{folder}/*-info"):
            if match := _DISTRIBUTION.fullmatch(path.rpartition("/")[2]):
                found.setdefault(normalised(match["name"]), match["version"])
    return found


def normalised(name: str) -> str:
    """A distribution's name as pip compares them: `cuda_python` -> `cuda-python`."""
    return re.sub(r"[-_.]+", "-", name).lower()
