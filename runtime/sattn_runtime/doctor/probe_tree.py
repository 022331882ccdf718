"""The probe of a copied tree: its virtual environment or its system's Python, by their files."""

from __future__ import annotations

import stat

from sattn_runtime.doctor.facts import Version, dotted, numbers
from sattn_runtime.doctor.packages import distributions
from sattn_runtime.doctor.probe import DISTRIBUTIONS, OTHERS_WRITE, Interpreter, Module, Probe, StoreFolder, open_inside
from sattn_runtime.doctor.tree import Tree

# Where people put them; the first that has sattn-edge in it is the one.
_HOMES = ("home/*", "home/*/*", "home/*/*/*", "root/*", "opt/*", "opt/*/*", "srv/*")
_STORES = ("home/*/.cache/sattn-edge/engines", "root/.cache/sattn-edge/engines")


def tree_probe(tree: Tree) -> Probe:
    """What the files of a copied tree say of the interpreter there."""
    python = _environment(tree) or _system(tree)
    folders = [] if python is None else _folders(python)
    found = distributions(tree, folders)
    return Probe(
        live=False,
        python=python,
        store=_store(tree),
        tensorrt=_module(tree, folders, "tensorrt", found),
        tensorrt_rtx=_module(tree, folders, "tensorrt_rtx", found),
        distributions={name: found[name] for name in DISTRIBUTIONS if name in found},
    )


def _environment(tree: Tree) -> Interpreter | None:
    for home in _HOMES:
        for path in tree.glob(f"{home}/pyvenv.cfg"):
            folder = path.rpartition("/")[0]
            if tree.glob(f"{folder}/lib/python3.*/site-packages/sattn_edge-*.dist-info"):
                return _interpreter(tree.text(path) or "", folder)
    return None


def _interpreter(config: str, folder: str) -> Interpreter | None:
    pairs = (line.partition("=") for line in config.splitlines())
    said = {key.strip().lower(): value.strip() for key, _, value in pairs}
    version = numbers(said.get("version", said.get("version_info", "")))
    system = said.get("include-system-site-packages", "").lower() == "true"
    return Interpreter(version, folder, venv=True, system_packages=system) if len(version) > 1 else None


def _system(tree: Tree) -> Interpreter | None:
    """`usr/bin/python3` is a link to `python3.10`."""
    version = numbers((tree.link("usr/bin/python3") or "").rpartition("/")[2].removeprefix("python"))
    return Interpreter(version, "/usr") if len(version) > 1 else None


def _folders(python: Interpreter) -> list[str]:
    """Where an interpreter looks for modules, in its order."""
    minor = dotted(python.version[:2])
    own = [f"{python.prefix}/lib/python{minor}/site-packages"] if python.venv else []
    shared = [f"usr/local/lib/python{minor}/dist-packages", "usr/lib/python3/dist-packages"]
    # Debian keeps modules of one minor version apart only where they are binaries, as tensorrt's are.
    return own + ([*shared, f"usr/lib/python{minor}/dist-packages"] if python.system_packages else [])


def _module(tree: Tree, folders: list[str], name: str, found: dict[str, str]) -> Module:
    for folder in folders:
        if tree.exists(f"{folder}/{name}"):
            return Module(found.get(name.replace("_", "-"), "unknown"), where=f"/{folder.lstrip('/')}")
    return Module(error="not where this Python looks")


def system_module(tree: Tree, name: str) -> Version | None:
    """The Python `(3, 10)` whose system folder holds a binary module, None where none does."""
    paths = tree.glob(f"usr/lib/python3.*/dist-packages/{name}")
    versions = [numbers(path.split("/")[3].removeprefix("python")) for path in paths]
    return max(versions, default=None)


def _store(tree: Tree) -> StoreFolder:
    """The first user's that has one. Owners and free room mean nothing in a copy."""
    paths = [path for pattern in _STORES for path in tree.glob(pattern)]
    if not paths:
        return StoreFolder("~/.cache/sattn-edge/engines")
    found = tree.status(paths[0])
    mode = 0 if found is None else found.st_mode
    return StoreFolder(
        paths[0],
        exists=True,
        folder=stat.S_ISDIR(mode),
        others_write=bool(mode & OTHERS_WRITE),
        open_inside=open_inside(tree, paths[0]),
    )
