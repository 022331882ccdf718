"""What the compiler's side asks of each release of the bindings, on the fake, in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sattn_edge.files import digest
from sattn_runtime.tensorrt import compiler
from sattn_runtime.tensorrt.bindings import load
from sattn_runtime.tensorrt.compiler import LAYERS, architectures, network_flags
from sattn_runtime.tensorrt.job import Phase, Profile, Step
from tests.helpers_device import calls
from tests.sattn_runtime.tensorrt.helpers_compile import BACKENDS, FIRST, RANGE, REST, ROOM, Bench, graph, made_of
from tests.sattn_runtime.tensorrt.helpers_tensorrt import fake

FLAGS = "IBuilderConfig.set_flag:"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def set_flags(log: Path) -> list[str]:
    return [line.removeprefix(FLAGS) for line in calls(log) if line.startswith(FLAGS)]


@pytest.mark.parametrize(("backend", "release"), BACKENDS)
def test_tf32_is_cleared_for_fp32_and_kept_for_what_is_faster(monkeypatch, bench, log, backend, release):
    fake(monkeypatch, release=release or "10.3.0", log=log)
    assert bench.compile(graph(), backend).error == ""
    assert "IBuilderConfig.clear_flag:TF32" in calls(log)
    assert set_flags(log) == []
    log.unlink()
    fake(monkeypatch, release=release or "10.3.0", log=log)
    assert bench.compile(graph(), backend, tf32=True).error == ""
    assert "IBuilderConfig.clear_flag:TF32" not in calls(log)
    assert set_flags(log) == ["TF32"]


@pytest.mark.parametrize(
    ("half", "int8", "wanted"), [(False, False, []), (True, False, ["FP16"]), (True, True, ["FP16", "INT8"])]
)
def test_flags_tell_the_precision_on_8_6(monkeypatch, bench, log, half, int8, wanted):
    fake(monkeypatch, release=FIRST, log=log)
    model = graph("reference", "int8" if int8 else "fp32", typed=False)
    assert bench.compile(model, half=half, int8=int8).error == ""
    assert set_flags(log) == wanted


@pytest.mark.parametrize(("backend", "release"), [b for b in BACKENDS if b[1] != FIRST])
def test_the_graph_tells_it_everywhere_else(monkeypatch, bench, log, backend, release):
    """Even where the flags are still there: a strongly typed network refuses them."""
    fake(monkeypatch, release=release or "10.3.0", log=log)
    assert bench.compile(graph("gemm", "fp16"), backend, half=True, int8=True).error == ""
    assert set_flags(log) == []


def test_control_flags_on_a_strongly_typed_network_are_refused(monkeypatch, bench):
    fake(monkeypatch, release="10.3.0")
    configure = compiler.configure

    def with_flag(bindings, builder, config, *rest):
        configure(bindings, builder, config, *rest)
        config.set_flag(bindings.module.BuilderFlag.FP16)

    monkeypatch.setattr(compiler, "configure", with_flag)
    assert "FP16 must not be set for a strongly typed network" in bench.compile(graph("gemm", "fp16")).error


@pytest.mark.parametrize(("backend", "release"), BACKENDS)
def test_the_flag_of_the_network_is_the_release_s_own(monkeypatch, backend, release):
    fake(monkeypatch, release=release or "10.3.0")
    # EXPLICIT_BATCH is 0 on 8.6; STRONGLY_TYPED is 1 on 10 and 0 from 11 on.
    assert network_flags(load(backend)) == (2 if release.startswith("10.") else 1)


def test_the_workspace_is_the_one_asked_for(monkeypatch, bench, log):
    fake(monkeypatch, log=log)
    bench.compile(graph())
    assert f"IBuilderConfig.set_memory_pool_limit:WORKSPACE={ROOM}" in calls(log)
    found = bench.compile(graph(), workspace_bytes=1 << 10)
    assert (found.kind, bench.plan.exists()) == ("workspace", False)
    assert "workspace limit" in found.error


@pytest.mark.parametrize(("backend", "release"), BACKENDS)
def test_an_engine_with_its_digest_in_a_private_file(monkeypatch, bench, backend, release):
    fake(monkeypatch, release=release or "10.3.0")
    found = bench.compile(graph(), backend)
    data = bench.plan.read_bytes()
    assert (found.error, found.plan, found.plan_bytes) == ("", digest(data), len(data))
    assert bench.plan.stat().st_mode & 0o777 == 0o600
    assert found.release == load(backend).release
    # 11 and RTX list the layers in the log as they are read here; before, the engine itself is asked.
    assert found.layers.startswith(LAYERS) == (backend == "tensorrt-rtx" or release.startswith("11."))
    assert bench.compile(graph(), backend).plan == found.plan  # the same again
    assert bench.compile(graph("taps"), backend).plan != found.plan


@pytest.mark.parametrize(("backend", "release"), BACKENDS)
def test_progress_where_the_release_tells_of_it(monkeypatch, bench, backend, release):
    fake(monkeypatch, release=release or "10.3.0")
    bench.compile(graph(), backend)
    if release == FIRST:
        assert bench.told == []
        return
    assert bench.told[0] == Phase("Building engine", "", 2)
    assert bench.told[-1] == Phase("Building engine", "", 0)
    inner = [Phase("Optimizing graph", "Building engine", 4), *(Step("Optimizing graph", i) for i in range(4))]
    at = bench.told.index(inner[0])
    assert bench.told[at : at + 6] == [*inner, Phase("Optimizing graph", "", 0)]


class TestRefused:
    """What is no engine is an outcome with the stage at which it ended; nothing is written, nothing is raised."""

    @pytest.mark.parametrize(("backend", "release"), BACKENDS)
    def test_garbage_that_parses_fine(self, monkeypatch, bench, backend, release):
        fake(monkeypatch, release=release or "10.3.0")
        found = bench.compile(b"", backend)
        assert (found.kind, found.error, bench.plan.exists()) == ("parse", "it found no outputs", False)

    def test_outputs_that_the_parser_lost(self, monkeypatch, bench):
        fake(monkeypatch, faults={"outputs": 0})
        assert bench.compile(graph()).error == "it found no outputs"

    @pytest.mark.parametrize(("backend", "release"), BACKENDS)
    def test_an_unknown_operator_with_its_node_where_the_release_names_it(self, monkeypatch, bench, backend, release):
        fake(monkeypatch, release=release or "10.3.0")
        found = bench.compile(made_of("Frobnicate"), backend)
        assert (found.kind, found.node) == ("parse", "" if release == FIRST else "odd")
        assert "Plugin not found" in found.error

    @pytest.mark.parametrize("data", [b"\xff" * 50, graph().SerializeToString()[:-1000]], ids=["text", "cut"])
    def test_bytes_that_are_no_graph(self, monkeypatch, bench, data):
        fake(monkeypatch)
        found = bench.compile(data)
        assert found.kind == "parse"
        assert not bench.plan.exists()

    def test_a_typed_scale_on_8_6(self, monkeypatch, bench):
        """The control of `typed`: 8.6 does not take the graph that others are given."""
        fake(monkeypatch, release=FIRST)
        assert bench.compile(graph("reference", "int8"), half=True, int8=True).kind == "parse"

    def test_a_build_that_ends_with_nothing(self, monkeypatch, bench):
        fake(monkeypatch, faults={"build": "none"})
        found = bench.compile(graph())
        assert (found.kind, found.release) == ("build", "10.3.0")
        assert "told to fail" in found.error

    def test_a_build_that_raises(self, monkeypatch, bench):
        fake(monkeypatch, faults={"build": "raise"})
        assert bench.compile(graph()).error == "the build was told to raise"

    def test_no_gpu(self, monkeypatch, bench):
        fake(monkeypatch, visible=False)
        found = bench.compile(graph())
        assert found.kind == "build"
        assert "CUDA initialization failure" in found.error

    def test_no_bindings(self, monkeypatch, bench):
        fake(monkeypatch)
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        found = bench.compile(graph())
        assert (found.release, found.kind) == ("", "build")
        assert "is not installed" in found.error

    def test_a_range_without_a_profile(self, monkeypatch, bench):
        fake(monkeypatch)
        assert "no optimization profile" in bench.compile(graph(ranged=True)).error
        assert bench.compile(graph(ranged=True), profile=RANGE).error == ""

    def test_a_profile_that_is_out_of_order(self, monkeypatch, bench):
        fake(monkeypatch)
        assert "MIN<=OPT<=MAX" in bench.compile(graph(ranged=True), profile=Profile(4, 2, 1)).error


class TestArchitecture:
    """Of TensorRT-RTX alone."""

    KNOWN = "sm75, sm80, sm86, sm89, sm120, sm121"

    def test_each_is_another_engine(self, monkeypatch, bench):
        fake(monkeypatch, visible=False)
        plans = {bench.compile(graph(), "tensorrt-rtx", arch=arch).plan for arch in ("SM86", "sm89", "Sm120")}
        assert len(plans) == 3
        assert "" not in plans

    @pytest.mark.parametrize("arch", ["SM87", "SM", "NONE_OF_THEM", "__class__", "name", "CURRENT", "NONE"])
    def test_one_it_does_not_know_is_answered_with_those_it_knows(self, monkeypatch, bench, arch):
        fake(monkeypatch)
        found = bench.compile(graph(), "tensorrt-rtx", arch=arch)
        assert (found.kind, found.error) == ("architecture", self.KNOWN)

    def test_in_the_order_of_their_numbers(self, monkeypatch):
        fake(monkeypatch)
        assert ", ".join(architectures(load("tensorrt-rtx").module)) == self.KNOWN

    def test_the_gpu_at_hand_where_none_is_named(self, monkeypatch, bench):
        fake(monkeypatch, compute_capability="8.6")
        here = bench.compile(graph(), "tensorrt-rtx").plan
        assert here == bench.compile(graph(), "tensorrt-rtx", arch="SM86").plan
        fake(monkeypatch, visible=False)
        assert "cudaError 35" in bench.compile(graph(), "tensorrt-rtx").error


class TestTimingCache:
    """Kept between builds: the second is faster. Whatever is wrong with it, the build goes on."""

    HITS = ("ITimingCache:hit", "ITimingCache:miss")

    def seen(self, log: Path) -> list[str]:
        return [line.partition(":")[2] for line in calls(log) if line in self.HITS]

    @pytest.mark.parametrize("release", [FIRST, *REST])
    def test_written_and_read_the_next_time(self, monkeypatch, bench, log, release):
        cache = bench.folder / "timing.cache"
        for _ in range(2):
            fake(monkeypatch, release=release, log=log)
            assert bench.compile(graph(), timing_cache=str(cache)).error == ""
            assert cache.stat().st_mode & 0o777 == 0o600
        assert self.seen(log) == ["miss", "hit"]
        bench.compile(graph("taps"), timing_cache=str(cache))
        assert bench.compile(graph(), timing_cache=str(cache)).error == ""
        assert self.seen(log) == ["miss", "hit", "miss", "hit"]  # and it still has the first

    def test_control_without_one_nothing_is_known(self, monkeypatch, bench, log):
        fake(monkeypatch, log=log)
        for _ in range(2):
            bench.compile(graph())
        assert "hit" not in self.seen(log)

    def test_a_broken_one_is_replaced(self, monkeypatch, bench, log):
        cache = bench.folder / "timing.cache"
        cache.write_bytes(b"\x00 no cache")
        for _ in range(2):
            fake(monkeypatch, log=log)
            assert bench.compile(graph(), timing_cache=str(cache)).error == ""
        assert self.seen(log) == ["miss", "hit"]

    @pytest.mark.parametrize("other", [{"release": "10.7.0"}, {"gpu": "Fake Thor"}], ids=["release", "gpu"])
    def test_one_of_another_device_is_replaced(self, monkeypatch, bench, log, other):
        cache = bench.folder / "timing.cache"
        fake(monkeypatch, **other)
        bench.compile(graph(), timing_cache=str(cache))
        fake(monkeypatch, log=log)
        for _ in range(2):
            assert bench.compile(graph(), timing_cache=str(cache)).error == ""
        assert self.seen(log) == ["miss", "hit"]
        content = json.loads(cache.read_bytes())
        assert (content["release"], content["gpu"]) == ("10.3.0", "Fake Orin")

    def test_a_failed_build_leaves_it_alone(self, monkeypatch, bench):
        cache = bench.folder / "timing.cache"
        fake(monkeypatch)
        bench.compile(graph(), timing_cache=str(cache))
        before = cache.read_bytes()
        fake(monkeypatch, faults={"build": "none"})
        bench.compile(graph("taps"), timing_cache=str(cache))
        assert cache.read_bytes() == before

    def test_nowhere_to_write_it(self, monkeypatch, bench):
        fake(monkeypatch)
        assert bench.compile(graph(), timing_cache=str(bench.folder / "nowhere" / "cache")).error == ""
        assert bench.compile(graph(), timing_cache=str(bench.folder)).error == ""  # a folder

    def test_rtx_has_no_use_for_it(self, monkeypatch, bench, log):
        """There it warns that it does nothing, and warnings are errors here."""
        fake(monkeypatch, log=log)
        cache = bench.folder / "timing.cache"
        assert bench.compile(graph(), "tensorrt-rtx", timing_cache=str(cache)).error == ""
        assert (cache.exists(), self.seen(log)) == (False, [])


def test_a_failed_build_spoils_the_next_in_its_process(monkeypatch, bench):
    """Why each build has a process of its own; the fake does as TensorRT-RTX was seen to do."""
    fake(monkeypatch)
    good = bench.compile(graph()).plan
    bench.compile(graph(), workspace_bytes=1 << 10)
    assert bench.compile(graph()).plan != good


def test_warnings_are_told_once_each_and_not_too_many(monkeypatch, bench):
    fake(monkeypatch)
    log = compiler.logger(load("tensorrt"))
    warning = load("tensorrt").module.ILogger.Severity.WARNING
    for i in range(60):
        log.log(warning, f"  mind the gap {i // 2}\n")
    found = bench.compile(graph())
    assert found.warnings == tuple(f"mind the gap {i}" for i in range(20))
