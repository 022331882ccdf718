"""The engine's calls on the fake device: every way in and out, every batch, one thread, nothing left behind."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.engine import COPIED_IN, COPIED_OUT, INFERRED, EngineOptions, load_engine
from sattn_edge.engine_manifest import Shortcut
from sattn_edge.errors import UnavailableError, UsageError
from sattn_edge.lowering import Target, lower
from sattn_edge.model_file import load_model_file
from sattn_runtime.cuda import CudaError, open_cuda
from sattn_runtime.tensorrt.bindings import load
from sattn_runtime.tensorrt.compile_process import CompileOptions, compile_graph
from sattn_runtime.tensorrt.engine import deserialise
from sattn_runtime.tensorrt.executor import Executor
from sattn_runtime.tensorrt.job import Profile
from sattn_runtime.tensorrt.shortcuts import SHORTCUTS
from sattn_runtime.testing import device
from tests.helpers_device import calls
from tests.helpers_model import logits_of
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one, fake, save

ONE, RANGE = Profile(1, 1, 1), Profile(1, 2, 4)
PINNED_GRAPH = Shortcut("pinned", graph=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plans(path: Path) -> dict[Profile, bytes]:
    """One engine of fixed and one of free batch."""
    with pytest.MonkeyPatch.context() as patch:
        fake(patch)
        out = {}
        for profile in (ONE, RANGE):
            target = Target("tensorrt", free_batch=profile is RANGE)
            options = CompileOptions("tensorrt", 1 << 30, profile=profile if profile is RANGE else None)
            out[profile] = compile_graph(lower(load_model_file(path).proto, target).model, options).plan
        return out


@pytest.fixture
def executor(plans, monkeypatch, tmp_path):
    """Makes an executor on a fresh fake device. What it gave out is closed, and must then all be gone."""
    opened = []

    def make(shortcut: Shortcut = SHORTCUTS[0], batch: Profile = ONE, **config) -> Executor:
        fake(monkeypatch, log=tmp_path / "calls", **config)
        bindings, cuda = load("tensorrt"), open_cuda()
        opened.append(cuda)
        return Executor(bindings, cuda, deserialise(bindings, plans[batch]), batch, shortcut)

    yield make
    for cuda in opened:
        cuda.close()
        assert not any(device.current().live().values())


def windows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 1, 32, 3)).astype(np.float32)


def same(found: np.ndarray, path: Path, x: np.ndarray) -> bool:
    wanted = logits_of(path.read_bytes(), x)
    return bool(np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max())


PYCUDA = {"cuda_python": ""}  # the other is not installed
WAYS = [(s, {}) for s in SHORTCUTS] + [(s, PYCUDA) for s in SHORTCUTS if not s.graph]


@pytest.mark.parametrize(("shortcut", "adapter"), WAYS, ids=lambda v: getattr(v, "text", None))
def test_every_way_gives_the_logits_again_and_again(executor, path, shortcut, adapter):
    one = executor(shortcut, **adapter)
    for seed in range(4):  # plain, captured, replayed, replayed
        x = windows(1, seed)
        before = x.copy()
        assert same(one.run(x), path, x)
        np.testing.assert_array_equal(x, before)


def test_control_another_window_gives_other_logits(executor, path):
    assert not same(executor().run(windows(1)), path, windows(1, seed=1))


@pytest.mark.parametrize("shortcut", SHORTCUTS, ids=lambda s: s.text)
def test_every_batch_of_a_range_in_any_order(executor, path, shortcut):
    one = executor(shortcut, RANGE)
    for count in (1, 4, 2, 3, 1, 4, 4, 1):
        x = windows(count, seed=count)
        found = one.run(x)
        assert found.shape == (count, 3)
        assert same(found, path, x)


def test_a_fixed_batch_is_filled_up(monkeypatch, tmp_path, path):
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "store"))
    fake(monkeypatch)
    build_one(path, batch=4)
    engine = load_engine(path, "tensorrt", attention="gemm")
    try:
        for count in (1, 4, 3, 9):
            assert same(engine.infer(windows(count)), path, windows(count))
    finally:
        engine.close()


def test_logits_are_the_callers_own(executor):
    one = executor(PINNED_GRAPH)
    first = one.run(windows(1))
    kept = first.copy()
    one.run(windows(1, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_a_graph_is_captured_once_after_one_plain_run(executor, tmp_path):
    one = executor(PINNED_GRAPH)
    for seed in range(5):
        one.run(windows(1, seed))
    made = calls(tmp_path / "calls")
    assert made.count("cudaStreamBeginCapture") == made.count("cudaStreamEndCapture") == 1
    assert made.count("cudaGraphLaunch") == 4
    # TensorRT sets itself up in the plain run: that comes first, and what is captured is the second call.
    first, second = (i for i, name in enumerate(made) if name == "IExecutionContext.execute_async_v3")
    assert first < made.index("cudaStreamBeginCapture") < second < made.index("cudaStreamEndCapture")


def test_without_a_graph_nothing_is_captured(executor, tmp_path):
    one = executor(Shortcut("pinned"))
    for seed in range(3):
        one.run(windows(1, seed))
    assert "cudaStreamBeginCapture" not in calls(tmp_path / "calls")


@pytest.mark.parametrize(("memory", "copies"), [("mapped", 0), ("pinned", 2), ("pageable", 2)])
def test_mapped_memory_is_copied_by_nobody(executor, tmp_path, memory, copies):
    executor(Shortcut(memory)).run(windows(1))
    assert calls(tmp_path / "calls").count("cudaMemcpyAsync") == copies


def test_buffers_are_made_once(executor, tmp_path):
    one = executor(Shortcut("pinned"))
    one.run(windows(1))
    before = calls(tmp_path / "calls")
    for seed in range(3):
        one.run(windows(1, seed))
    after = calls(tmp_path / "calls")[len(before) :]
    assert not {"cudaMalloc", "cudaHostAlloc", "ICudaEngine.create_execution_context"} & set(after)


def test_stamps_are_in_order(executor):
    stamps = [0, 0, 0]
    executor().run(windows(1), stamps)
    assert 0 < stamps[COPIED_IN] < stamps[INFERRED] <= stamps[COPIED_OUT]


def test_the_gpus_own_time_is_that_of_the_engine_alone(executor):
    one = executor(costs_us=[["sigmoid", 42.0]], copy_us=1000.0)
    assert one.device_us(3) == pytest.approx([42.0] * 3)


# ------------------------------------------------------------------ what goes wrong


def test_another_thread_is_refused(monkeypatch, tmp_path, path):
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "store"))
    fake(monkeypatch)
    build_one(path)
    engine = load_engine(path, "tensorrt", attention="gemm")
    caught: list[BaseException] = []

    def use(call) -> None:
        try:
            call()
        except UsageError as error:
            caught.append(error)

    for call in (lambda: engine.infer(windows(1)), lambda: engine.infer_stamped(windows(1), [0, 0, 0])):
        thread = threading.Thread(target=use, args=(call,))
        thread.start()
        thread.join()
    assert len(caught) == 2
    assert all("open one engine in each thread" in str(error) for error in caught)
    engine.infer(windows(1))
    engine.close()


@pytest.mark.parametrize(
    ("shortcut", "fault", "code"),
    [
        (SHORTCUTS[0], {"cudaMalloc": "cudaErrorMemoryAllocation"}, "cudaErrorMemoryAllocation"),
        (Shortcut("pinned"), {"cudaHostAlloc": "cudaErrorMemoryAllocation"}, "cudaErrorMemoryAllocation"),
        (SHORTCUTS[0], {"cudaStreamSynchronize": "cudaErrorIllegalAddress"}, "cudaErrorIllegalAddress"),
        (PINNED_GRAPH, {"cudaGraphLaunch": "cudaErrorLaunchFailure"}, "cudaErrorLaunchFailure"),
    ],
)
def test_cudas_errors_carry_their_name(executor, shortcut, fault, code):
    def run_twice() -> None:
        one = executor(shortcut, faults=fault)
        for seed in range(2):
            one.run(windows(1, seed))

    with pytest.raises(CudaError, match=code) as caught:
        run_twice()
    assert caught.value.exit_code == 6
    assert caught.value.code == code


def test_an_engine_that_does_not_run_says_so(executor):
    with pytest.raises(UnavailableError, match=r"engine: execute_async_v3 failed \(.*\); build it again with --retune"):
        executor(faults={"execute": False}).run(windows(1))


def test_an_execution_that_fails_while_captured_leaves_no_capture_open(executor, monkeypatch):
    one = executor(PINNED_GRAPH)
    runs = [True, False]
    monkeypatch.setattr(one, "_execute", lambda context: one._must(runs.pop(0), "execute_async_v3"))
    with pytest.raises(UnavailableError, match="execute_async_v3 failed"):
        one.run(windows(1))
    assert all(stream.capture is None for stream in device.current().streams.values())


def test_threads_are_refused(path, monkeypatch):
    fake(monkeypatch)
    with pytest.raises(UsageError, match="--threads: got 2; tensorrt runs on the GPU; leave it out"):
        load_engine(path, "tensorrt", threads=2)


def test_options_that_are_not_for_a_gpu_are_told_before_it_is_opened(path, monkeypatch, tmp_path):
    from sattn_edge.engine import open_engine

    fake(monkeypatch, log=tmp_path / "calls")
    with pytest.raises(UsageError):
        open_engine(load_model_file(path), "tensorrt", EngineOptions(threads=3))
    assert calls(tmp_path / "calls") == []
