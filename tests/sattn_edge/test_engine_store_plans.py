"""Engines in the store are code: they are read as they were written, from places that nobody else can write, or not."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sattn_edge import engine_store
from sattn_edge.engine_store import EngineStore
from sattn_edge.errors import DigestError, UnavailableError
from tests.helpers_store import SUBJECT, manifest_of, single_changes

SIZE = 4096
PLAN = np.random.default_rng(0).bytes(SIZE)
OTHER_PLAN = np.random.default_rng(1).bytes(SIZE)
MANIFEST = manifest_of(PLAN)


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    store = EngineStore(tmp_path / "store")
    store.remember(MANIFEST, PLAN)
    return store


@pytest.fixture
def plan(store) -> Path:
    path = store.plan_path(MANIFEST)
    assert path is not None
    return path


def got_through(store: EngineStore, plan: Path) -> tuple[list[int], list[int]]:
    """Positions at which a flipped bit, and lengths at which an end that was cut off, were not noticed."""
    flips, cuts = [], []
    handle = os.open(plan, os.O_RDWR)
    try:
        for i in range(SIZE):
            os.pwrite(handle, bytes([PLAN[i] ^ 1 << i % 8]), i)
            if _reads(store):
                flips.append(i)
            os.pwrite(handle, PLAN[i : i + 1], i)
        for length in reversed(range(SIZE)):
            os.ftruncate(handle, length)
            if _reads(store):
                cuts.append(length)
    finally:
        os.close(handle)
    return flips, cuts


def _reads(store: EngineStore) -> bool:
    try:
        store.read_plan(MANIFEST)
    except DigestError:
        return False
    return True


def test_an_engine_is_read_as_it_was_written(store):
    assert store.read_plan(MANIFEST) == PLAN


def test_every_flipped_byte_and_every_cut_is_noticed(store, plan):
    assert got_through(store, plan) == ([], [])
    plan.write_bytes(PLAN)
    assert store.read_plan(MANIFEST) == PLAN


def test_control_without_the_digest_none_would_be(store, plan, monkeypatch):
    monkeypatch.setattr(engine_store, "digest", lambda data: MANIFEST.plan)
    assert got_through(store, plan) == (list(range(SIZE)), list(reversed(range(SIZE))))


@pytest.mark.parametrize(
    "data", [b"", PLAN + b"\0", OTHER_PLAN, PLAN[::-1]], ids=["empty", "longer", "other", "turned"]
)
def test_other_bytes_are_told_with_both_digests(store, plan, data):
    plan.write_bytes(data)
    with pytest.raises(DigestError) as caught:
        store.read_plan(MANIFEST)
    assert caught.value.exit_code == 7
    found, said = engine_store.digest(data)[:19], engine_store.digest(PLAN)[:19]
    assert str(caught.value) == (
        f"engine: '{plan}' has {found}, its manifest says {said}; "
        "an engine is code, and runs only as it was written; build it again with --retune"
    )


def test_the_engine_of_another_entry_in_its_place(store, plan):
    subject = dict(single_changes(SUBJECT))["request.workspace_mib"]
    other = manifest_of(OTHER_PLAN, subject)
    store.remember(other, OTHER_PLAN)
    assert store.read_plan(other) == OTHER_PLAN
    store.plan_path(other).replace(plan)
    with pytest.raises(DigestError):
        store.read_plan(MANIFEST)


def test_an_engine_that_is_gone(store, plan):
    plan.unlink()
    with pytest.raises(
        UnavailableError, match=r"engine: '.*\.plan' can't be read \(No such file.*\); build it again wi"
    ):
        store.read_plan(MANIFEST)
    plan.mkdir(mode=0o700)
    with pytest.raises(UnavailableError, match=r"can't be read \(Is a directory\)"):
        store.read_plan(MANIFEST)


def test_a_manifest_without_an_engine_names_none(store):
    with pytest.raises(UnavailableError, match="its manifest names no engine file; build it again with --retune"):
        store.read_plan(manifest_of(None))
    assert store.plan_path(manifest_of(None)) is None


PLACES = {
    "engine": lambda plan: plan,
    "manifest": lambda plan: plan.parent / "manifest.json",
    "folder": Path.parent.fget,
}


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
@pytest.mark.parametrize("which", PLACES)
def test_what_others_can_write_is_refused(store, plan, which, mode):
    place = PLACES[which](plan)
    is_folder = which == "folder"
    place.chmod(mode | 0o100 if is_folder else mode)
    with pytest.raises(UnavailableError) as caught:
        store.read_plan(MANIFEST)
    mend = "chmod 700" if is_folder else "chmod 600"
    wanted = f"engine store: others can write '{place}'; it holds what will be run; {mend} '{place}'"
    assert str(caught.value) == wanted
    place.chmod(0o755 if is_folder else 0o644)  # reading is not writing
    assert store.read_plan(MANIFEST) == PLAN


def test_control_it_is_the_mode_that_is_looked_at(store, plan, monkeypatch):
    plan.chmod(0o666)
    monkeypatch.setattr(engine_store, "_OTHERS_WRITE", 0)
    assert store.read_plan(MANIFEST) == PLAN


def test_a_manifest_that_others_can_write_is_not_looked_up(store, plan):
    (plan.parent / "manifest.json").chmod(0o666)
    with pytest.raises(UnavailableError, match=r"others can write '.*manifest.json'; .*; chmod 600 '"):
        store.look_up(SUBJECT)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_an_engine_of_another_user_is_refused(store, plan):
    os.chown(plan, 12345, -1)
    with pytest.raises(UnavailableError, match=r"\.plan' belongs to another user; it holds what will be run; name one"):
        store.read_plan(MANIFEST)


def test_a_new_engine_takes_the_old_one_away(store, plan):
    new = manifest_of(OTHER_PLAN)
    store.remember(new, OTHER_PLAN)
    assert store.read_plan(new) == OTHER_PLAN
    assert {p.name for p in plan.parent.iterdir()} == {"manifest.json", store.plan_path(new).name}
    with pytest.raises(UnavailableError, match="No such file"):
        store.read_plan(MANIFEST)


def test_entries_tell_what_lies_there(store, plan):
    subject = dict(single_changes(SUBJECT))["graph"]
    older = msgspec.structs.replace(manifest_of(None, subject), created="2025-01-01T00:00:00.000000+00:00")
    store.remember(older)
    assert [e.manifest for e in store.entries()] == [older, MANIFEST]
    assert store.entries()[1].size == SIZE + (plan.parent / "manifest.json").stat().st_size
    assert store.leftovers() == []


BROKEN = {
    "empty": (lambda data: b"", "its manifest can't be read"),
    "cut": (lambda data: data[:-20], "its manifest can't be read"),
    "of another subject": (lambda data: data.replace(b"sha256:1", b"sha256:7"), "its manifest is of something else"),
    "of another version": (lambda data: data.replace(b'"version": 2', b'"version": 3'), "its manifest is of something"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_entry_whose_manifest_is_broken_has_a_note(store, plan, case):
    change, note = BROKEN[case]
    path = plan.parent / "manifest.json"
    path.write_bytes(change(path.read_bytes()))
    (entry,) = store.entries()
    assert entry.manifest is None
    assert entry.note.startswith(note)
    assert store.look_up(SUBJECT).manifest is None
    assert store.leftovers() == [plan]  # nobody names it any more


def test_what_is_no_entry_is_left_alone(store):
    for name in ("notes", "a" * 63, "A" * 64):
        (store.root / name).mkdir()
    (store.root / ("b" * 64)).write_bytes(b"")
    assert len(store.entries()) == 1
    assert store.sweep() == []


def test_leftovers_of_every_kind_are_swept(store, plan):
    parts = [
        store.root / ".timing-1.cache.abc.part",
        plan.parent / f".{plan.name}.abc.part",
        plan.parent / "0123.plan",
        store.root / "build-abc",
    ]
    for path in parts[:3]:
        path.write_bytes(b"half")
    parts[3].mkdir()
    (parts[3] / "graph.onnx").write_bytes(b"half")
    killed = store.root / ("c" * 64)  # by a kill before its manifest was written
    killed.mkdir()
    (killed / "4567.plan").write_bytes(b"plan")
    assert set(store.leftovers()) == {*parts, killed / "4567.plan"}
    assert set(store.sweep()) == {*parts, killed / "4567.plan"}
    assert store.leftovers() == []
    assert store.read_plan(MANIFEST) == PLAN


def test_an_entry_is_forgotten_manifest_first(store, plan, monkeypatch):
    (entry,) = store.entries()
    monkeypatch.setattr(engine_store.shutil, "rmtree", lambda folder: None)  # killed before it
    store.forget(entry)
    assert store.look_up(SUBJECT) == engine_store.Found()
    assert store.entries()[0].note == "has no manifest: a build was killed"
    monkeypatch.undo()
    store.forget(entry)
    assert store.entries() == []


def test_files_that_go_while_they_are_counted(store, plan, monkeypatch):
    whole = Path.iterdir

    def then_gone(self: Path):
        found = list(whole(self))
        plan.unlink(missing_ok=True)
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", then_gone)
    assert store.entries()[0].manifest == MANIFEST


def test_a_folder_that_goes_while_it_is_listed(store, plan, monkeypatch):
    monkeypatch.setattr(engine_store, "_is_key", lambda name: engine_store.shutil.rmtree(plan.parent) or True)
    (entry,) = store.entries()
    assert (entry.manifest, entry.size) == (None, 0)
