"""One thing changes: the engine of before is never run, the reason names that thing, and a build builds anew."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sattn_edge import engine_manifest
from sattn_edge.engine import load_engine
from sattn_edge.engine_store import EngineStore
from sattn_edge.errors import UnavailableError
from sattn_edge.model_file import load_model_file
from sattn_runtime.tensorrt import device
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_device import calls
from tests.helpers_model import logits_of, model_file
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one, fake, save

DESERIALISE = "Runtime.deserialize_cuda_engine"
BUILD = "Builder.build_serialized_network"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model file and a store that has its engine in fp32 and in int8, both in form gemm."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SATTN_EDGE_STORE", str(folder / "store"))
        fake(patch)
        path = save(folder)
        for precision in ("fp32", "int8"):
            build_one(path, precision)
    return folder


@pytest.fixture
def place(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in use."""
    shutil.copytree(built, tmp_path / "place")
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "place" / "store"))
    return tmp_path / "place"


def other_graph(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(model_file(load_model_file(path).contract, seed=1))


def other_calibration(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate_by_hand(path, shrink=0.9)


def other_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_manifest, "__version__", "9.9.9")


def other_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "l4t_release", lambda: "36.4.4")


def other_processor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_manifest, "cpu_name", lambda: "another")


OURS, CPU = engine_manifest.__version__, engine_manifest.cpu_name()
FITS_NOT = "the one built on {day} does not fit: "
Act = Callable[[Path, pytest.MonkeyPatch], None]
CASES: dict[str, tuple[dict[str, object] | Act, dict[str, str], str]] = {
    "release": ({"release": "10.7.0"}, {}, "TensorRT was 10.3.0 and is 10.7.0"),
    "driver": ({"driver": 12080}, {}, "the CUDA driver was 12.6 and is 12.8"),
    "cuda": ({"runtime": 12080}, {}, "CUDA was 12.6 and is 12.8"),
    "gpu": ({"gpu": "Fake Thor"}, {}, "the GPU was Fake Orin and is Fake Thor"),
    "capability": ({"compute_capability": "8.6"}, {}, "its compute capability was 8.7 and is 8.6"),
    "l4t": (other_system, {}, "L4T was not set and is 36.4.4"),
    "version": (other_version, {}, f"sattn-edge was {OURS} and is 9.9.9"),
    "processor": (other_processor, {}, f"the processor was {CPU} and is another"),
    "graph": (other_graph, {}, "the graph is another one"),
    "calibration": (other_calibration, {"precision": "int8"}, "the calibration table is another one"),
    "precision": ({}, {"precision": "fp16"}, "none was built in fp16, only in "),
    "attention": ({}, {"attention": "taps"}, "the attention form asked for was gemm and is taps"),
}


def right(path: Path, precision: str = "fp32", attention: str = "gemm") -> bool:
    """Whether the engine that is loaded gives the model file's logits."""
    engine = load_engine(path, "tensorrt", precision, attention=attention)
    x = load_model_file(path).golden.x
    wanted = logits_of(path.read_bytes(), x)
    try:
        return bool(np.abs(engine.infer(x) - wanted).max() <= 0.1 * np.abs(wanted).max())
    finally:
        engine.close()


@pytest.mark.parametrize("case", CASES)
def test_an_engine_that_does_not_fit_any_more(place, monkeypatch, case):
    change, asked, why = CASES[case]
    path, log = place / "small.onnx", place / "calls"
    precision, attention = asked.get("precision", "fp32"), asked.get("attention", "gemm")
    fake(monkeypatch, log=log)
    assert right(path, "int8" if precision == "int8" else "fp32")
    assert calls(log).count(DESERIALISE) == 1

    if callable(change):
        change(path, monkeypatch)
    else:
        fake(monkeypatch, log=log, **change)
    with pytest.raises(UnavailableError) as caught:
        load_engine(path, "tensorrt", precision, attention=attention)
    assert caught.value.exit_code == 6
    day = next(e.manifest for e in EngineStore(place / "store").entries() if e.manifest).created[:10]
    found = caught.value.found
    if case == "precision":
        assert found in (why + "fp32", why + "int8")
    else:
        assert found == FITS_NOT.format(day=day) + why
    line = f"sattn-build {path} --backend tensorrt --precision {precision} --attention {attention}"
    assert caught.value.todo == f"build it: {line}"
    assert calls(log).count(DESERIALISE) == 1  # the old one was not even looked at
    assert BUILD not in calls(log)

    again = build_one(path, precision, attention)
    assert not again.remembered
    assert calls(log).count(BUILD) == 1
    assert right(path, precision, attention)


