"""Every name of NVIDIA's bindings that is used, against the names of seven releases.

Twice: each release is run, as a fake that has its names and no others; and the names are read from the source and
looked up class by class, those that a release lacks in a table with what they stand behind.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.engine_manifest import Request, Shortcut
from sattn_runtime.cuda import open_cuda
from sattn_runtime.tensorrt import bindings as bindings_module
from sattn_runtime.tensorrt.bindings import load
from sattn_runtime.tensorrt.candidates import Surroundings, compile_options
from sattn_runtime.tensorrt.engine import deserialise, limits
from sattn_runtime.tensorrt.executor import Executor
from sattn_runtime.tensorrt.held_precision import held_precision
from sattn_runtime.tensorrt.layers import parse_layers
from tests.helpers_device import use_fake_device
from tests.helpers_lowering import windows
from tests.helpers_model import session_of
from tests.sattn_runtime.tensorrt.helpers_compile import BACKENDS, NETWORK, RANGE, ROOM, Bench, graph
from tests.sattn_runtime.tensorrt.helpers_names import MODULE, Names, Use
from tests.sattn_runtime.tensorrt.helpers_tensorrt import API, RELEASES, RTX_RELEASE, fake

FOLDER = Path(bindings_module.__file__).parent
LISTED: dict[str, dict[str, list[str]]] = json.loads(API.read_text())
NAMES = {("tensorrt", r): LISTED[f"tensorrt {r}"] for r in RELEASES} | {
    ("tensorrt-rtx", ""): LISTED[f"tensorrt_rtx {RTX_RELEASE}"]
}

# File -> expressions in it that are of the bindings -> their class there.
RECEIVERS = {
    "bindings.py": {"module": MODULE, "config": "IBuilderConfig", "bindings.module": MODULE},
    "compiler.py": {
        "trt": MODULE,
        "bindings.module": MODULE,
        "flags": "NetworkDefinitionCreationFlag",
        "builder": "Builder",
        "network": "INetworkDefinition",
        "network.get_input(0)": "ITensor",
        "parser": "OnnxParser",
        "e": "ParserError",
        "errors[0]": "ParserError",
        "error": "ParserError",
        "config": "IBuilderConfig",
        "config.get_timing_cache()": "ITimingCache",
        "profile": "IOptimizationProfile",
    },
    "engine.py": {"trt": MODULE},
    "executor.py": {
        "trt": MODULE,
        "self._bindings.module": MODULE,
        "engine": "ICudaEngine",
        "self._engine": "ICudaEngine",
        "context": "IExecutionContext",
        "inspector": "EngineInspector",
    },
}
NOT_OURS = {("compiler.py", "ParserError", name) for name in ("kind", "node")}
"""`error` is also the name of our own RefusedError, which has these two."""

# What some release lacks: the feature, and the value of it, without which it is never touched.
PROBED = {
    ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"): ("strongly_typed", True),
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"): ("strongly_typed", False),
    ("BuilderFlag", "FP16"): ("precision_flags", True),
    ("BuilderFlag", "INT8"): ("precision_flags", True),
    (MODULE, "IProgressMonitor"): ("progress", True),
    ("IBuilderConfig", "progress_monitor"): ("progress", True),
    ("IProgressMonitor", "phase_start"): ("progress", True),
    ("IProgressMonitor", "phase_finish"): ("progress", True),
    ("IProgressMonitor", "step_complete"): ("progress", True),
    (MODULE, "ComputeCapability"): ("architectures", True),
    ("IBuilderConfig", "num_compute_capabilities"): ("architectures", True),
    ("IBuilderConfig", "set_compute_capability"): ("architectures", True),
}
ASKED = {("ParserError", "node_name")}
"""Behind a `hasattr` right where it is used; test_compiler.py has the error with and without it."""

OF_ONNX = {"onnx.shape_inference.infer_shapes", "TensorProto.FLOAT16"}
"""What is called as something of the bindings is, and is not."""


def uses_in(file: str, source: str | None = None) -> set[Use]:
    """The uses in a file of ours, or in other text that is read as if it were that file."""
    text = (FOLDER / file).read_text() if source is None else source
    found = {use for use in Names(text, RECEIVERS[file]).used() if not use.name.startswith("__")}
    return {use for use in found if (file, *use.key) not in NOT_OURS}


def used(file: str, source: str | None = None) -> set[tuple[str, str]]:
    """(class, name) of each use."""
    return {use.key for use in uses_in(file, source)}


def has(listed: dict[str, list[str]], key: tuple[str, str]) -> bool:
    kind, name = key
    return name in (listed if kind == MODULE else listed.get(kind, ()))


def missing_somewhere(uses: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {key for key in uses if not all(has(listed, key) for listed in NAMES.values())}


ALL = {key for file in RECEIVERS for key in used(file)}


def test_seven_releases():
    assert len(NAMES) == len(LISTED) == 7


def test_a_name_that_is_missing_somewhere_stands_behind_a_probe():
    assert missing_somewhere(ALL) == {*PROBED, *ASKED}
    assert {use.key for file in RECEIVERS for use in uses_in(file) if use.asked} >= ASKED


@pytest.mark.parametrize("release", NAMES, ids="-".join)
def test_where_the_probe_lets_it_through_the_name_is_there(monkeypatch, release):
    backend, version = release
    fake(monkeypatch, release=version or "10.3.0")
    features = asdict(load(backend).features)
    for key, (feature, value) in PROBED.items():
        assert features[feature] != value or has(NAMES[release], key), (key, feature)


def test_both_sides_of_every_probe_are_met(monkeypatch):
    """So that what the dynamic tests run, with and without a feature, is all there is."""
    met: dict[str, set[bool]] = {}
    for backend, version in NAMES:
        fake(monkeypatch, release=version or "10.3.0")
        for feature, value in asdict(load(backend).features).items():
            met.setdefault(feature, set()).add(value)
    assert met == {feature: {True, False} for feature in asdict(load("tensorrt").features)}
    assert {feature for feature, _ in PROBED.values()} <= met.keys()


def test_the_common_names_are_found_in_the_source():
    """The control of the reading: what the module's own table says is common to all releases is among them."""
    assert {
        (MODULE, "Builder"),
        ("Builder", "build_serialized_network"),
        ("OnnxParser", "parse"),
        ("INetworkDefinition", "num_outputs"),
        ("ITensor", "shape"),
        ("ParserError", "desc"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("MemoryPoolType", "WORKSPACE"),
        ("BuilderFlag", "TF32"),
        ("ITimingCache", "serialize"),
        ("IOptimizationProfile", "set_shape"),
        ("ILogger", "log"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "num_io_tensors"),
        ("IExecutionContext", "execute_async_v3"),
        ("EngineInspector", "get_engine_information"),
        ("LayerInformationFormat", "JSON"),
    } <= ALL


@pytest.mark.parametrize(
    ("file", "line", "key"),
    [
        ("compiler.py", "builder.build_engine(network, config)", ("Builder", "build_engine")),
        ("compiler.py", "config.max_workspace_size = 1", ("IBuilderConfig", "max_workspace_size")),
        ("compiler.py", "trt.BuilderFlag.FROBNICATE", ("BuilderFlag", "FROBNICATE")),
        ("compiler.py", "trt.Frobnicator(log)", (MODULE, "Frobnicator")),
        ("compiler.py", "hasattr(trt.BuilderFlag, 'FP64')", ("BuilderFlag", "FP64")),
        ("compiler.py", "class M(bindings.module.ILogger):\n    def speak(self): ...", ("ILogger", "speak")),
        ("engine.py", "trt.Runtime(log).get_engine_validity(plan)", ("Runtime", "get_engine_validity")),
        ("executor.py", "self._engine.device_memory_size", ("ICudaEngine", "device_memory_size")),
        ("executor.py", "context.execute_async_v2(b, s)", ("IExecutionContext", "execute_async_v2")),
    ],
)
def test_control_a_name_that_is_not_in_all_is_found(file, line, key):
    assert missing_somewhere(used(file, line)) == {key}


def test_nothing_of_the_bindings_is_used_in_other_words():
    """A receiver that is not in the table would hide its names: so nothing else has a name that only bindings have."""
    every = {name for listed in NAMES.values() for names in listed.values() for name in names}
    distinct = {name for name in every if "_" in name.strip("_") or (name.isupper() and len(name) > 2)}

    def others(file: str, receivers: dict[str, str]) -> set[str]:
        return set(Names((FOLDER / file).read_text(), receivers).unknown(distinct)) - OF_ONNX

    for path in FOLDER.glob("*.py"):
        assert others(path.name, RECEIVERS.get(path.name, {})) == set(), path.name
    # The control: without its entry in the table a receiver is found.
    few = {name: kind for name, kind in RECEIVERS["executor.py"].items() if name != "context"}
    assert "context.execute_async_v3" in others("executor.py", few)


@pytest.mark.parametrize("ranged", [False, True], ids=["fixed", "ranged"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("backend", "release"), BACKENDS)
def test_each_release_compiles_runs_and_is_looked_into(monkeypatch, tmp_path, backend, release, precision, ranged):
    fake(monkeypatch, release=release or "10.3.0")
    bindings = load(backend)
    request = Request(backend, precision, "gemm", batch_range=(1, 2, 4) if ranged else None)
    asked = compile_options(Surroundings(bindings, None, request, ROOM), precision)
    model = graph("reference", precision, typed=bindings.features.strongly_typed, ranged=ranged)
    bench = Bench(tmp_path)
    cache = str(tmp_path / "cache")
    made = bench.compile(
        model, backend, half=asked.half, int8=asked.int8, tf32=asked.tf32, profile=asked.profile, timing_cache=cache
    )
    assert made.error == ""
    assert asked.profile == (RANGE if ranged else None)
    cuda = open_cuda()
    try:
        engine = deserialise(bindings, bench.plan.read_bytes())
        executor = Executor(bindings, cuda, engine, limits(request), Shortcut("pinned", graph=True))
        session = session_of(model.SerializeToString())
        for count in (3, 1, 1, 3) if ranged else (1, 1, 1):
            x = windows(NETWORK, count).astype(np.float32)
            wanted = np.concatenate([session.run(None, {"window": one[None]})[0] for one in x])
            # TF32 and float16 are as good as their ten bits; what they were measured against is in other tests.
            bound = 1e-5 if precision == "fp32" else 2e-2
            assert np.abs(executor.run(x) - wanted).max() <= bound * np.abs(wanted).max()
        layers = parse_layers(executor.inspected())
        held = held_precision(model, layers, precision, typed=bindings.features.strongly_typed)
        assert (held.wrong, held.told) == ("", True)
        assert len(executor.device_us(2)) == 2
        executor.close()
    finally:
        cuda.close()


@pytest.mark.parametrize(("backend", "release"), BACKENDS)
def test_control_a_name_that_no_release_has_is_an_error_there(monkeypatch, tmp_path, backend, release):
    """The fake is strict: a name that is touched and not listed ends the build."""
    listed = json.loads(API.read_text())
    key = f"tensorrt_rtx {RTX_RELEASE}" if backend == "tensorrt-rtx" else f"tensorrt {release}"
    listed[key]["IBuilderConfig"].remove("set_memory_pool_limit")
    (tmp_path / "api.json").write_text(json.dumps(listed))
    use_fake_device(monkeypatch, release=release or "10.3.0", api=tmp_path / "api.json")
    with pytest.raises(AttributeError, match="set_memory_pool_limit"):
        Bench(tmp_path).compile(graph(), backend)
