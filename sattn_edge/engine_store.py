"""The engine store: what was measured and built on this device, kept by what it was made for.

    <root>/<key>/manifest.json        what was asked for, where, what was kept, and the figures that chose it
    <root>/<key>/<digest>.plan        the engine, where the backend has one; the manifest names it
    <root>/timing-<digest>.cache      what a compiler measured, to build faster the next time
    <root>/lock                       held while something is built: one build at a time on a device

The root is `$SATTN_EDGE_STORE`, else `$XDG_CACHE_HOME/sattn-edge/engines`, else `~/.cache/sattn-edge/engines`, and
private: a folder or an engine that others can write is refused, because an engine is code. A key is the sha256 of
graph, calibration, request and platform, so that whatever changes one of them finds nothing and builds anew. The
manifest is written last, by one rename: until then the old engine is the one that is found. Looking up makes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sattn_edge.engine_manifest import VERSION, Manifest, Subject
from sattn_edge.errors import DigestError, UnavailableError
from sattn_edge.files import digest, write_atomic

VARIABLE = "SATTN_EDGE_STORE"
PLAN_SUFFIX = ".plan"
REBUILD = "build it again with --retune"
BUILDS = "build-"  # how the folders begin in which compilers work
_MANIFEST = "manifest.json"
_LOCK = "lock"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_PRIVATE = 0o700
_PRIVATE_FILE = 0o600
_PARTS = ".part"  # what write_atomic calls a file that is not whole yet


@dataclass(frozen=True)
class Found:
    """What a look-up gave: a manifest, or a note that says why there is none although something lies there."""

    manifest: Manifest | None = None
    note: str | None = None


@dataclass(frozen=True)
class Entry:
    """One folder of the store: its manifest, None where that can't be read, and how many bytes lie there."""

    folder: Path
    manifest: Manifest | None
    size: int
    note: str | None = None


