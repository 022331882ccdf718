"""The probe of the running machine.

Whatever a broken installation could crash or hang on happens in a child with this interpreter and its module path.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from sattn_edge.engine_store import default_store
from sattn_runtime.doctor.ask import Answer
from sattn_runtime.doctor.packages import normalised
from sattn_runtime.doctor.probe import (
    DISTRIBUTIONS,
    OTHERS_WRITE,
    Gpu,
    Interpreter,
    Module,
    Probe,
    StoreFolder,
    open_inside,
)
from sattn_runtime.doctor.tree import Tree

T = TypeVar("T")
TIMEOUT_S = 60.0  # the first call of CUDA after boot takes seconds, on a board with a slow card tens
_DEVICES = ("dev/nvhost-gpu", "dev/nvhost-ctrl-gpu", "dev/nvmap", "dev/nvgpu/*/*", "dev/nvidia0", "dev/nvidiactl")


def live_probe(tree: Tree) -> Probe:
    """Asks this interpreter and this machine. tree: its root."""
    return Probe(
        live=True,
        python=_interpreter(),
        store=store_folder(),
        tensorrt=_module("tensorrt"),
        tensorrt_rtx=_module("tensorrt_rtx"),
        distributions=_distributions(),
        gpu=_gpu(),
        denied=_denied(tree),
    )


def _interpreter() -> Interpreter:
    venv = sys.prefix != sys.base_prefix
    config = Path(sys.prefix) / "pyvenv.cfg"
    system = True
    if venv and config.is_file():
        said = "".join(config.read_text(errors="replace").lower().split(" "))
        system = "include-system-site-packages=true" in said.splitlines()
    return Interpreter(sys.version_info[:3], sys.prefix, venv, system)


def _distributions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in DISTRIBUTIONS:
        try:
            found[normalised(name)] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _module(name: str) -> Module:
    answer = ask(name)
    return Module(answer.version, answer.error, answer.where)


def _gpu() -> Gpu:
    said = ask("cuda")
    if said.error is not None:
        return Gpu(error=said.error, code=said.code)
    return Gpu(said.name, said.compute_capability, said.driver, said.adapter)


def ask(what: str, timeout_s: float = TIMEOUT_S) -> Answer:
    """Asks a child for `tensorrt`, `tensorrt_rtx` or `cuda`. That it dies or never ends is an answer, too."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from sattn_runtime.doctor.ask import main; main({what!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(error=f"gave no answer in {timeout_s:g} s")
    except OSError as error:
        return Answer(error=f"could not be asked ({error.strerror})")
    lines = done.stdout.splitlines()
    try:
        return msgspec.json.decode(lines[-1] if lines else b"", type=Answer)
    except msgspec.MsgspecError:
        return Answer(error=f"ended the interpreter ({_ending(done)})")


def _ending(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    last = done.stderr.decode(errors="replace").strip().splitlines()
    return f"exit code {done.returncode}" + (f": {last[-1].strip()}" if last else "")


def _denied(tree: Tree) -> tuple[str, ...]:
    paths = [path for pattern in _DEVICES for path in tree.glob(pattern)]
    return tuple(path for path in paths if not os.access(path, os.R_OK | os.W_OK))


def store_folder() -> StoreFolder:
    """The engine store of this user, or of the folder above it that stands where it would be made. Makes nothing."""
    root = default_store().root
    if root is None:
        return StoreFolder(None)
    try:
        standing = next(folder for folder in (root, *root.parents) if folder.exists())
        status, free = standing.stat(), shutil.disk_usage(standing).free
    except OSError:  # a folder above it that this user may not enter
        return StoreFolder(str(root), writable=False)
    return StoreFolder(
        str(root),
        exists=standing == root,
        folder=standing.is_dir(),
        ours=status.st_uid in (os.getuid(), 0) if standing == root else None,
        others_write=standing == root and bool(status.st_mode & OTHERS_WRITE),
        open_inside=open_inside(Tree("/"), str(root)) if standing == root else (),
        writable=os.access(standing, os.W_OK | os.X_OK),
        free_bytes=free,
    )
