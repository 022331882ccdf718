"""The real thing: real bindings, a real GPU, real windows. Skipped, with the reason, where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sattn_edge.engine import BUILT, load_engine
from sattn_edge.errors import SattnEdgeError
from sattn_edge.model_file import load_model_file
from sattn_runtime.tensorrt.accept import TOLERANCES
from sattn_runtime.tensorrt.device import device_or_reason
from sattn_runtime.tensorrt.shortcuts import SHORTCUTS
from sattn_runtime.verify import verify_engine
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_data import WATCH_TINY
from tests.helpers_model import WIDE, logits_of, save_watch_model
from tests.helpers_run import Cli, lines_of
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one

pytestmark = pytest.mark.gpu
PRECISIONS = ("fp32", "fp16", "int8")


def missing(backend: str) -> str:
    """Why nothing runs here, "" where it does."""
    try:
        found = device_or_reason(backend)
    except SattnEdgeError as error:
        return str(error)
    if isinstance(found, str):
        return found
    found.cuda.close()
    return ""


@pytest.fixture(scope="module", params=BUILT)
def backend(request) -> str:
    if reason := missing(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference network's widths on real windows of 200 x 6."""
    return calibrate_by_hand(save_watch_model(tmp_path_factory.mktemp("model"), widths=WIDE))


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SATTN_EDGE_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_form_is_accepted_and_one_is_kept(backend, path, precision):
    built = build_one(path, precision, "auto", backend=backend, rounds=20)
    for row in built.manifest.candidates:
        assert row.left_out in ("", "same as reference"), row
        if row.acceptance is not None:
            assert row.acceptance.difference <= TOLERANCES[precision], row
            assert row.median_us > 0
    assert built.manifest.accepted
    assert built.manifest.shortcut is not None


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [{"batch": 1}, {"batch": 4}, {"batch_range": (1, 2, 8)}], ids=str)
def test_every_batch_gives_the_logits(backend, path, precision, batch):
    build_one(path, precision, backend=backend, retune=True, **batch)
    engine = load_engine(path, backend, precision, attention="gemm")
    try:
        assert verify_engine(load_model_file(path), engine).passed
        x = load_model_file(path).golden.x
        for count in (1, 3, len(x)):
            wanted = logits_of(path.read_bytes(), x[:count])
            found = engine.infer(x[:count])
            assert np.abs(found - wanted).max() <= 5e-2 * np.abs(wanted).max()
    finally:
        engine.close()


def test_every_way_to_call_it_gives_the_same(backend, path):
    built = build_one(path, "fp16", backend=backend, retune=True)
    assert len(built.manifest.shortcuts) == len(SHORTCUTS)
    assert not [row for row in built.manifest.shortcuts if row.note == "gives other logits"]


def test_a_stream_of_real_samples(backend, path, tmp_path, capfd, monkeypatch):
    cli = Cli(capfd, monkeypatch)
    build_one(path, "fp16", "auto", backend=backend)
    for name, more in (("gpu", ("--backend", backend, "--precision", "fp16")), ("cpu", ())):
        done = cli("sattn-run", path, f"replay:{WATCH_TINY}", *more, "--journal", tmp_path / f"{name}.jsonl")
        assert done.code == 0, done.err
    gpu, cpu = ([w["label"] for w in lines_of(tmp_path / f"{name}.jsonl", "window")] for name in ("gpu", "cpu"))
    assert sum(a != b for a, b in zip(gpu, cpu, strict=True)) <= 0.01 * len(cpu)