class EngineStore:
    """A folder of manifests and engines. Making one touches nothing; `remember` makes the folders."""

    def __init__(self, root: Path | None) -> None:
        """Without a root this process has no home to keep things in, and remembers nothing."""
        self.root = root

    def path(self, subject: Subject) -> Path | None:
        """Where the manifest of a subject lies, whether it is there or not."""
        return None if self.root is None else self.root / subject.key / _MANIFEST

    def look_up(self, subject: Subject) -> Found:
        """What is remembered of a subject.

        A manifest that is broken, or an unreadable folder, is no error: nothing is remembered then, and a note says so.

        Raises:
            UnavailableError: others can write the folder.
        """
        path = self.path(subject)
        if path is None or self.root is None:
            return Found()
        try:
            for place in (self.root, path.parent, path):
                _check_private(place)
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return Found()
        except OSError as error:
            return Found(note=f"the engine store can't be read ({error.strerror}: {path}); nothing of it is used")
        return _parse(data, subject, path)

    def entries(self) -> list[Entry]:
        """Everything that lies in the store, oldest first; what can't be read has a note in place of a manifest.

        Raises:
            UnavailableError: others can write the store.
        """
        if self.root is None or not self.root.is_dir():
            return []
        _check_private(self.root)
        found = [_entry(folder) for folder in sorted(self.root.iterdir()) if folder.is_dir() and _is_key(folder.name)]
        return sorted(found, key=lambda e: (e.manifest is not None and e.manifest.created) or "")

    def read_plan(self, manifest: Manifest) -> bytes:
        """The bytes of an engine, checked against the digest in its manifest before anybody looks at them.

        Raises:
            DigestError: they are others than were written; exit code 7.
            UnavailableError: the file is gone, can't be read, or others can write it.
        """
        path = self.plan_path(manifest)
        if path is None or manifest.plan is None:
            raise UnavailableError("engine", "its manifest names no engine file", todo=REBUILD)
        try:
            for place in (path.parent, path.parent / _MANIFEST, path):
                _check_private(place)
            data = path.read_bytes()
        except OSError as error:
            raise UnavailableError("engine", f"'{path}' can't be read ({error.strerror})", todo=REBUILD) from error
        if (found := digest(data)) != manifest.plan:
            raise DigestError(
                "engine",
                f"'{path}' has {found[:19]}, its manifest says {manifest.plan[:19]}",
                "an engine is code, and runs only as it was written",
                REBUILD,
            )
        return data

    def plan_path(self, manifest: Manifest) -> Path | None:
        """Where the engine of a manifest lies, None where it has none."""
        path = self.path(manifest.subject)
        return None if path is None or manifest.plan is None else path.parent / _plan_name(manifest.plan)

    def remember(self, manifest: Manifest, plan: bytes | None = None) -> Path:
        """Writes a manifest, and the engine it names, in place of any of the same subject, and returns where.

        The engine is there before the manifest that names it, and the old one until after it.

        Raises:
            UnavailableError: there is no home, the folder can't be written, or others can write it.
        """
        path = self.path(manifest.subject)
        folder = self.prepare()
        if path is None:
            raise UnavailableError("engine store", f"'{folder}' is gone")
        try:
            path.parent.mkdir(mode=_PRIVATE, exist_ok=True)
            _check_private(path.parent)
            if plan is not None and manifest.plan is not None:
                write_atomic(path.parent / _plan_name(manifest.plan), plan, mode=_PRIVATE_FILE)
            write_atomic(path, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n", _PRIVATE_FILE)
            _tidy(path.parent, manifest)
        except OSError as error:
            raise _not_written(path.parent, error) from error
        return path

    @contextlib.contextmanager
    def building(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Holds the store's lock, so that one build at a time measures and takes memory on a device.

        waiting: called once if another process holds it. The lock ends with its process, however that ends.

        Raises:
            UnavailableError: as `prepare`.
        """
        root = self.prepare()
        try:
            handle = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
        except OSError as error:
            raise _not_written(root, error) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def forget(self, entry: Entry) -> None:
        """Takes an entry away, its manifest first, so that nobody finds half of it. Hold the lock (`building`)."""
        (entry.folder / _MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(entry.folder)

    def leftovers(self) -> list[Path]:
        """What a kill left half-written, or without a manifest that names it."""
        if self.root is None or not self.root.is_dir():
            return []
        loose = [p for p in self.root.iterdir() if p.name.endswith(_PARTS) or p.name.startswith(BUILDS)]
        for entry in self.entries():
            plan = entry.manifest.plan if entry.manifest is not None else None
            keep = {_MANIFEST, "" if plan is None else _plan_name(plan)}
            loose += [p for p in entry.folder.iterdir() if p.name not in keep]
        return loose

    def sweep(self) -> list[Path]:
        """Takes the leftovers away and tells which. Hold the lock (`building`): nobody is writing then."""
        loose = self.leftovers()
        for path in loose:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return loose

    def prepare(self) -> Path:
        """Makes the root where it is missing, and checks that it can be used; raises what `remember` raises."""
        if self.root is None:
            raise UnavailableError("engine store", "there is no home folder", todo=f"name one: {VARIABLE}=FOLDER")
        try:
            # Those above it too: whoever can write one of them can put another folder in its place.
            missing = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir(mode=_PRIVATE, exist_ok=True)
            _check_private(self.root)
        except OSError as error:
            raise _not_written(self.root, error) from error
        for missing_right, why in ((not self.root.is_dir(), errno.ENOTDIR), (not _writable(self.root), errno.EACCES)):
            if missing_right:
                raise _not_written(self.root, OSError(why, os.strerror(why)))
        return self.root


def default_store() -> EngineStore:
    """The store of this user on this device."""
    if named := os.environ.get(VARIABLE):
        return EngineStore(Path(named).expanduser().absolute())
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if Path(cache).is_absolute():  # another one is to be ignored, says its specification
        return EngineStore(Path(cache) / "sattn-edge" / "engines")
    with contextlib.suppress(RuntimeError):  # no HOME, and no entry in the password file
        return EngineStore(Path.home() / ".cache" / "sattn-edge" / "engines")
    return EngineStore(None)


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _check_private(place: Path) -> None:
    found = place.stat()
    if found.st_uid not in (os.getuid(), 0):
        todo = f"name one of your own: {VARIABLE}=FOLDER"
        raise UnavailableError("engine store", f"'{place}' belongs to another user", "it holds what will be run", todo)
    if found.st_mode & _OTHERS_WRITE:
        mode = _PRIVATE if stat.S_ISDIR(found.st_mode) else _PRIVATE_FILE
        todo = f"chmod {mode:o} '{place}'"
        raise UnavailableError("engine store", f"others can write '{place}'", "it holds what will be run", todo)


def _is_key(name: str) -> bool:
    return len(name) == 64 and not set(name) - set("0123456789abcdef")


def _plan_name(plan: str) -> str:
    return plan.partition(":")[2] + PLAN_SUFFIX


def _entry(folder: Path) -> Entry:
    path = folder / _MANIFEST
    size = _size(folder)
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return Entry(folder, None, size, "has no manifest: a build was killed")
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        return Entry(folder, None, size, f"its manifest can't be read ({error})")
    if manifest.subject.key != folder.name or manifest.version != VERSION:
        return Entry(folder, None, size, "its manifest is of something else")
    return Entry(folder, manifest, size)


def _size(folder: Path) -> int:
    """Bytes that lie there. Others may write and take away at the same time: what has just gone counts nothing."""
    total = 0
    with contextlib.suppress(OSError):  # the folder itself; reading its manifest tells the reason
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def _tidy(folder: Path, manifest: Manifest) -> None:
    """Takes away what the manifest that was just written does not name: the engine before it, parts of a kill."""
    keep = {_MANIFEST, "" if manifest.plan is None else _plan_name(manifest.plan)}
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink(missing_ok=True)


def _parse(data: bytes, subject: Subject, path: Path) -> Found:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        return Found(note=f"'{path}' can't be read ({error}); nothing of it is used: build again with --retune")
    if manifest.subject != subject or manifest.version != VERSION:
        return Found(note=f"'{path}' is of something else; nothing of it is used: build again with --retune")
    return Found(manifest)


def _not_written(folder: Path, error: OSError) -> UnavailableError:
    found = f"'{folder}' can't be written ({error.strerror})"
    return UnavailableError("engine store", found, todo=f"name another: {VARIABLE}=FOLDER")
