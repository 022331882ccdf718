"""Builds that are killed at their n-th write, each in a process that was forked off one with everything loaded.

Run as a program: `helpers_kills HOW FOLDER`, where the folder holds a model file. Prints a JSON list with a row for
each kill: before which write it came, and what was found afterwards. Writes are told by Python's audit events, which
no import can hide from, and by the three that have none: fsync, half and all of a file's content.

    whole            a build with --retune on the fake device, its compiler in the same process
    store            what the store writes, alone
    torn, manifest-first, tidy-first    the same with the store broken in this way
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sattn_edge import engine_store
from sattn_edge.engine import load_engine
from sattn_edge.engine_manifest import Manifest
from sattn_edge.engine_store import EngineStore
from sattn_edge.errors import SattnEdgeError
from sattn_edge.files import digest, write_atomic
from sattn_edge.model_file import load_model_file
from sattn_runtime import store_report
from sattn_runtime.tensorrt import compile_process, compiler
from sattn_runtime.testing.fake_tensorrt_plan import decode, encode
from tests.helpers_model import logits_of
from tests.helpers_store import manifest_of
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one

_EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_LIMIT = 300
_DRAWN = re.compile(r"(?<=build-)\w+|(?<=\.)\w+(?=\.part$)")
Row = dict[str, Any]


def main() -> None:
    """See above."""
    sys.dont_write_bytecode = True
    how, folder = sys.argv[1], Path(sys.argv[2])
    rows = _whole(folder) if how == "whole" else _store(folder, how)
    print(json.dumps(rows))


# ------------------------------------------------------------------ what is killed


def _whole(folder: Path) -> list[Row]:
    path = folder / "small.onnx"
    new = _forked(lambda: _build_old(path, folder / "pristine"))["new"]

    def act(root: Path) -> None:
        _compile_here()
        build_one(path, retune=True, rounds=1)

    seen: set[str] = set()

    def look(root: Path) -> Row:
        state = _state(root)
        first = state not in seen
        seen.add(state)
        return _forked(lambda: {"state": state, **_look(path, root, new, build_too=first)})

    return _kill_each(folder, act, look)


def _state(root: Path) -> str:
    """What lies in the store, without the letters that are drawn for names, and which engine the manifest names.

    Of two kills that leave the same, one is enough to build after: a build knows no more than this of what it finds.
    """
    names = sorted(_DRAWN.sub("", str(path.relative_to(root))) for path in root.rglob("*"))
    plans = [entry.manifest.plan for entry in EngineStore(root).entries() if entry.manifest is not None]
    return json.dumps([names, plans])


def _build_old(path: Path, root: Path) -> Row:
    """Leaves an engine in the store that differs in its bytes from what a build gives, and not in its logits."""
    os.environ[engine_store.VARIABLE] = str(root)
    _compile_here()
    built = build_one(path, rounds=1)
    store = EngineStore(root)
    header, onnx = decode(store.read_plan(built.manifest))
    onnx += b"\x32\x03old"  # ModelProto.doc_string, a field of its own at the end
    plan = encode(msgspec.structs.replace(header, onnx_bytes=len(onnx)), onnx)
    store.remember(msgspec.structs.replace(built.manifest, plan=digest(plan), plan_bytes=len(plan)), plan)
    return {"new": built.manifest.plan}


def _look(path: Path, root: Path, new: str, *, build_too: bool) -> Row:
    """What a device finds after the kill, and whether it goes on from there."""
    store = EngineStore(root)
    row: Row = {"found": _run(path, store, new), "listed": [r.stale for r in store_report.rows(store)]}
    copy = EngineStore(root.with_name("copy"))
    shutil.copytree(root, copy.root)
    row["pruned"] = [r.stale for r in store_report.prune(copy)]
    row["after_prune"] = [str(p) for p in copy.leftovers()]
    row["entries"] = len(copy.entries())
    if not build_too:
        return row
    _compile_here()
    row["built"] = not build_one(path, retune=True, rounds=1).remembered
    row["after_build"] = [str(p) for p in store.leftovers()]
    row["then"] = _run(path, store, new)
    return row


def _run(path: Path, store: EngineStore, new: str) -> str:
    """`old` or `new`, where that engine is loaded and is right; else what went wrong."""
    try:
        engine = load_engine(path, "tensorrt", attention="gemm")
    except SattnEdgeError as error:
        return str(error)
    x = load_model_file(path).golden.x
    wanted = logits_of(path.read_bytes(), x)
    if not np.abs(engine.infer(x) - wanted).max() <= 1e-5 * np.abs(wanted).max():
        return "wrong logits"
    (entry,) = store.entries()
    return "new" if entry.manifest is not None and entry.manifest.plan == new else "old"


def _compile_here() -> None:
    """A compiler's writes are then writes of this process, which is killed at them as its parent would be."""

    def run(self: Any) -> Any:
        return compiler.compile_job(self._job, lambda message: None)

    compile_process._Child.run = run  # type: ignore[method-assign]


