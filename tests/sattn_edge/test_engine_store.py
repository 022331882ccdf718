from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from sattn_edge import engine_store
from sattn_edge.engine_manifest import Form, Manifest, Measurement, Platform, Request, Subject
from sattn_edge.engine_store import EngineStore, default_store
from sattn_edge.errors import UnavailableError
from sattn_edge.lowering import FORMS
from tests.helpers_store import SUBJECT as FULL
from tests.helpers_store import manifest_of, single_changes

PLATFORM = Platform("1.31.1", "a CPU", "x86_64", "0.1.0", ("avx2",))
SUBJECT = Subject("sha256:1", None, Request("onnxruntime", "fp32"), PLATFORM)
MANIFEST = Manifest(SUBJECT, "gemm", "faster", (), Measurement(200, 40, 10), "2026-01-01T00:00:00+00:00")
OTHERS = [subject for _, subject in single_changes(FULL)]


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "a" / "store")


def test_what_was_remembered_is_found(store):
    path = store.remember(MANIFEST)
    assert store.look_up(SUBJECT).manifest == MANIFEST
    assert path == store.path(SUBJECT)
    assert path.parent.name == SUBJECT.key
    assert len(SUBJECT.key) == 64


def test_everything_a_choice_is_bound_to_is_in_its_key(store):
    store.remember(manifest_of(None))
    assert store.look_up(FULL).manifest is not None
    assert all(store.look_up(s).manifest is None for s in OTHERS)


def test_remembering_again_replaces(store):
    store.remember(MANIFEST)
    store.remember(msgspec.structs.replace(MANIFEST, form="taps"))
    assert store.look_up(SUBJECT).manifest.form == "taps"
    assert [p.name for p in store.path(SUBJECT).parent.iterdir()] == ["manifest.json"]


def test_looking_up_makes_nothing(store):
    assert store.look_up(SUBJECT) == engine_store.Found()
    assert not store.root.parent.exists()


def modes(store: EngineStore, mask: int) -> dict[str, str]:
    """The modes of everything the store makes under an umask."""
    before = os.umask(mask)
    try:
        with store.building():
            store.remember(manifest_of(b"plan"), b"plan")
    finally:
        os.umask(before)
    assert store.root is not None
    found = {"": store.root.parent, "store": store.root}
    found |= {"folder" if p.is_dir() else p.suffix or p.name: p for p in store.root.rglob("*")}
    return {name: f"{path.stat().st_mode & 0o777:o}" for name, path in found.items()}


FOLDERS_AND_FILES = {"": "700", "store": "700", "folder": "700", "lock": "600", ".json": "600", ".plan": "600"}


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_everything_it_makes_is_private_whatever_the_umask(store, mask):
    assert modes(store, mask) == FOLDERS_AND_FILES


def test_control_the_umask_alone_would_not_do(store, monkeypatch):
    monkeypatch.setattr(engine_store, "_PRIVATE", 0o777)
    monkeypatch.setattr(engine_store, "_PRIVATE_FILE", 0o666)
    monkeypatch.setattr(engine_store, "_OTHERS_WRITE", 0)  # or it would refuse what it made
    assert modes(store, 0) == {
        "": "777",
        "store": "777",
        "folder": "777",
        "lock": "666",
        ".json": "666",
        ".plan": "666",
    }


@pytest.mark.parametrize("mode", [0o770, 0o702])
@pytest.mark.parametrize("which", ["root", "entry"])
def test_a_folder_that_others_can_write_is_refused(store, mode, which):
    path = store.remember(MANIFEST)
    folder = store.root if which == "root" else path.parent
    folder.chmod(mode)
    text = rf"engine store: others can write '{folder}'; it holds what will be run; chmod 700 '{folder}'"
    for act in (lambda: store.look_up(SUBJECT), lambda: store.remember(MANIFEST)):
        with pytest.raises(UnavailableError, match=text):
            act()
    folder.chmod(0o755)
    assert store.look_up(SUBJECT).manifest == MANIFEST


def test_a_folder_of_another_user_is_refused(store, monkeypatch):
    store.remember(MANIFEST)
    mine = store.root.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    if mine == 0:  # root's folders are everybody's
        assert store.look_up(SUBJECT).manifest == MANIFEST
        os.chown(store.root, 12345, -1)
    with pytest.raises(UnavailableError, match=r"belongs to another user; .*; name one of your own: SATTN_"):
        store.look_up(SUBJECT)


BROKEN = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "another form": lambda data: data.replace(b'"gemm"', b'"gem"'),
    "a new key": lambda data: data.replace(b'"form"', b'"fromm": 1, "form"'),
    "another subject": lambda data: data.replace(b"sha256:1", b"sha256:2"),
    "deep": lambda data: b"[" * 100_000,
    "bytes": lambda data: b"\xff\xfe\x00",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_manifest_is_told_and_left(store, case):
    path = store.remember(MANIFEST)
    path.write_bytes(BROKEN[case](path.read_bytes()))
    found = store.look_up(SUBJECT)
    assert found.manifest is None
    assert str(path) in found.note
    assert found.note.endswith("nothing of it is used: build again with --retune")


def test_an_unreadable_manifest_is_told(store):
    path = store.remember(MANIFEST)
    path.unlink()
    path.mkdir()
    found = store.look_up(SUBJECT)
    assert found.manifest is None
    assert "the engine store can't be read (Is a directory" in found.note


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    store = EngineStore(tmp_path / "file")
    assert store.look_up(SUBJECT).manifest is None
    with pytest.raises(UnavailableError, match=r"engine store: '.*' can't be written \(.*\); name another: SATTN_ED"):
        store.remember(MANIFEST)
    with pytest.raises(UnavailableError, match="can't be written"):
        EngineStore(tmp_path / "file" / "below").prepare()


def test_without_a_home(monkeypatch):
    store = EngineStore(None)
    assert store.look_up(SUBJECT) == engine_store.Found()
    assert store.path(SUBJECT) is None
    with pytest.raises(UnavailableError, match="engine store: there is no home folder; name one: SATTN_EDGE_"):
        store.remember(MANIFEST)


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert default_store().root == tmp_path / "s"
    monkeypatch.delenv("SATTN_EDGE_STORE")
    assert default_store().root == tmp_path / "c" / "sattn-edge" / "engines"
    for nothing in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert default_store().root == tmp_path / ".cache" / "sattn-edge" / "engines"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert default_store().root is None


def test_the_forms_are_those_of_lowering():
    assert get_args(Form) == FORMS