def test_control_nothing_changed(place, monkeypatch):
    path, log = place / "small.onnx", place / "calls"
    fake(monkeypatch, log=log)
    assert build_one(path).remembered
    assert right(path)
    assert BUILD not in calls(log)


def test_another_calibration_is_nothing_to_fp32(place, monkeypatch):
    path = place / "small.onnx"
    other_calibration(path, monkeypatch)
    fake(monkeypatch)
    assert build_one(path).remembered
    assert right(path)


SIZES = {"batch": {"batch": 4}, "range": {"batch_range": (1, 2, 4)}, "workspace": {"workspace_mib": 64}}


@pytest.mark.parametrize("case", SIZES)
def test_another_batch_or_workspace_is_built_and_either_is_run(place, monkeypatch, case):
    path, log = place / "small.onnx", place / "calls"
    fake(monkeypatch, log=log)
    plain = build_one(path)
    other = build_one(path, **SIZES[case])
    assert (plain.remembered, other.remembered, calls(log).count(BUILD)) == (True, False, 1)
    assert plain.path != other.path
    assert build_one(path, **SIZES[case]).remembered
    assert right(path)
    shutil.rmtree(plain.path.parent)
    assert right(path)  # by the other


def test_the_line_builds_what_was_there_before(place, monkeypatch):
    path = place / "small.onnx"
    fake(monkeypatch)
    built = build_one(path, batch_range=(1, 2, 4), workspace_mib=64, attention="taps")
    assert built.manifest.subject.request.batch_range == (1, 2, 4)
    fake(monkeypatch, release="10.7.0")
    with pytest.raises(UnavailableError) as caught:
        load_engine(path, "tensorrt", attention="taps")
    line = f"sattn-build {path} --backend tensorrt --precision fp32 --attention taps --batch-range 1,2,4"
    assert caught.value.todo.startswith(f"build it: {line}")


def test_a_broken_manifest_is_told_rather_than_what_else_there_is(place, monkeypatch):
    path, store = place / "small.onnx", EngineStore(place / "store")
    fake(monkeypatch)
    entry = next(e for e in store.entries() if e.manifest and e.manifest.precision == "fp32")
    manifest = entry.folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-30])
    with pytest.raises(
        UnavailableError, match=rf"engine for small.onnx: '{manifest}' can't be read \(.*--precision fp32"
    ):
        load_engine(path, "tensorrt", attention="gemm")
    again = build_one(path)
    assert (again.remembered, len(again.notes)) == (False, 1)
    assert str(manifest) in again.notes[0]
    assert right(path)


def test_the_manifest_of_another_engine_in_its_place(place, monkeypatch):
    path, store = place / "small.onnx", EngineStore(place / "store")
    fake(monkeypatch)
    by_precision = {e.manifest.precision: e.folder for e in store.entries() if e.manifest}
    shutil.copytree(by_precision["int8"], by_precision["fp32"], dirs_exist_ok=True)
    with pytest.raises(UnavailableError, match=r"manifest.json' is of something else; nothing of it is used"):
        load_engine(path, "tensorrt", attention="gemm")


def test_measured_again_although_the_clock_is_behind_what_was_built(place, monkeypatch):
    path, store, log = place / "small.onnx", EngineStore(place / "store"), place / "calls"
    fake(monkeypatch, log=log)
    manifest = build_one(path).manifest
    later = msgspec.structs.replace(manifest, created="2999-01-01T00:00:00.000000+00:00")
    store.remember(later, store.read_plan(manifest))
    again = build_one(path, retune=True)
    assert (again.remembered, calls(log).count(BUILD)) == (False, 1)
    assert store.look_up(manifest.subject).manifest == again.manifest
