"""The runtime side of the fake: it computes what ONNX Runtime computes, and finds what was forgotten."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from sattn_edge.lowering import FORMS
from sattn_runtime.testing.device import FaultError
from sattn_runtime.testing.fake_tensorrt_plan import MAGIC
from tests.sattn_runtime.testing.helpers_fake_tensorrt import NETWORK, RELEASES, Process, expected, graph, window

SHAPES = tuple((batch, 1, NETWORK.series, NETWORK.modal) for batch in (1, 2, 4))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("form", FORMS)
def test_an_engine_computes_the_very_graph(monkeypatch, form, precision):
    process = Process(monkeypatch)
    model, x = graph(form, precision), window()
    got = process.infer(process.engine(process.plan(model)), x)
    np.testing.assert_allclose(got, expected(model, x), rtol=1e-6, atol=1e-6)


def test_control_another_graph_computes_something_else(monkeypatch):
    process, x = Process(monkeypatch), window()
    got = process.infer(process.engine(process.plan(graph("gemm", "int8"))), x)
    assert np.abs(got - expected(graph(), x)).max() > 1e-5


@pytest.mark.parametrize(("module", "release"), RELEASES)
def test_every_release_executes(monkeypatch, module, release):
    process, x = Process(monkeypatch, module, release=release), window()
    typed = release != "8.6.1"
    model = graph("gemm", "int8", typed=typed)
    config = process.config() if typed else process.config("FP16", "INT8")
    engine = process.engine(process.plan(model, config))
    np.testing.assert_allclose(process.infer(engine, x), expected(model, x), rtol=1e-6, atol=1e-6)
    trt = process.trt
    assert [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)] == ["window", "logits"]
    assert engine.get_tensor_name(2) is None
    modes = [engine.get_tensor_mode(name) for name in ("window", "logits", "other")]
    assert modes == [trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT, trt.TensorIOMode.NONE]
    assert engine.get_tensor_dtype("logits") == trt.DataType.FLOAT
    assert trt.nptype(engine.get_tensor_dtype("logits")) is np.float32
    assert trt.volume(engine.get_tensor_shape("window")) == x.size
    assert engine.get_tensor_location("window") == trt.TensorLocation.DEVICE
    assert getattr(engine, "device_memory_size_v2", None) or engine.device_memory_size
    assert (engine.num_optimization_profiles, engine.profiling_verbosity) == (1, trt.ProfilingVerbosity.DETAILED)
    assert bytes(engine.serialize()) == process.plan(model, config)


def test_no_fp8_in_numpy(monkeypatch):
    trt = Process(monkeypatch).trt
    assert [trt.DataType.HALF.itemsize, trt.DataType.FLOAT.itemsize] == [2, 4]
    with pytest.raises(TypeError, match="Could not resolve"):
        trt.nptype(trt.DataType.FP8)


# ---------------------------------------------------------------------- plans


def test_what_is_no_plan_is_no_engine(monkeypatch):
    process = Process(monkeypatch)
    runtime, plan = process.trt.Runtime(process.log), process.plan(graph())
    wrong_sizes = (plan[:-1], plan + b"x", plan[: len(plan) // 2])
    for data in (b"", b"123", plan[:3], b"vtrt" + plan[4:], MAGIC, *wrong_sizes):
        process.messages.clear()
        assert runtime.deserialize_cuda_engine(data) is None
        assert "deserializeCudaEngine: Error Code 1" in process.said()
        assert ("blobSize" in process.said()) == (data in wrong_sizes)
    with pytest.raises(TypeError):
        runtime.deserialize_cuda_engine(None)
    assert runtime.deserialize_cuda_engine(plan) is not None
    assert runtime.deserialize_cuda_engine(memoryview(bytearray(plan))) is not None


def test_a_plan_whose_graph_is_damaged_is_no_engine(monkeypatch):
    process = Process(monkeypatch)
    plan = process.plan(graph())
    size = struct.unpack_from("<I", plan, 4)[0]
    damaged = plan[: 8 + size] + b"\xff" * (len(plan) - 8 - size)
    assert process.engine(damaged) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"release": "10.7.0"}, "expecting library version 10.7.0 got 10.3.0"),
        ({"gpu": "Another"}, "this is 'Another'"),
        ({"compute_capability": "8.9"}, "Target GPU SM 8.9"),
    ],
)
def test_a_plan_of_elsewhere_is_no_engine(monkeypatch, change, text):
    plan = Process(monkeypatch).plan(graph())
    assert Process(monkeypatch).engine(plan) is not None
    process = Process(monkeypatch, **change)
    assert process.engine(plan) is None
    assert text in process.said()


def test_a_plan_of_tensorrt_is_none_of_rtx(monkeypatch):
    plan = Process(monkeypatch).plan(graph())
    assert Process(monkeypatch, "tensorrt_rtx").engine(plan) is None
    plan = Process(monkeypatch, "tensorrt_rtx").plan(graph())
    assert Process(monkeypatch).engine(plan) is None


@pytest.mark.parametrize(
    ("named", "here", "runs"), [("SM86", "8.6", True), ("SM86", "8.7", False), (None, "8.7", True)]
)
def test_an_engine_of_rtx_runs_on_what_it_was_named(monkeypatch, named, here, runs):
    process = Process(monkeypatch, "tensorrt_rtx", compute_capability=here)
    config = process.config()
    config.num_compute_capabilities = int(named is not None)
    if named is not None:
        config.set_compute_capability(getattr(process.trt.ComputeCapability, named), 0)
    plan = process.plan(graph(), config)
    assert (process.engine(plan) is not None) == runs
    blind = Process(monkeypatch, "tensorrt_rtx", compute_capability=here, visible=False)
    assert blind.engine(plan) is None
    assert "CUDA initialization failure" in blind.said()


# ---------------------------------------------------------------------- shapes


@pytest.fixture
def ranged(monkeypatch):
    """A process and its engine for batches of 1 to 4."""
    process = Process(monkeypatch)
    config, profile = process.config(), process.trt.Builder(process.log).create_optimization_profile()
    profile.set_shape("window", *SHAPES)
    config.add_optimization_profile(profile)
    return process, process.engine(process.plan(graph(free=True), config))


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_ranged_engine_takes_every_batch_in_its_range(ranged, batch):
    process, engine = ranged
    x = window(batch)
    np.testing.assert_allclose(process.infer(engine, x), expected(graph(free=True), x), rtol=1e-6, atol=1e-6)


def test_shapes_are_from_the_profile(ranged):
    _, engine = ranged
    assert engine.get_tensor_profile_shape("window", 0) == list(SHAPES)
    assert engine.get_tensor_profile_shape("window", 1) == engine.get_tensor_profile_shape("logits", 0) == []
    assert engine.get_tensor_shape("window") == (-1, 1, 32, 3)
    context = engine.create_execution_context()
    assert (context.infer_shapes(), context.get_tensor_shape("logits")) == (["window"], (-1, 4))
    for shape in ((5, 1, 32, 3), (0, 1, 32, 3), (1, 1, 32, 4), (1, 32, 3)):
        assert not context.set_input_shape("window", shape)
    assert not context.set_input_shape("logits", (1, 4))
    assert context.set_input_shape("window", (3, 1, 32, 3))
    assert (context.infer_shapes(), context.get_tensor_shape("logits")) == ([], (3, 4))
    assert context.engine is engine
    assert context.set_optimization_profile_async(0, 0)
    assert not context.set_optimization_profile_async(1, 0)


def test_a_fixed_engine_takes_its_own_shape_only(monkeypatch):
    process = Process(monkeypatch)
    engine = process.engine(process.plan(graph()))
    context = engine.create_execution_context()
    assert context.infer_shapes() == []
    assert engine.get_tensor_profile_shape("window", 0) == [SHAPES[0]] * 3
    assert context.set_input_shape("window", SHAPES[0])
    assert not context.set_input_shape("window", SHAPES[1])


# ---------------------------------------------------------------------- execution


@pytest.fixture
def ready(monkeypatch):
    """A process, a context with all set, and its two pieces of memory."""
    return prepare(monkeypatch)


def prepare(monkeypatch, **config):
    process = Process(monkeypatch, **config)
    context = process.engine(process.plan(graph())).create_execution_context()
    source, target = (process.device.allocate(size, "device") for size in (window().nbytes, 16))
    process.write(source.pointer, window())
    context.set_tensor_address("window", source.pointer)
    context.set_tensor_address("logits", target.pointer)
    return process, context, source, target


def test_what_was_forgotten_is_an_error_in_the_log(ranged):
    process, engine = ranged
    context = engine.create_execution_context()
    source, target = (process.device.allocate(size, "device") for size in (window().nbytes, 16))
    steps = (
        ("window", lambda: context.set_input_shape("window", SHAPES[0])),
        ("window", lambda: context.set_tensor_address("window", source.pointer)),
        ("logits", lambda: context.set_tensor_address("logits", target.pointer)),
    )
    for missing, step in steps:
        process.messages.clear()
        assert not context.execute_async_v3(0)
        assert f"no address or shape is set for {missing}" in process.said()
        assert step()
    assert context.execute_async_v3(0)
    assert not context.set_tensor_address("other", 1)
    assert (context.get_tensor_address("logits"), context.get_tensor_address("other")) == (target.pointer, 0)


def test_memory_that_is_not_the_devices_is_found(ready):
    _, context, source, _ = ready
    context.set_tensor_address("window", source.pointer + 4)
    with pytest.raises(FaultError, match="cudaErrorIllegalAddress"):
        context.execute_async_v3(0)
    x = window()
    context.set_tensor_address("window", x.ctypes.data)
    with pytest.raises(FaultError, match="cudaErrorIllegalAddress"):
        context.execute_async_v3(0)
    context.set_tensor_address("window", source.pointer)
    assert context.execute_async_v3(0)
    with pytest.raises(FaultError, match="is no stream"):
        context.execute_async_v3(7)


def test_a_graph_replays_the_execution_with_the_addresses_it_was_captured_with(ready):
    process, context, source, target = ready
    device = process.device
    stream = device.create_stream()
    assert context.execute_async_v3(stream)
    device.begin_capture(stream)
    assert context.execute_async_v3(stream)
    captured = device.instantiate(device.end_capture(stream))
    x = window() * 0.5
    process.write(source.pointer, x)
    context.set_tensor_address("window", device.allocate(x.nbytes, "device").pointer)
    device.launch(captured, stream)
    np.testing.assert_allclose(process.read(target.pointer, (1, 4)), expected(graph(), x), rtol=1e-6, atol=1e-6)
    device.memory.free(source.address, "device")
    with pytest.raises(FaultError, match="cudaErrorIllegalAddress"):
        device.launch(captured, stream)


def test_the_first_execution_can_not_be_captured(ready):
    process, context, *_ = ready
    device = process.device
    stream = device.create_stream()
    device.begin_capture(stream)
    assert not context.execute_async_v3(stream)
    assert "stream is capturing" in process.said()
    with pytest.raises(FaultError, match="cudaErrorStreamCaptureInvalidated"):
        device.end_capture(stream)
    assert context.execute_async_v3(stream)


def test_nor_the_first_after_another_shape(ranged):
    process, engine = ranged
    device, context = process.device, engine.create_execution_context()
    stream = device.create_stream()
    for name, nbytes in (("window", window(4).nbytes), ("logits", 64)):
        context.set_tensor_address(name, device.allocate(nbytes, "device").pointer)
    for shape, warm in ((SHAPES[0], False), (SHAPES[0], True), (SHAPES[1], False)):
        context.set_input_shape("window", shape)
        device.begin_capture(stream)
        assert context.execute_async_v3(stream) == warm
        if warm:
            device.end_capture(stream)
        else:
            with pytest.raises(FaultError):
                device.end_capture(stream)
        assert context.execute_async_v3(stream)


def test_an_execution_takes_the_time_it_is_said_to_take(monkeypatch):
    costs = [["conv1.gather", 40.0], ["conv1", 70.0]]
    for form, cost_us in (("gemm", 40.0), ("reference", 70.0)):
        process = Process(monkeypatch, costs_us=costs)
        process.infer(process.engine(process.plan(graph(form))), window())
        assert process.device.now_us == cost_us
    process, *_ = prepared = prepare(monkeypatch, mapped_us=7.0)
    mapped = process.device.allocate(window().nbytes, "mapped")
    prepared[1].set_tensor_address("window", mapped.pointer)
    assert prepared[1].execute_async_v3(0)
    assert process.device.now_us == 107.0


def test_every_call_that_counts_is_in_the_log(monkeypatch, tmp_path):
    process = Process(monkeypatch, log=str(tmp_path / "log"))
    process.infer(process.engine(process.plan(graph(), process.config())), window())
    calls = (tmp_path / "log").read_text().split()
    for name in (
        "OnnxParser.parse",
        "Builder.build_serialized_network",
        "Runtime.deserialize_cuda_engine",
        "IExecutionContext.execute_async_v3",
        "IBuilderConfig.clear_flag:TF32",
    ):
        assert calls.count(name) == 1, name
    process.config("FP16").set_memory_pool_limit(process.trt.MemoryPoolType.WORKSPACE, 5)
    calls = (tmp_path / "log").read_text().split()
    assert calls.count("IBuilderConfig.set_flag:FP16") == 1
    assert calls[-1] == "IBuilderConfig.set_memory_pool_limit:WORKSPACE=5"


# ---------------------------------------------------------------------- faults


def test_logits_may_be_told_to_be_wrong(monkeypatch):
    for faults, offset in (({"logits": 0.5}, 0.5), ({"logits": 0.5, "only_form": "conv1.gather"}, 0.0)):
        process = Process(monkeypatch, faults=faults)
        got = process.infer(process.engine(process.plan(graph("taps"))), window())
        np.testing.assert_allclose(got, expected(graph("taps"), window()) + offset, rtol=1e-5, atol=1e-5)


def test_an_execution_or_an_engine_may_be_told_to_fail(monkeypatch):
    process, context, *_ = prepare(monkeypatch, faults={"execute": False})
    assert not context.execute_async_v3(0)
    assert "told to fail" in process.said()
    process = Process(monkeypatch, faults={"deserialize": "none"})
    assert process.engine(process.plan(graph())) is None


def test_a_context_needs_memory_on_the_device(monkeypatch):
    for config, made in (({}, True), ({"free_mib": 0}, False), ({"faults": {"context": "none"}}, False)):
        process = Process(monkeypatch, **config)
        engine = process.engine(process.plan(graph()))
        assert engine.device_memory_size == engine.device_memory_size_v2 > 0
        assert (engine.create_execution_context() is not None) == made
        assert ("OutOfMemory" in process.said()) == (not made)


def test_the_default_stream_is_warned_of(ready):
    process, context, *_ = ready
    assert context.execute_async_v3(process.device.create_stream())
    assert process.said("WARNING") == ""
    assert context.execute_async_v3(0)
    assert "default stream" in process.said("WARNING")


def test_the_header_is_for_people_to_read(monkeypatch):
    plan = Process(monkeypatch).plan(graph())
    size = struct.unpack_from("<I", plan, 4)[0]
    header = json.loads(plan[8 : 8 + size])
    assert (header["release"], header["gpu"], header["architectures"]) == ("10.3.0", "Fake Orin", ["8.7"])
    assert header["onnx_bytes"] == len(plan) - 8 - size
