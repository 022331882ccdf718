"""An engine file that is not what was written: TensorRT never sees a byte of it, and the way out is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sattn_edge import engine_store
from sattn_edge.engine import EngineOptions, load_engine
from sattn_edge.engine_store import EngineStore
from sattn_edge.errors import DigestError, SattnEdgeError, UnavailableError
from sattn_edge.files import digest
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_runtime.tensorrt import engine as module
from sattn_runtime.tensorrt.device import open_device
from tests.helpers_device import calls
from tests.helpers_run import Cli
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one, fake, save

DESERIALISE = "Runtime.deserialize_cuda_engine"
OPTIONS = EngineOptions(attention="gemm")
SIZE = 4096
PLAN = np.random.default_rng(0).bytes(SIZE)


class ReachedError(Exception):
    """Bytes were given to TensorRT."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file, and beside it a store with its engine in two forms."""
    path = save(tmp_path_factory.mktemp("model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SATTN_EDGE_STORE", str(path.with_name("store")))
        fake(patch)
        for form in ("gemm", "taps"):
            build_one(path, attention=form)
    return path


@pytest.fixture
def store(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineStore:
    """A copy of that store, in use."""
    shutil.copytree(path.with_name("store"), tmp_path / "store")
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "store"))
    return EngineStore(tmp_path / "store")


@pytest.fixture
def small(path, store, monkeypatch) -> Path:
    """The file of an engine of 4 KiB, in the place of the one that was built."""
    fake(monkeypatch)
    built = build_one(path)
    manifest = msgspec.structs.replace(built.manifest, plan=digest(PLAN), plan_bytes=SIZE)
    store.remember(manifest, PLAN)
    found = store.plan_path(manifest)
    assert found is not None
    return found


@pytest.fixture
def opening(path, store, small, monkeypatch) -> Callable[[], str]:
    """Opens the engine as `sattn-run` does, and tells how that ended: `7`, or `reached`."""

    def reached(*args: Any) -> None:
        raise ReachedError

    model: ModelFile = load_model_file(path)
    device = open_device("tensorrt")
    monkeypatch.setattr(module, "deserialise", reached)

    def act() -> str:
        try:
            module._open(model, OPTIONS, device, store)
        except ReachedError:
            return "reached"
        except SattnEdgeError as error:
            return str(error.exit_code)
        return "opened"

    return act


def damaged(small: Path, opening: Callable[[], str], step: int = 1) -> set[str]:
    """How opening ended with each byte flipped in one bit, and with each length cut to."""
    ends = set()
    handle = os.open(small, os.O_RDWR)
    try:
        for i in range(0, SIZE, step):
            os.pwrite(handle, bytes([PLAN[i] ^ 1 << i % 8]), i)
            ends.add(opening())
            os.pwrite(handle, PLAN[i : i + 1], i)
        for length in range(SIZE - 1, -1, -step):
            os.ftruncate(handle, length)
            ends.add(opening())
    finally:
        os.close(handle)
    return ends


def test_no_flip_and_no_cut_of_an_engine_reaches_tensorrt(small, opening):
    assert opening() == "reached"  # whole, it does
    assert damaged(small, opening) == {"7"}


def test_control_without_the_digest_they_would(small, opening, monkeypatch):
    monkeypatch.setattr(engine_store, "digest", lambda data: digest(PLAN))
    assert damaged(small, opening, step=100) == {"reached"}


# ------------------------------------------------------------------ through the commands


def flip(plan: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)


def cut(plan: Path) -> None:
    os.truncate(plan, plan.stat().st_size - 1)


def swap(plan: Path) -> None:
    plan.write_bytes(next(p for p in plan.parents[1].rglob("*.plan") if p != plan).read_bytes())


def write_for_all(plan: Path) -> None:
    plan.chmod(0o666)


def folder_for_all(plan: Path) -> None:
    plan.parent.chmod(0o777)


DAMAGE = {
    "flipped": (flip, DigestError, 7, "has sha256:"),
    "cut": (cut, DigestError, 7, "has sha256:"),
    "another's": (swap, DigestError, 7, "has sha256:"),
    "gone": (Path.unlink, UnavailableError, 6, "can't be read (No such file or directory)"),
    "a link to nothing": (lambda p: (p.unlink(), p.symlink_to("nothing")), UnavailableError, 6, "can't be read"),
    "writable": (write_for_all, UnavailableError, 6, "others can write '"),
    "in a writable folder": (folder_for_all, UnavailableError, 6, "others can write '"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_engine_is_not_run_and_the_way_out_works(path, store, monkeypatch, capfd, tmp_path, case):
    damage, kind, code, words = DAMAGE[case]
    fake(monkeypatch, log=tmp_path / "calls")
    built = build_one(path)
    assert built.remembered
    plan = store.plan_path(built.manifest)
    damage(plan)
    before = calls(tmp_path / "calls").count(DESERIALISE)
    with pytest.raises(kind) as caught:
        load_engine(path, "tensorrt", attention="gemm")
    done = Cli(capfd, monkeypatch)("sattn-verify", path, "--backend", "tensorrt", "--attention", "gemm")
    assert (caught.value.exit_code, done.code) == (code, code)
    assert words in str(caught.value)
    assert str(caught.value) in done.err
    assert calls(tmp_path / "calls").count(DESERIALISE) == before

    line = f"sattn-build {path} --backend tensorrt --precision fp32 --attention gemm --retune"
    if "writable" in case:
        place, mode = (plan.parent, 700) if "folder" in case else (plan, 600)
        assert caught.value.todo == f"chmod {mode} '{place}'"
        place.chmod(int(str(mode), 8))
    else:
        assert caught.value.todo == f"build it again: {line}"
        assert not build_one(path, retune=True).remembered
    load_engine(path, "tensorrt", attention="gemm").close()


def test_an_engine_that_is_built_anew_while_it_is_opened(path, store, monkeypatch):
    fake(monkeypatch)
    built = build_one(path)
    data = store.read_plan(built.manifest)
    whole = module.find
    asked = []

    def then_replaced(*args: Any) -> Any:
        found = whole(*args)
        if not asked:  # between manifest and engine another build ends
            asked.append(found)
            store.remember(msgspec.structs.replace(found, plan=digest(data + b"\0")), data + b"\0")
        return found

    monkeypatch.setattr(module, "find", then_replaced)
    device = open_device("tensorrt")
    manifest, plan = module._read(load_model_file(path), OPTIONS, device, store)
    assert (manifest.plan, plan) == (digest(data + b"\0"), data + b"\0")
