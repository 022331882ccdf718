"""The fake device by itself: it must find what a real one would, or every test that stands on it proves nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter

import pytest

from sattn_runtime.testing.device import Device, FakeConfig, FaultError, current, reset
from tests.helpers_device import calls, device_environment, use_fake_device


@pytest.fixture
def device() -> Device:
    return Device(FakeConfig())


def fault(code: str):
    """That the device answers with this error."""
    return pytest.raises(FaultError, match=f"^{code}: ")


# ------------------------------------------------------------------ what it is told


def test_it_is_told_in_the_environment(monkeypatch):
    use_fake_device(monkeypatch, gpu="Orin Nano", costs_us=[["gemm", 40.0]], faults={"build": "kill", "logits": 0.5})
    config = current().config
    assert (config.gpu, config.costs_us) == ("Orin Nano", (("gemm", 40.0),))
    assert (config.fault("build"), config.fault("logits"), config.fault("parse")) == ("kill", 0.5, None)


@pytest.mark.parametrize("text", ["{", "[]", '{"gpux": "a"}', '{"memory_mib": "much"}'])
def test_what_it_does_not_understand(monkeypatch, text):
    monkeypatch.setenv("SATTN_FAKE_DEVICE", text)
    with pytest.raises(ValueError, match=r"truncated|Expected|unknown field"):
        current()


def test_one_device_until_it_is_told_something_else(monkeypatch):
    use_fake_device(monkeypatch)
    first = current()
    assert current() is first
    use_fake_device(monkeypatch, gpu="other")
    assert current() is not first
    second = current()
    reset()
    assert current() is not second


def test_the_first_text_that_occurs_in_a_name_is_the_cost():
    config = FakeConfig(costs_us=(("gemm", 40.0), ("conv", 70.0)), default_cost_us=9.0)
    assert config.cost_us(["block0/conv", "block1/gemm"]) == 40
    assert config.cost_us(iter(["block0/conv", "relu"])) == 70
    assert config.cost_us(["relu"]) == config.cost_us([]) == 9


def test_a_fault_of_some_graphs_only():
    config = FakeConfig(faults={"logits": 0.5, "only_form": "gemm"})
    assert config.fault("logits", ["a/gemm"]) == config.fault("logits") == 0.5
    assert config.fault("logits", ["a/taps"]) is None


# ------------------------------------------------------------------ streams, graphs, time


def test_work_runs_at_once_and_moves_the_clock(device):
    ran = []
    stream = device.create_stream()
    device.enqueue(stream, lambda: ran.append(device.now_us), 30.0)
    device.enqueue(stream, lambda: ran.append(device.now_us), 12.5)
    assert (ran, device.now_us) == ([0.0, 30.0], 42.5)


def test_what_is_captured_runs_at_every_launch(device):
    ran = []
    stream = device.create_stream()
    device.begin_capture(stream)
    device.enqueue(stream, lambda: ran.append(1), 30.0)
    device.enqueue(stream, lambda: ran.append(2), 5.0)
    graph = device.end_capture(stream)
    executable = device.instantiate(graph)
    device.destroy("graph", graph)
    assert (ran, device.now_us) == ([], 0)
    device.launch(executable, stream)
    device.launch(executable, 0)
    assert (ran, device.now_us) == ([1, 2, 1, 2], 70)
    device.enqueue(stream, lambda: ran.append(3), 0)
    assert ran[-1] == 3


def test_what_a_graph_saves_is_what_is_configured():
    device = Device(FakeConfig(enqueue_us=8.0, graph_launch_us=3.0, copy_us=2.0))
    stream, block, host = device.create_stream(), device.allocate(8, "device"), device.allocate(8, "host")

    def work() -> None:
        device.copy_in(block.address, host.address, 8, stream)
        device.enqueue(stream, lambda: None, 100.0)

    work()
    assert device.now_us == 2 + 8 + 100 + 8
    device.begin_capture(stream)
    work()
    executable = device.instantiate(device.end_capture(stream))
    before = device.now_us
    device.launch(executable, stream)
    assert device.now_us - before == 3 + 2 + 100


def test_a_graph_of_another_graph(device):
    ran, stream = [], device.create_stream()
    device.begin_capture(stream)
    device.enqueue(stream, lambda: ran.append(1), 10.0)
    inner = device.instantiate(device.end_capture(stream))
    device.begin_capture(stream)
    device.launch(inner, stream)
    outer = device.instantiate(device.end_capture(stream))
    assert (ran, device.now_us) == ([], 0)
    device.launch(outer, stream)
    assert (ran, device.now_us) == ([1], 10)


def test_a_launch_takes_what_was_instantiated(device):
    stream = device.create_stream()
    device.begin_capture(stream)
    graph = device.end_capture(stream)
    with fault("cudaErrorInvalidResourceHandle"):
        device.launch(graph, stream)


def test_captures_that_can_not_be(device):
    stream = device.create_stream()
    with fault("cudaErrorStreamCaptureUnsupported"):
        device.begin_capture(0)
    with fault("cudaErrorIllegalState"):
        device.end_capture(stream)
    device.begin_capture(stream)
    with fault("cudaErrorStreamCaptureUnsupported"):
        device.begin_capture(stream)


@pytest.mark.parametrize(
    ("mode", "mine", "theirs", "other_ends"),
    [
        ("global", False, False, "cudaErrorStreamCaptureWrongThread"),
        ("thread", False, True, "cudaErrorStreamCaptureWrongThread"),
        ("relaxed", True, True, None),
    ],
)
def test_the_mode_of_a_capture(device, mode, mine, theirs, other_ends):
    stream = device.create_stream()
    device.begin_capture(stream, mode)
    assert elsewhere(lambda: allowed(device)) is theirs
    assert allowed(device) is mine
    assert elsewhere(lambda: ended(device, stream)) == other_ends


def elsewhere(work):
    """What work gives in another thread."""
    given = []
    thread = threading.Thread(target=lambda: given.append(work()))
    thread.start()
    thread.join()
    return given[0]


def allowed(device: Device) -> bool:
    """Whether this thread may allocate now."""
    try:
        device.refuse_while_capturing()
    except FaultError:
        return False
    return True


def ended(device: Device, stream: int) -> str | None:
    """The error of ending a capture."""
    try:
        device.end_capture(stream)
    except FaultError as error:
        return error.code
    return None


def test_what_work_raises_comes_out_and_costs_nothing(device):
    def work() -> None:
        device.memory.on_device(1, 1)

    with fault("cudaErrorIllegalAddress"):
        device.enqueue(0, work, 50.0)
    assert device.now_us == 0


def test_events(device):
    first, last = device.create_event(), device.create_event()
    with fault("cudaErrorInvalidResourceHandle"):
        device.elapsed_ms(first, last)
    device.record(first, 0)
    device.enqueue(0, lambda: None, 1500.0)
    device.record(last, 0)
    assert (device.elapsed_ms(first, last), device.elapsed_ms(last, first)) == (1.5, -1.5)
    stream = device.create_stream()
    device.begin_capture(stream)
    device.record(last, stream)
    with fault("cudaErrorInvalidResourceHandle"):
        device.elapsed_ms(first, last)


@pytest.mark.parametrize("what", ["stream", "event", "graph", "executable"])
def test_handles_that_are_nothing(device, what):
    with fault("cudaErrorInvalidResourceHandle"):
        device.destroy(what, 12345)


def test_what_is_left(device):
    assert not any(device.live().values())
    stream = device.create_stream()
    device.create_event()
    device.allocate(8, "device")
    device.allocate(8, "host")
    device.allocate(8, "mapped")
    device.begin_capture(stream)
    device.instantiate(device.end_capture(stream))
    left = {"device": 1, "host": 2, "streams": 1, "events": 1, "graphs": 2, "contexts": 0}
    assert device.live() == left
    device.destroy("stream", stream)
    assert device.live() == {**left, "streams": 0}
    with fault("cudaErrorInvalidResourceHandle"):
        device.enqueue(stream, lambda: None, 0)
    with fault("cudaErrorInvalidResourceHandle"):
        device.destroy("stream", 0)


# ------------------------------------------------------------------ faults and the log


def test_a_call_that_is_told_to_fail():
    device = Device(FakeConfig(faults={"cudaMalloc": "cudaErrorUnknown", "cudaFree": "cudaErrorNotSupported@2"}))
    for _ in range(2):
        with fault("cudaErrorUnknown"):
            device.enter("cuMemAlloc", "cudaMalloc")
    device.enter("cudaFree")
    with fault("cudaErrorNotSupported"):
        device.enter("cudaFree")
    device.enter("cudaFree")


def test_a_device_that_is_not_visible():
    with fault("cudaErrorNoDevice"):
        Device(FakeConfig(visible=False)).enter("cudaMalloc")


def test_several_processes_write_one_log(tmp_path):
    code = """
from sattn_runtime.testing.device import current
for i in range(500):
    current().called(f"Runtime.deserialize_cuda_engine:{i}")
"""
    environment = device_environment(log=tmp_path / "calls")
    children = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    counted = Counter(calls(tmp_path / "calls"))
    assert counted == {f"Runtime.deserialize_cuda_engine:{i}": 3 for i in range(500)}


def test_without_a_log_nothing_is_written(monkeypatch, tmp_path):
    assert use_fake_device(monkeypatch) is None
    current().called("x")
    assert calls(tmp_path / "calls") == []
    assert use_fake_device(monkeypatch, log=tmp_path / "calls") == tmp_path / "calls"
    current().called("x")
    assert calls(tmp_path / "calls") == ["x"]
