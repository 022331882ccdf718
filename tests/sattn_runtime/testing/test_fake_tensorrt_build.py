"""The builder of the fake: what it refuses, whom it tells, and what a failure leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sattn_runtime.testing import device, fake_site
from tests.sattn_runtime.testing.helpers_fake_tensorrt import (
    CLASSIC,
    NETWORK,
    RELEASES,
    RTX,
    Process,
    expected,
    graph,
    window,
)

LEAST, USUAL, MOST = ((batch, 1, NETWORK.series, NETWORK.modal) for batch in (1, 2, 4))


@pytest.mark.parametrize(("module", "release"), RELEASES)
def test_every_release_builds(monkeypatch, module, release):
    process = Process(monkeypatch, module, release=release)
    assert process.trt.__version__ == release
    plan = process.plan(graph())
    assert plan is not None
    assert plan[:4] == b"FTRT"
    assert plan.endswith(graph().SerializeToString())
    assert plan == Process(monkeypatch, module, release=release).plan(graph())
    assert process.said() == ""


def test_the_plan_is_a_buffer_without_a_length(monkeypatch, tmp_path):
    process = Process(monkeypatch)
    network, _, _ = process.parse(graph())
    plan = process.trt.Builder(process.log).build_serialized_network(network, process.config())
    assert isinstance(plan, process.trt.IHostMemory)
    assert (tmp_path / "plan").write_bytes(plan) == plan.nbytes == len(memoryview(plan))
    assert plan.dtype == process.trt.DataType.INT8
    with pytest.raises(TypeError):
        len(plan)


# ---------------------------------------------------------------------- precision


@pytest.mark.parametrize("release", ["10.3.0", "10.7.0", "10.13.3.9"])
def test_a_strongly_typed_network_takes_no_flag_of_precision(monkeypatch, release):
    process = Process(monkeypatch, release=release)
    assert process.plan(graph(), process.config("FP16")) is None
    assert "FP16 must not be set for a strongly typed network" in process.said()
    assert Process(monkeypatch, release=release).plan(graph()) is not None


@pytest.mark.parametrize(("module", "release"), [each for each in RELEASES if each[1] in (*CLASSIC[-2:], RTX)])
def test_from_11_on_there_are_no_flags_of_precision(monkeypatch, module, release):
    process = Process(monkeypatch, module, release=release)
    assert not hasattr(process.trt.BuilderFlag, "FP16")
    assert not hasattr(process.trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    assert process.plan(graph(precision="fp16"), flags=0) is not None


def test_without_strong_typing_types_need_their_flags(monkeypatch):
    for precision, flags, missing in (("fp16", (), "FP16"), ("int8", ("FP16",), "INT8"), ("int8", ("INT8",), "FP16")):
        process = Process(monkeypatch, release="10.3.0")
        assert process.plan(graph(precision=precision), process.config(*flags), flags=0) is None
        assert f"{missing} is asked for by" in process.said()
    process = Process(monkeypatch, release="10.3.0")
    assert process.plan(graph(precision="int8"), process.config("FP16", "INT8"), flags=0) is not None


def test_tf32_is_on_until_it_is_cleared_and_costs_precision(monkeypatch):
    x = window()
    wanted = expected(graph("reference"), x)

    def difference(module: str, *, tf32: bool, **config: str) -> float:
        process = Process(monkeypatch, module, **config)
        got = process.infer(process.engine(process.plan(graph("reference"), process.config(tf32=tf32))), x)
        return float(np.abs(got - wanted).max() / np.abs(wanted).max())

    process = Process(monkeypatch)
    config = process.trt.Builder(process.log).create_builder_config()
    assert config.get_flag(process.trt.BuilderFlag.TF32)
    assert config.flags == 1 << int(process.trt.BuilderFlag.TF32)
    assert difference("tensorrt", tf32=False) < 1e-6
    assert 1e-4 < difference("tensorrt", tf32=True) < 1e-2
    assert difference("tensorrt", tf32=True, compute_capability="7.2") < 1e-6
    assert difference("tensorrt_rtx", tf32=True) < 1e-6


# ---------------------------------------------------------------------- config


def profile(process: Process, name: str = "window", shapes=(LEAST, USUAL, MOST)):
    made = process.trt.Builder(process.log).create_optimization_profile()
    assert made.set_shape(name, *shapes) is None
    return made


def test_a_free_axis_needs_a_profile_in_order(monkeypatch):
    process = Process(monkeypatch)
    assert process.plan(graph(free=True)) is None
    assert "no optimization profile has been defined" in process.said()
    config = process.config()
    assert config.add_optimization_profile(profile(process, shapes=(USUAL, LEAST, MOST))) == -1
    assert config.add_optimization_profile(profile(process, shapes=(LEAST, USUAL[:3], MOST))) == -1
    assert "MIN<=OPT<=MAX" in process.said()
    assert config.num_optimization_profiles == 0
    good = profile(process)
    assert good.get_shape("window") == [LEAST, USUAL, MOST]
    assert good.get_shape("other") == []
    assert (config.add_optimization_profile(good), config.num_optimization_profiles) == (0, 1)
    assert process.plan(graph(free=True), config) is not None


@pytest.mark.parametrize(
    ("name", "shapes", "text"),
    [
        ("wndow", (LEAST, USUAL, MOST), "missing dimensions in profile 0"),
        ("window", tuple((*shape[:3], 7) for shape in (LEAST, USUAL, MOST)), "Dimension mismatch"),
        ("window", tuple(shape[:3] for shape in (LEAST, USUAL, MOST)), "Dimension mismatch"),
    ],
)
def test_a_profile_of_something_else_is_found_at_build(monkeypatch, name, shapes, text):
    process = Process(monkeypatch)
    config = process.config()
    assert config.add_optimization_profile(profile(process, name, shapes)) == 0
    assert process.plan(graph(free=True), config) is None
    assert text in process.said()


def test_too_little_workspace_ends_the_build(monkeypatch):
    process = Process(monkeypatch, memory_mib=4096)
    pool = process.trt.MemoryPoolType.WORKSPACE
    config = process.config()
    assert config.get_memory_pool_limit(pool) == 4096 * 2**20
    config.set_memory_pool_limit(pool, 2**20)
    assert process.plan(graph(), config) is not None
    config.set_memory_pool_limit(pool, 2**20 - 1)
    assert process.plan(graph(), config) is None
    assert "within workspace limit" in process.said()
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(pool, -1)


def test_the_optimisation_level_is_kept_between_0_and_5(monkeypatch):
    config = Process(monkeypatch).config()
    assert config.builder_optimization_level == 3
    config.builder_optimization_level = 9
    assert config.builder_optimization_level == 5


def test_the_timing_cache_knows_a_graph_again(monkeypatch, tmp_path):
    log = tmp_path / "log"

    def build(data: bytes, *, ignore: bool = False, **config: str) -> tuple[bool, bytes, str]:
        log.write_text("")
        process = Process(monkeypatch, log=str(log), **config)
        made = process.config()
        taken = made.set_timing_cache(made.create_timing_cache(data), ignore)
        assert process.plan(graph(), made) is not None
        kept = bytes(made.get_timing_cache().serialize()) if taken else b""
        return taken, kept, "".join(c for c in log.read_text().splitlines(keepends=True) if "TimingCache" in c).strip()

    taken, cache, calls = build(b"")
    assert (taken, calls) == (True, "ITimingCache:miss")
    assert build(cache) == (True, cache, "ITimingCache:hit")
    assert build(cache, gpu="Another") == (False, b"", "")
    assert build(cache, gpu="Another", ignore=True)[2] == "ITimingCache:hit"
    assert build(cache, release="10.7.0") == (False, b"", "")
    assert build(b"garbage")[2] == "ITimingCache:miss"
    assert Process(monkeypatch).config().get_timing_cache() is None


def test_timing_caches_are_combined_where_they_agree(monkeypatch):
    process = Process(monkeypatch)
    config = process.config()
    full, empty = config.create_timing_cache(b""), config.create_timing_cache(b"")
    config.set_timing_cache(full, False)
    process.plan(graph(), config)
    assert bytes(empty.serialize()) != bytes(full.serialize())
    assert empty.combine(full, False)
    assert bytes(empty.serialize()) == bytes(full.serialize())
    assert empty.reset()
    assert bytes(empty.serialize()) != bytes(full.serialize())
    foreign = Process(monkeypatch, gpu="Another").config().create_timing_cache(b"")
    assert not foreign.combine(full, False)


def test_rtx_says_that_timing_caches_do_nothing(monkeypatch):
    config = Process(monkeypatch, "tensorrt_rtx").config()
    with pytest.warns(DeprecationWarning, match="do nothing"):
        config.get_timing_cache()


def test_rtx_compiles_for_named_architectures_without_a_gpu(monkeypatch):
    process = Process(monkeypatch, "tensorrt_rtx", visible=False)
    capabilities = process.trt.ComputeCapability
    for name, taken in (("SM86", True), ("SM120", True), ("CURRENT", False), ("NONE", False)):
        config = process.config()
        assert config.set_compute_capability(getattr(capabilities, name), 0)
        assert config.get_compute_capability(0).name == name
        assert (process.plan(graph(), config) is not None) == taken, name
    assert not config.set_compute_capability(capabilities.SM86, 1)
    config = process.config()
    config.set_compute_capability(capabilities.SM75, 0)
    assert process.plan(graph(), config) is None
    assert "FP32 GEMM is not supported" in process.said()


def test_a_classic_builder_needs_a_gpu(monkeypatch):
    process = Process(monkeypatch, visible=False)
    for kind in (process.trt.Builder, process.trt.Runtime):
        with pytest.raises(TypeError, match="factory function returned nullptr"):
            kind(process.log)
    assert "CUDA initialization failure" in process.said()


# ---------------------------------------------------------------------- progress


def monitor(process: Process, answer=True):
    class Monitor(process.trt.IProgressMonitor):
        def __init__(self):
            super().__init__()
            self.told = []

        def phase_start(self, phase_name, parent_phase, num_steps):
            self.told.append(("start", phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name, step):
            self.told.append(("step", phase_name, step))
            if isinstance(answer, Exception):
                raise answer
            return answer

        def phase_finish(self, phase_name):
            self.told.append(("finish", phase_name))

    return Monitor()


def test_a_monitor_is_told_of_every_phase_and_step(monkeypatch):
    process = Process(monkeypatch)
    config = process.config()
    config.progress_monitor = made = monitor(process)
    assert process.plan(graph(), config) is not None
    starts = {event[1]: event[2:] for event in made.told if event[0] == "start"}
    assert next(iter(starts.values()))[0] is None
    for name, (parent, steps) in starts.items():
        assert parent is None or parent in starts
        assert [event[2] for event in made.told if event[:2] == ("step", name)] == list(range(steps))
        assert made.told.count(("finish", name)) == 1


@pytest.mark.parametrize("answer", [False, RuntimeError("no")])
def test_a_monitor_ends_a_build(monkeypatch, answer, capsys):
    process = Process(monkeypatch)
    config = process.config()
    config.progress_monitor = made = monitor(process, answer)
    assert process.plan(graph(), config) is None
    assert "Build canceled by user" in process.said()
    assert sum(event[0] == "start" for event in made.told) == sum(event[0] == "finish" for event in made.told)
    assert ("Exception caught in step_complete" in capsys.readouterr().err) == isinstance(answer, Exception)


# ---------------------------------------------------------------------- one process


def test_a_second_logger_is_told_that_it_is_ignored(monkeypatch):
    process = Process(monkeypatch)
    process.trt.Builder(process.log)
    second: list[tuple[str, str]] = []
    builder = process.trt.Builder(process.new_log(second))
    assert [severity for severity, _ in second] == ["WARNING"]
    assert "differs from one already registered" in second[0][1]
    builder.create_network(1 << 9)
    assert len(second) == 1
    assert "createNetworkV2" in process.said()


def test_a_failed_build_poisons_the_next_one_and_no_other(monkeypatch):
    process = Process(monkeypatch)
    x = window()
    wanted = expected(graph(), x)
    assert process.plan(graph(free=True)) is None
    plans = [process.plan(graph()) for _ in range(2)]
    wrong, right = (process.infer(process.engine(plan), x) for plan in plans)
    np.testing.assert_allclose(right, wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(wrong - wanted).max() > 0.1 * np.abs(wanted).max()
    assert plans[0] != plans[1]
    assert Process(monkeypatch).plan(graph()) == plans[1]


# ---------------------------------------------------------------------- faults


def test_a_build_may_be_told_to_fail(monkeypatch):
    assert Process(monkeypatch, faults={"build": "none"}).plan(graph()) is None
    with pytest.raises(RuntimeError, match="told to raise"):
        Process(monkeypatch, faults={"build": "raise"}).plan(graph())
    only = {"build": "none", "only_form": "conv1.gather"}
    assert Process(monkeypatch, faults=only).plan(graph("gemm")) is None
    assert Process(monkeypatch, faults=only).plan(graph("reference")) is not None


def test_a_parse_may_be_told_to_fail_or_to_lose_the_outputs(monkeypatch):
    _, parser, done = Process(monkeypatch, faults={"parse": "no such thing"}).parse(graph())
    assert (done, parser.get_error(0).desc(), parser.get_error(0).node()) == (False, "no such thing", -1)
    network, parser, done = Process(monkeypatch, faults={"outputs": 0}).parse(graph())
    assert (done, parser.num_errors, network.num_outputs, network.num_inputs) == (True, 0, 0, 1)


CHILD = """
import sys, tensorrt as trt
log = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(log)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
assert trt.OnnxParser(network, log).parse(open(sys.argv[1], "rb").read())
print("building", flush=True)
builder.build_serialized_network(network, builder.create_builder_config())
print("built", flush=True)
"""


@pytest.fixture
def child(monkeypatch, tmp_path):
    (tmp_path / "model.onnx").write_bytes(graph().SerializeToString())
    monkeypatch.setenv("PYTHONPATH", str(fake_site()))

    def start(**config):
        monkeypatch.setenv(device.VARIABLE, json.dumps({**config, "log": str(tmp_path / "log")}))
        command = [sys.executable, "-c", CHILD, str(tmp_path / "model.onnx")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    return start


def test_a_build_may_be_killed(child, tmp_path):
    process = child(faults={"build": "kill"})
    assert process.communicate()[0].split() == ["building"]
    assert process.returncode == -signal.SIGKILL
    calls = (tmp_path / "log").read_text().split()
    assert (calls.count("OnnxParser.parse"), calls.count("Builder.build_serialized_network")) == (1, 1)
    process = child()
    assert process.communicate()[0].split() == ["building", "built"]


def test_a_build_may_hang(child):
    process = child(faults={"build": "hang"})
    assert process.stdout.readline() == "building\n"
    time.sleep(0.5)
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_a_build_that_hangs_may_be_cancelled(monkeypatch):
    process = Process(monkeypatch, faults={"build": "hang"})
    config = process.config()
    config.progress_monitor = monitor(process, answer=False)
    assert process.plan(graph(), config) is None
