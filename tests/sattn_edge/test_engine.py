from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.engine import (
    BACKENDS,
    BUILT,
    COPIED_IN,
    COPIED_OUT,
    DEFAULT_BACKEND,
    INFERRED,
    Engine,
    EngineOptions,
    check_windows,
    load_engine,
    open_engine,
)
from sattn_edge.engine_manifest import Request
from sattn_edge.errors import ModelFileError, UnavailableError, UsageError
from sattn_edge.model_file import load_model_file, parse_model_file
from sattn_runtime.tensorrt.build import TensorRTBuild, build
from tests.helpers_data import make_contract
from tests.helpers_device import use_fake_device
from tests.helpers_model import logits_of, save_model

CONTRACT = make_contract(window=8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=16, modal=2)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(path: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Every backend in the table; those that run what was built have a fake device, and an engine in its store."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param in BUILT:
            patch.setenv("SATTN_EDGE_STORE", str(tmp_path_factory.mktemp("store")))
            use_fake_device(patch)
            asked = Request(request.param, "fp32", "gemm", batch_range=(1, 2, 4))
            build(load_model_file(path), TensorRTBuild(asked, rounds=1))
        yield request.param


@pytest.fixture(scope="module")
def engine(path: Path, backend: str) -> Iterator[Engine]:
    """The suite below holds for every backend."""
    opened = load_engine(path, backend, attention="gemm")
    yield opened
    opened.close()


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_batch_gives_the_logits_of_its_windows(engine, path, batch, seed):
    x = np.random.default_rng(seed).normal(size=(batch, 1, 16, 2)).astype(np.float32)
    logits, wanted = engine.infer(x), logits_of(path.read_bytes(), x)
    assert (logits.dtype, logits.shape) == (np.float32, (batch, 3))
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-6 * scale)
    singly = np.concatenate([engine.infer(window[None]) for window in x])
    np.testing.assert_allclose(singly, wanted, rtol=0, atol=1e-6 * scale)


def test_a_view_is_read_as_what_it_shows(engine):
    signal = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    before = signal.copy()
    view = signal[7:23].reshape(1, 1, 16, 2)
    assert np.shares_memory(view, signal)
    np.testing.assert_array_equal(engine.infer(view), engine.infer(view.copy()))
    np.testing.assert_array_equal(signal, before)


def test_results_are_not_overwritten_by_the_next(engine):
    one = engine.infer(np.zeros((1, 1, 16, 2), np.float32))
    kept = one.copy()
    other = engine.infer(np.ones((1, 1, 16, 2), np.float32))
    np.testing.assert_array_equal(one, kept)
    assert not np.array_equal(one, other)


def test_stamps_are_in_order_and_the_logits_the_same(engine):
    x, stamps = np.ones((1, 1, 16, 2), np.float32), [0, 0, 0]
    logits = engine.infer_stamped(x, stamps)
    assert 0 < stamps[COPIED_IN] < stamps[INFERRED] <= stamps[COPIED_OUT]
    np.testing.assert_array_equal(logits, engine.infer(x))


def test_what_it_says_of_itself(engine, path):
    info = engine.info
    assert info.backend in BACKENDS
    assert (info.precision, info.threads) == ("fp32", 1)
    assert info.version
    assert info.device
    assert info.graph_digest == load_model_file(path).graph_digest
    assert engine.contract == load_model_file(path).contract


def test_closing(path, backend):
    engine = load_engine(path, backend, attention="gemm")
    engine.infer(np.zeros((1, 1, 16, 2), np.float32))
    engine.close()


def test_threads_are_the_cpus(path):
    assert load_engine(path, threads=2).info.threads == 2


WRONG = {
    "float64": (np.zeros((1, 1, 8, 2)), "got float64; the contract says float32 [batch, 1, 8, 2]; convert it"),
    "list": ([[[[0.0]]]], "got list; the contract says float32"),
    "3-D": (np.zeros((1, 8, 2), np.float32), "got shape [1, 8, 2]; the contract says float32 [batch, 1, 8, 2]"),
    "planes": (np.zeros((1, 2, 8, 2), np.float32), "got shape [1, 2, 8, 2]"),
    "series": (np.zeros((1, 1, 9, 2), np.float32), "got shape [1, 1, 9, 2]"),
    "modal": (np.zeros((1, 1, 8, 3), np.float32), "got shape [1, 1, 8, 3]"),
    "none": (np.zeros((0, 1, 8, 2), np.float32), "got shape [0, 1, 8, 2]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_windows_are_refused(case):
    x, text = WRONG[case]
    with pytest.raises(UsageError, match=re.escape(f"input 'window': {text}")):
        check_windows(x, CONTRACT)


def test_the_right_windows_are_not():
    check_windows(np.zeros((3, 1, 8, 2), np.float32), CONTRACT)


def test_an_engine_checks_its_windows(engine):
    with pytest.raises(UsageError, match=r"got shape \[1, 1, 15, 2\]; the contract says float32 \[batch, 1, 16, 2\]"):
        engine.infer(np.zeros((1, 1, 15, 2), np.float32))


# ------------------------------------------------------------------ opening


def test_an_unknown_backend_is_told_before_a_file_is_read():
    with pytest.raises(UsageError, match="backend: got 'onnx-runtime'; did you mean 'onnxruntime'"):
        load_engine("nowhere.onnx", "onnx-runtime")


def test_a_backend_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(BACKENDS, "not_there", "not_there:open_engine")
    with pytest.raises(UnavailableError, match="backend 'not_there': is not installed; install it: pip install not_t"):
        load_engine("nowhere.onnx", "not_there")


def test_a_precision_it_does_not_have(path):
    text = "precision 'int3': is not available on onnxruntime; known: fp32"
    with pytest.raises(UnavailableError, match=text) as caught:
        load_engine(path, precision="int3")
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread(path, threads):
    with pytest.raises(UsageError, match=f"threads: got {threads}; 1 or more"):
        load_engine(path, threads=threads)


def test_a_graph_that_the_runtime_refuses(path, monkeypatch):
    """What the gate let through and the runtime does not take is still an error of ours."""
    model = load_model_file(path)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.node[0].op_type = "NoSuchOperator"
    broken = type(model)(**{**vars(model), "data": proto.SerializeToString()})
    with pytest.raises(ModelFileError, match=r"small\.onnx: ONNX Runtime refuses the graph \(.*\); export it again"):
        open_engine(broken, DEFAULT_BACKEND, EngineOptions())


def test_engines_of_one_file_are_independent(path):
    model = parse_model_file(path.read_bytes(), "m")
    one, other = (open_engine(model, DEFAULT_BACKEND, EngineOptions()) for _ in range(2))
    x = np.ones((1, 1, 16, 2), np.float32)
    wanted = one.infer(x)
    one.close()
    np.testing.assert_array_equal(other.infer(x), wanted)
