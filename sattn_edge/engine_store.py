"""The engine store: what was measured on this device, kept by what it was measured for.

    <root>/<key>/manifest.json        what was asked for, where, which form was kept, and the figures that chose it

The root is `$SATTN_EDGE_STORE`, else `$XDG_CACHE_HOME/sattn-edge/engines`, else `~/.cache/sattn-edge/engines`, and
private: a folder that others can write is refused, because an engine that lies there is code. A key is the sha256 of
graph, calibration, request and platform, so that whatever changes one of them finds nothing and builds anew. A file
of an engine (`plan`) may stand beside the manifest, which then holds its digest. Looking up makes no folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from sattn_edge._version import __version__
from sattn_edge.cpu import architecture, cpu_features, cpu_name
from sattn_edge.errors import UnavailableError
from sattn_edge.files import digest, write_atomic

if TYPE_CHECKING:
    from sattn_edge.model_file import ModelFile

VARIABLE = "SATTN_EDGE_STORE"
VERSION = 1
Form = Literal["reference", "folded", "taps", "mean-conv", "composed", "gemm"]  # those of sattn_edge.lowering
_MANIFEST = "manifest.json"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_PRIVATE = 0o700


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was asked for. attention: `auto` or a form; batch None is a free one."""

    backend: str
    precision: str
    attention: str = "auto"
    batch: int | None = None
    threads: int = 1


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where it was measured. runtime: the backend's version; version: ours; features: of the CPU, that matter."""

    runtime: str
    cpu: str
    architecture: str
    version: str
    features: tuple[str, ...] = ()


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a choice is bound to. calibration: the table's digest, for int8 only."""

    graph: str
    calibration: str | None
    request: Request
    platform: Platform

    @property
    def key(self) -> str:
        """64 hex digits: the name of its folder."""
        return digest(msgspec.json.encode(self, order="sorted")).partition(":")[2]


def subject_of(model: ModelFile, request: Request, runtime: str) -> Subject:
    """What a choice for this model file on this device is bound to. runtime: the backend's version."""
    calibration = None
    if request.precision == "int8" and model.calibration is not None:
        calibration = digest(msgspec.json.encode(model.calibration, order="sorted"))
    here = Platform(runtime, cpu_name(), architecture(), __version__, cpu_features())
    return Subject(model.graph_digest, calibration, request, here)


class Acceptance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A form on the golden windows, beside `basis`; flips: labels that differ. All else is of the logit scale."""

    windows: int
    synthetic: bool
    basis: str
    difference: float
    tolerance: float
    flips: int
    worst_margin: float
    accepted: bool


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One form: how it did, or, in a few words (`left_out`) and in full (`note`), why it was not tried.

    median_us: of one call, None if it was not timed. rounds_won: in how many rounds it was faster than the form that
    stays unless another is faster.
    """

    form: str
    precision: str
    note: str = ""
    left_out: str = ""
    acceptance: Acceptance | None = None
    median_us: float | None = None
    rounds_won: int | None = None


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the candidates were timed: so many calls of one window each, spread over rounds of shuffled order."""

    calls: int
    rounds: int
    warm_up: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the store remembers. `form` was kept, for `reason`; plan: digest of the engine file beside it, if any."""

    subject: Subject
    form: Form
    reason: str
    candidates: tuple[Candidate, ...]
    measurement: Measurement
    created: str
    plan: str | None = None
    version: int = VERSION


@dataclass(frozen=True)
class Found:
    """What a look-up gave: a manifest, or a note that says why there is none although something lies there."""

    manifest: Manifest | None = None
    note: str | None = None


class EngineStore:
    """A folder of manifests. Making one touches nothing; `remember` makes the folders."""

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
            for folder in (self.root, path.parent):
                _check_private(folder)
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return Found()
        except OSError as error:
            return Found(note=f"the engine store can't be read ({error.strerror}: {path}); nothing of it is used")
        return _parse(data, subject, path)

    def remember(self, manifest: Manifest) -> Path:
        """Writes a manifest in place of any of the same subject, and returns where.

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
            write_atomic(path, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        except OSError as error:
            raise _not_written(path.parent, error) from error
        return path

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


def _check_private(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid not in (os.getuid(), 0):
        todo = f"name one of your own: {VARIABLE}=FOLDER"
        raise UnavailableError("engine store", f"'{folder}' belongs to another user", "it holds what will be run", todo)
    if found.st_mode & _OTHERS_WRITE:
        todo = f"chmod 700 '{folder}'"
        raise UnavailableError("engine store", f"others can write '{folder}'", "it holds what will be run", todo)


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
