"""What only a running interpreter can tell, or, of a copied tree, what its files let one expect of it."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from sattn_runtime.doctor.facts import Version
from sattn_runtime.doctor.tree import Tree


@dataclass(frozen=True)
class Interpreter:
    """The Python that the commands run in. prefix: its environment; venv: whether that is a virtual one."""

    version: Version
    prefix: str
    venv: bool = False
    system_packages: bool = True


@dataclass(frozen=True)
class Module:
    """A Python module: its version if it imports (of a tree: if it is where the interpreter looks), else why not."""

    version: str | None = None
    error: str | None = None
    where: str | None = None

    @property
    def usable(self) -> bool:
        """Whether it imports."""
        return self.version is not None


@dataclass(frozen=True)
class Gpu:
    """What a call of CUDA gave: a device, or the error with its CUDA name (`cudaErrorNoDevice`) where it has one."""

    name: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    adapter: str | None = None
    error: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class StoreFolder:
    """The engine store's folder. path None: there is no home for one. The rest is of what stands there, or would.

    ours: belongs to this user or root, None where that can't be told (a copied tree). free_bytes likewise.
    open_inside: what lies in it and others can write.
    """

    path: str | None
    exists: bool = False
    folder: bool = True
    ours: bool | None = None
    others_write: bool = False
    open_inside: tuple[str, ...] = ()
    writable: bool | None = None
    free_bytes: int | None = None


@dataclass(frozen=True)
class Probe:
    """Everything asked of an interpreter. gpu None: no call was made. denied: device files this user may not open.

    distributions: installed Python distributions by normalised name, of those that matter here.
    """

    live: bool
    python: Interpreter | None
    store: StoreFolder
    tensorrt: Module = field(default_factory=Module)
    tensorrt_rtx: Module = field(default_factory=Module)
    distributions: Mapping[str, str] = field(default_factory=dict)
    gpu: Gpu | None = None
    denied: tuple[str, ...] = ()


OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH  # what the engine store refuses


def open_inside(tree: Tree, store: str) -> tuple[str, ...]:
    """Engines' folders in a store, and files in those, that others can write."""
    found = []
    for folder in tree.children(store):
        for path in (folder, *tree.children(folder)):
            status = tree.status(path)
            if status is not None and status.st_mode & OTHERS_WRITE:
                found.append(path)
    return tuple(found)


# Of these the versions are told; cuda-python 12 and newer is a shell around cuda-bindings.
DISTRIBUTIONS = ("sattn-edge", "onnxruntime", "numpy", "cuda-python", "cuda-bindings", "pycuda")
