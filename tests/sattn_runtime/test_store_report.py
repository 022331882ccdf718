"""`sattn-build --list` and `--prune`: what is told of the store, what is taken away, and what is left alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec
import pytest

from sattn_edge import engine_manifest
from sattn_edge.engine_manifest import Gpu, Platform, Request, Subject, platform_here
from sattn_edge.engine_store import EngineStore
from sattn_edge.errors import UnavailableError
from sattn_runtime import store_report
from sattn_runtime.store_report import as_data, as_text, prune, rows
from tests.helpers_store import manifest_of
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one, fake, save

GPU = Gpu("Orin", "8.7", "12.6", "12.6")
PLAN = bytes(2_000_000)
HEADER = ["key", "model", "backend", "precision", "form", "batch", "MB", "built", "state"]


def platform(**changes: object) -> Platform:
    return msgspec.structs.replace(platform_here("10.3.0", GPU), **changes)


HERE = platform()


def here(backend: str) -> Platform | None:
    """A device with TensorRT and nothing else."""
    return HERE if backend == "tensorrt" else None


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineStore:
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "store"))
    return EngineStore(tmp_path / "store")


def add(store: EngineStore, backend: str = "tensorrt", there: Platform = HERE, **request: object) -> Subject:
    """Puts an engine into the store; more entries have later dates."""
    subject = Subject("sha256:1", None, Request(backend, "fp16", **request), there)
    day = len(store.entries()) + 1
    store.remember(manifest_of(PLAN, subject, created=f"2026-01-{day:02}T00:00:00.000000+00:00"), PLAN)
    return subject


STALE = {
    "TensorRT was 9.0 and is 10.3.0": {"runtime": "9.0"},
    "the GPU was Xavier and is Orin": {"gpu": msgspec.structs.replace(GPU, name="Xavier")},
    "the CUDA driver was 12.2 and is 12.6": {"gpu": msgspec.structs.replace(GPU, driver="12.2")},
    "the processor was old and is " + HERE.cpu: {"cpu": "old"},
    "sattn-edge was 0.0.1 and is " + HERE.version: {"version": "0.0.1", "runtime": "9.0"},
}


@pytest.mark.parametrize("why", STALE)
def test_what_this_device_can_not_use_is_stale_and_says_why(store, why):
    add(store, there=platform(**STALE[why]))
    (row,) = rows(store, here)
    assert row.stale == why


def test_what_fits_is_not(store):
    add(store)
    assert [row.stale for row in rows(store, here)] == [""]


def test_an_engine_file_that_is_gone(store):
    subject = add(store)
    (store.root / subject.key).joinpath(next(store.root.rglob("*.plan"))).unlink()
    assert [row.stale for row in rows(store, here)] == ["its engine file is gone"]


def test_what_was_compiled_for_another_machine_is_not_held_against_this_gpu(store):
    add(store, there=platform(gpu=None), arch="sm86")
    assert [row.stale for row in rows(store, here)] == [""]
    add(store, there=platform(gpu=None, runtime="9.0"), arch="sm86")
    assert [row.stale for row in rows(store, here)] == ["", "TensorRT was 9.0 and is 10.3.0"]


def test_a_backend_is_asked_once(store):
    asked = []
    for batch in (1, 2, 3):
        add(store, batch=batch)
    rows(store, lambda backend: asked.append(backend) or HERE)
    assert asked == ["tensorrt"]


def test_prune_takes_what_is_stale_and_leftovers_and_nothing_else(store):
    old, fits = add(store, there=platform(runtime="9.0")), add(store)
    elsewhere = add(store, "tensorrt-rtx", platform(runtime="1.6"))  # can't be asked now
    killed = store.root / ("c" * 64)
    killed.mkdir(mode=0o700)
    (store.root / "build-1").mkdir()
    (store.root / ".timing-1.cache.x.part").write_bytes(b"half")
    (store.root / "timing-1.cache").write_bytes(b"whole")
    gone = prune(store, here)
    assert {row.entry.folder.name for row in gone} == {old.key, killed.name}
    assert {p.name for p in store.root.iterdir()} == {fits.key, elsewhere.key, "lock", "timing-1.cache"}
    assert prune(store, here) == []
    for subject in (fits, elsewhere):
        assert store.read_plan(store.look_up(subject).manifest) == PLAN


def test_control_a_backend_that_answers_loses_what_is_stale(store):
    add(store, "tensorrt-rtx", platform(runtime="1.6"))
    assert len(prune(store, lambda backend: HERE)) == 1


def test_prune_waits_its_turn(store):
    stale = add(store, there=platform(runtime="9.0"))
    handle = os.open(store.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as somebody who builds
    there = []

    def waiting() -> None:
        there.append(store.look_up(stale).manifest is not None)
        os.close(handle)

    assert len(prune(store, here, waiting)) == 1
    assert there == [True]


def test_the_page(store):
    add(store)
    add(store, batch_range=(1, 2, 8))
    add(store, "tensorrt-rtx", platform(runtime="1.6", gpu=None), arch="sm86", batch=4)
    stale = add(store, there=platform(runtime="9.0"))
    (store.root / ("c" * 64)).mkdir()
    head, blank, header, *lines = as_text(store, rows(store, here))
    size = sum(p.stat().st_size for p in store.root.rglob("*") if p.is_file())
    assert head == f"{store.root}: 5 entries, {size / 1e6:.1f} MB"
    assert (blank, header.split()) == ("", HEADER)
    cells = [line.split() for line in lines[:5]]
    assert cells[0] == ["cccccccc", "-", "-", "-", "-", "-", "0.0", "-", "stale"]
    assert [c[2:] for c in cells[1:]] == [
        ["tensorrt", "fp16", "gemm", "1", "2.0", "2026-01-01", "accepted"],
        ["tensorrt", "fp16", "gemm", "1-8", "2.0", "2026-01-02", "accepted"],
        ["tensorrt-rtx", "sm86", "fp16", "gemm", "4", "2.0", "2026-01-03", "accepted"],
        ["tensorrt", "fp16", "gemm", "1", "2.0", "2026-01-04", "stale"],
    ]
    assert lines[5:] == [
        "",
        "cccccccc: has no manifest: a build was killed",
        f"{stale.key[:8]}: TensorRT was 9.0 and is 10.3.0",
    ]


def test_the_page_of_nothing_and_of_one(store):
    assert as_text(store, []) == [f"{store.root}: nothing in it"]
    assert as_text(store, [], gone=True) == [f"{store.root}: nothing to take away"]
    add(store)
    assert as_text(store, rows(store, here))[0] == f"{store.root}: 1 entry, 2.0 MB"
    assert as_text(store, rows(store, here), gone=True)[0] == f"{store.root}: 1 entry taken away, 2.0 MB"


def test_a_measured_precision_is_told_beside_the_one_asked_for(store):
    subject = Subject("sha256:1", None, Request("tensorrt", "best"), HERE)
    store.remember(manifest_of(PLAN, subject, precision="fp16"), PLAN)
    assert "best: fp16" in as_text(store, rows(store, here))[3]


def test_the_same_for_a_program(store):
    subject = add(store, batch=2)
    manifest = store.look_up(subject).manifest
    store.remember(msgspec.structs.replace(manifest, candidates=()), PLAN)  # nobody has run it
    killed = store.root / ("c" * 64)
    killed.mkdir()
    data = as_data(store, rows(store, here))
    assert data["store"] == str(store.root)
    assert data["entries"][0] == {
        "key": killed.name,
        "bytes": 0,
        "state": "stale",
        "reason": "has no manifest: a build was killed",
    }
    entry = data["entries"][1]
    assert (entry["key"], entry["state"], entry["reason"]) == (subject.key, "compiled", "")
    assert (entry["request"]["batch"], entry["platform"]["gpu"]["name"]) == (2, "Orin")
    assert (entry["model"], entry["form"], entry["precision"]) == ("small.onnx", "gemm", "fp16")
    assert (entry["plan"], entry["created"]) == (manifest.plan, manifest.created)
    assert as_data(EngineStore(None), []) == {"store": None, "entries": []}


# ------------------------------------------------------------------ the command


def test_list_and_prune_after_the_release_has_changed(cli, store, tmp_path, monkeypatch):
    path = save(tmp_path)
    fake(monkeypatch)
    build_one(path)
    assert [e["state"] for e in cli("sattn-build", "--list", "--json").json["entries"]] == ["accepted"]
    nothing = cli("sattn-build", "--prune")
    assert (nothing.code, nothing.out) == (0, f"{store.root}: nothing to take away\n")

    fake(monkeypatch, visible=False)  # nothing can be said of an engine then
    assert [e["state"] for e in cli("sattn-build", "--list", "--json").json["entries"]] == ["accepted"]

    fake(monkeypatch, release="10.7.0")
    (entry,) = cli("sattn-build", "--list", "--json").json["entries"]
    assert (entry["state"], entry["reason"]) == ("stale", "TensorRT was 10.3.0 and is 10.7.0")
    listed = cli("sattn-build", "--list")
    assert (listed.code, listed.err) == (0, "")
    assert listed.out.endswith(f"\n\n{entry['key'][:8]}: TensorRT was 10.3.0 and is 10.7.0\n")
    gone = cli("sattn-build", "--prune", "--json")
    assert gone.json["entries"] == [entry]
    assert store.entries() == []
    assert cli("sattn-build", "--list").out == f"{store.root}: nothing in it\n"


def test_what_an_older_version_built_is_stale_even_where_the_device_can_not_be_asked(store, monkeypatch):
    add(store, "tensorrt-rtx", platform(runtime="1.6"))
    monkeypatch.setattr(store_report, "__version__", "9.9.9")
    (row,) = rows(store, here)
    assert row.stale == f"sattn-edge was {engine_manifest.__version__} and is 9.9.9"


def test_choices_for_onnx_runtime_are_listed_too(cli, store, tmp_path):
    path = save(tmp_path)
    assert cli("sattn-build", path, "--attention", "gemm").code == 0
    (entry,) = cli("sattn-build", "--list", "--json").json["entries"]
    assert (entry["state"], entry["plan"], entry["request"]["backend"]) == ("accepted", None, "onnxruntime")
    assert cli("sattn-build", "--list").out.splitlines()[3].split()[5] == "any"
    assert cli("sattn-build", "--prune").out == f"{store.root}: nothing to take away\n"


def test_a_store_that_others_can_write_is_refused(cli, store):
    add(store)
    store.root.chmod(0o770)
    for option in ("--list", "--prune"):
        done = cli("sattn-build", option)
        assert done.code == 6
        assert f"others can write '{store.root}'; it holds what will be run; chmod 700 '{store.root}'" in done.err
    with pytest.raises(UnavailableError, match="others can write"):
        store.entries()
    store.root.chmod(0o750)
    assert len(store.entries()) == 1


@pytest.mark.parametrize("option", ["--list", "--prune"])
def test_they_speak_of_the_whole_store(cli, store, option):
    done = cli("sattn-build", "har.onnx", option)
    assert done.code == 2
    assert f"{option}: got 'har.onnx' too; it speaks of the whole store; leave the model out" in done.err
    assert not store.root.exists()
