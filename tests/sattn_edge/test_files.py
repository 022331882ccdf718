from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sattn_edge.files import digest, write_atomic
from tests.helpers_run import environment


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.onnx"


def names_in(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir()]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_writes_and_replaces_and_leaves_nothing_beside(path):
    for data in (b"old", b"", b"new" * 100_000):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert names_in(path.parent) == ["file.onnx"]


def test_a_new_file_has_the_mode_of_the_umask(path):
    before = os.umask(0o027)
    try:
        write_atomic(path, b"x")
        assert os.umask(0o027) == 0o027  # and the umask is what it was
    finally:
        os.umask(before)
    assert mode_of(path) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755])
def test_a_replaced_file_keeps_its_mode(path, mode):
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomic(path, b"new")
    assert (mode_of(path), path.read_bytes()) == (mode, b"new")


@pytest.mark.parametrize("error", [OSError("disk full"), Killed()])
@pytest.mark.parametrize("call", ["fsync", "chmod", "replace", "fdopen"])
@pytest.mark.parametrize("there", [True, False])
def test_an_end_before_the_rename_leaves_the_old(path, monkeypatch, error, call, there):
    if there:
        path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert names_in(path.parent) == (["file.onnx"] if there else [])
    assert not there or path.read_bytes() == b"old"


def test_an_end_after_the_rename_leaves_the_new(path, monkeypatch):
    path.write_bytes(b"old")
    sync, calls = os.fsync, []

    def second_fails(descriptor: int) -> None:
        calls.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        if len(calls) == 2:
            raise OSError("kill")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(OSError, match="kill"):
        write_atomic(path, b"new")
    assert calls == [False, True]  # the file, then its folder
    assert path.read_bytes() == b"new"
    assert names_in(path.parent) == ["file.onnx"]


def test_the_data_is_synced_before_the_rename(path, monkeypatch):
    order, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: order.append("sync") or sync(d))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(Path(a).read_bytes()) or replace(a, b))
    write_atomic(path, b"data")
    assert order == ["sync", b"data", "sync"]


def test_a_real_kill_leaves_old_or_new(path):
    """SIGKILL while a process writes the one and the other over and over."""
    one, other = b"1" * 3_000_000, b"2" * 3_000_000
    code = (
        "import sys; from pathlib import Path; from sattn_edge.files import write_atomic\n"
        "path = Path(sys.argv[1]); print('ready', flush=True)\n"
        "while True:\n    for digit in b'1', b'2': write_atomic(path, digit * 3_000_000)"
    )
    write_atomic(path, one)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, env=environment())
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert path.read_bytes() in (one, other)


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "no" / "file", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", b"x")
    assert names_in(tmp_path) == ["folder"]


def test_a_digest():
    assert digest(b"abc") == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    assert digest(b"") != digest(b"\0")