def _store(folder: Path, how: str) -> list[Row]:
    plans = {"old": b"o" * 4096, "new": b"n" * 4096}
    manifests = {name: manifest_of(plan, reason=name) for name, plan in plans.items()}
    EngineStore(folder / "pristine").remember(manifests["old"], plans["old"])

    def act(root: Path) -> None:
        if how != "store":
            _BREAK[how]()
        EngineStore(root).remember(manifests["new"], plans["new"])

    def look(root: Path) -> Row:
        store = EngineStore(root)
        found = store.look_up(manifests["old"].subject)
        if found.manifest is None:
            return {"found": found.note or "nothing"}
        try:
            same = store.read_plan(found.manifest) == plans[found.manifest.reason]
        except SattnEdgeError as error:
            return {"found": str(error)}
        return {"found": found.manifest.reason if same else "other bytes"}

    return _kill_each(folder, act, look)


def _torn() -> None:
    def write(path: Path, data: bytes, mode: int | None = None) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)

    engine_store.write_atomic = write  # type: ignore[attr-defined]


def _manifest_first() -> None:
    def remember(self: EngineStore, manifest: Manifest, plan: bytes | None = None) -> None:
        write_atomic(self.path(manifest.subject), msgspec.json.encode(manifest), 0o600)  # type: ignore[arg-type]
        write_atomic(self.plan_path(manifest), plan or b"", 0o600)  # type: ignore[arg-type]

    EngineStore.remember = remember  # type: ignore[method-assign, assignment]


def _tidy_first() -> None:
    whole = EngineStore.remember

    def remember(self: EngineStore, manifest: Manifest, plan: bytes | None = None) -> Path:
        engine_store._tidy(self.path(manifest.subject).parent, manifest)  # type: ignore[union-attr]
        return whole(self, manifest, plan)

    EngineStore.remember = remember  # type: ignore[method-assign]


_BREAK = {"torn": _torn, "manifest-first": _manifest_first, "tidy-first": _tidy_first}


# ------------------------------------------------------------------ how


def _kill_each(folder: Path, act: Callable[[Path], None], look: Callable[[Path], Row]) -> list[Row]:
    """Does it again and again from the same start, killed before write 1, 2, ... until it gets through."""
    rows = []
    for n in itertools.count(1):
        for name in ("store", "copy"):
            shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(folder / "pristine", folder / "store")
        os.environ[engine_store.VARIABLE] = str(folder / "store")
        before, status = _killed(n, folder / "store", act)
        rows.append({"before": before, "killed": status == -signal.SIGKILL, **look(folder / "store")})
        if status == 0:
            return rows
        if status != -signal.SIGKILL or n == _LIMIT:
            raise RuntimeError(f"write {n}, {before}: ended with {status}")
    return rows


def _killed(n: int, root: Path, act: Callable[[Path], None]) -> tuple[str, int]:
    """Does it in a process that kills itself before its n-th write; what that was, and how the process ended."""
    out, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _count(n, root, told)
            act(root)
            os._exit(0)
        finally:
            os._exit(99)
    os.close(told)
    with os.fdopen(out, "rb") as said:
        text = said.read().decode()
    _, status = os.waitpid(child, 0)
    return text, os.waitstatus_to_exitcode(status)


def _count(n: int, root: Path, told: int) -> None:
    counter = itertools.count(1)

    def write(name: str) -> None:
        if next(counter) == n:
            os.write(told, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _EVENTS or (event == "open" and args[2] & _WRITING and str(args[0]).startswith(str(root))):
            write(event)

    real_fsync, real_fdopen = os.fsync, os.fdopen

    def fsync(handle: int) -> None:
        write("fsync")
        real_fsync(handle)

    def fdopen(handle: int, mode: str = "r", *args: Any, **more: Any) -> Any:
        file = real_fdopen(handle, mode, *args, **more)
        return _InHalves(file, write) if mode == "wb" else file

    os.fsync, os.fdopen = fsync, fdopen  # type: ignore[assignment]
    sys.addaudithook(hook)


class _InHalves:
    """A file that has half of what it is given on disk for a while."""

    def __init__(self, file: Any, write: Callable[[str], None]) -> None:
        self._file, self._tell = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _InHalves:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """Both halves, with a place to be killed at before, between and after them."""
        middle = len(data) // 2
        for name, part in (("content", data[:middle]), ("other half", data[middle:])):
            self._tell(name)
            self._file.write(part)
            self._file.flush()


def _forked(act: Callable[[], Row]) -> Row:
    """What a function gives, in a process of its own: this one stays as it is, with no threads."""
    out, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(told, json.dumps(act()).encode())
            os._exit(0)
        finally:
            os._exit(99)
    os.close(told)
    with os.fdopen(out, "rb") as said:
        row: Row = json.loads(said.read() or b"null")
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"looking ended with {os.waitstatus_to_exitcode(status)}")
    return row
