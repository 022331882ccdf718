"""Engines with a second output: built, accepted, called every way on the fake device; compiled by the real compiler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sattn_edge.engine import COPIED_IN, COPIED_OUT, INFERRED, load_engine
from sattn_edge.errors import QualityError, UnavailableError, UsageError
from sattn_edge.lowering import FORMS, Target, lower
from sattn_edge.model_file import load_model_file
from sattn_runtime.cuda import open_cuda
from sattn_runtime.tensorrt.bindings import load
from sattn_runtime.tensorrt.compile_process import CompileOptions, compile_graph
from sattn_runtime.tensorrt.engine import deserialise
from sattn_runtime.tensorrt.executor import Executor
from sattn_runtime.tensorrt.fusion import block_fusions
from sattn_runtime.tensorrt.job import Profile
from sattn_runtime.tensorrt.shortcuts import SHORTCUTS
from sattn_runtime.testing import device
from tests.helpers_device import calls
from tests.helpers_model import session_of
from tests.sattn_runtime.tensorrt.helpers_engines import compiled
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one, fake, save

ONE, RANGE = Profile(1, 1, 1), Profile(1, 2, 4)
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), attention=True)


@pytest.fixture(scope="module")
def plans(path: Path) -> dict[Profile, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        fake(patch)
        out = {}
        for profile in (ONE, RANGE):
            target = Target("tensorrt", free_batch=profile is RANGE)
            options = CompileOptions("tensorrt", 1 << 30, profile=profile if profile is RANGE else None)
            out[profile] = compile_graph(lower(load_model_file(path).proto, target).model, options).plan
        return out


def windows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 1, 32, 3)).astype(np.float32)


def same(found: tuple[np.ndarray, ...], path: Path, x: np.ndarray) -> bool:
    wanted = session_of(path.read_bytes()).run(None, {"input": x})
    assert [one.shape for one in found] == [one.shape for one in wanted]
    return all(np.abs(a - b).max() <= 1e-5 * np.abs(b).max() for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("batch", [ONE, RANGE], ids=["one", "range"])
@pytest.mark.parametrize("shortcut", SHORTCUTS, ids=lambda s: s.text)
def test_every_way_gives_the_gates_of_the_same_windows(plans, path, monkeypatch, shortcut, batch):
    fake(monkeypatch)
    bindings, cuda = load("tensorrt"), open_cuda()
    executor = Executor(bindings, cuda, deserialise(bindings, plans[batch]), batch, shortcut)
    try:
        for seed, count in enumerate((1, 1, 1, 1) if batch is ONE else (1, 4, 2, 4, 3, 4)):
            x = windows(count, seed)
            assert same((executor.run(x), executor.gates(count)), path, x)
        kept = executor.gates(count)
        before = kept.copy()
        executor.run(windows(count, seed=99))
        np.testing.assert_array_equal(kept, before)  # the caller's own
        assert not same((executor.run(x), before * 0), path, x), "the control"
    finally:
        cuda.close()
    assert not any(device.current().live().values())


@pytest.mark.parametrize(("memory", "copies"), [("mapped", 0), ("pinned", 3), ("pageable", 3)])
def test_the_output_costs_one_copy(plans, monkeypatch, tmp_path, memory, copies):
    fake(monkeypatch, log=tmp_path / "calls")
    bindings, cuda = load("tensorrt"), open_cuda()
    shortcut = next(s for s in SHORTCUTS if s.memory == memory)
    Executor(bindings, cuda, deserialise(bindings, plans[ONE]), ONE, shortcut).run(windows(1))
    cuda.close()
    assert calls(tmp_path / "calls").count("cudaMemcpyAsync") == copies


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("release", ["8.6.1", "10.3.0", "11.4.0.106"])
def test_an_engine_is_built_accepted_and_called(monkeypatch, tmp_path, path, release, precision):
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "store"))
    fake(monkeypatch, release=release)
    built = build_one(path, precision)
    (candidate,) = [c for c in built.manifest.candidates if c.acceptance is not None and c.form == "gemm"]
    assert candidate.acceptance.accepted
    engine = load_engine(path, "tensorrt", precision=precision, attention="gemm")
    try:
        stamps = [0, 0, 0]
        x = windows(1)
        logits, gates = engine.infer_attention(x, stamps)
        np.testing.assert_array_equal(logits, engine.infer(x))
        assert 0 < stamps[COPIED_IN] <= stamps[INFERRED] <= stamps[COPIED_OUT]
        wanted = session_of(path.read_bytes()).run(None, {"input": x})[1]
        assert np.abs(gates - wanted).max() < {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.1}[precision]
        assert engine.gates == load_model_file(path).attention
    finally:
        engine.close()


def test_an_engine_of_other_gates_is_not_accepted(monkeypatch, tmp_path, path):
    """The logits are right, so only the comparison of the gates can tell."""
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "store"))
    fake(monkeypatch)
    right = Executor.gates
    monkeypatch.setattr(Executor, "gates", lambda self, n: right(self, n)[:, ::-1].copy())
    with pytest.raises(QualityError, match="no engine in fp32 gives what ONNX Runtime gives on its graph"):
        build_one(path)


def test_an_engine_of_a_file_without_has_no_gates(monkeypatch, tmp_path):
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "store"))
    fake(monkeypatch)
    plain = save(tmp_path)
    build_one(plain)
    engine = load_engine(plain, "tensorrt", attention="gemm")
    try:
        assert engine.gates is None
        with pytest.raises(UsageError, match="attention: the model file does not give it"):
            engine.infer_attention(windows(1), [0, 0, 0])
    finally:
        engine.close()


def test_an_engine_with_a_second_output_of_another_name_is_refused(monkeypatch, path):
    fake(monkeypatch)
    model = load_model_file(path).proto
    for node in model.graph.node:
        node.output[:] = ["something" if name == "attention" else name for name in node.output]
    model.graph.output[1].name = "something"
    plan = compile_graph(lower(model, Target("tensorrt")).model, CompileOptions("tensorrt", 1 << 30)).plan
    bindings, cuda = load("tensorrt"), open_cuda()
    try:
        with pytest.raises(UnavailableError, match=r"has other inputs and outputs than a model file \(.*something \["):
            Executor(bindings, cuda, deserialise(bindings, plan), ONE, SHORTCUTS[0])
    finally:
        cuda.close()


# ------------------------------------------------------------------ by NVIDIA's own compiler


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_output_costs_at_most_one_kernel(form, precision):
    """In form gemm none: the kernels that compute the gates write them out as well. Every block stays fused there."""
    pytest.importorskip("tensorrt_rtx")
    _, without = compiled("reference", form, precision)
    model, layers = compiled("reference", form, precision, attention=True)
    assert len(layers) - len(without) in ((0,) if form == "gemm" else (0, 1))
    given = [t.dims for layer in layers for t in layer.outputs if t.name == "attention"]
    assert given == [(1, 9 * (64 + 32 + 16 + 8))]
    if form == "gemm":
        blocks = block_fusions(model, layers)
        assert len(blocks) == 4
        assert [block.reason for block in blocks if not block.fused] == []


@pytest.mark.parametrize("network", ["maximum", "both"])
def test_every_pooling_compiles(network):
    pytest.importorskip("tensorrt_rtx")
    _, without = compiled(network, "gemm", "fp16")
    _, layers = compiled(network, "gemm", "fp16", attention=True)
    assert len(layers) <= len(without) + 1
