"""Real compilations: NVIDIA's own compiler, TensorRT-RTX, which needs no GPU to make an engine."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from onnx import ModelProto

from sattn_edge.errors import ModelFileError, QualityError, SattnEdgeError, UnavailableError, UsageError
from sattn_edge.files import digest
from sattn_runtime.tensorrt.bindings import load
from sattn_runtime.tensorrt.compile_process import Compiled, CompileOptions, compile_graph
from sattn_runtime.tensorrt.compiler import architectures
from sattn_runtime.tensorrt.layers import parse_layers
from sattn_runtime.tensorrt.memory import LEAST_WORKSPACE, MIB
from tests.helpers_run import run_code
from tests.sattn_runtime.tensorrt.helpers_compile import Heard, graph, made_of
from tests.sattn_runtime.tensorrt.helpers_engines import REFERENCE, lowered

pytest.importorskip("tensorrt_rtx")

MAGIC = b"vtrt"
WHOLE = lowered(REFERENCE, "reference", "fp32").model


@pytest.fixture
def folder(tmp_path: Path):
    """Where the parts lie; nothing of them may be left."""
    made = tmp_path / "parts"
    made.mkdir()
    yield made
    assert list(made.iterdir()) == []


def compiled(model: ModelProto, folder: Path, arch: str | None = "SM86", room: int = 1 << 30) -> Compiled:
    return compile_graph(model, CompileOptions("tensorrt-rtx", room, arch=arch), None, "it", folder)


def refused(
    kind: type[SattnEdgeError],
    code: int,
    model: ModelProto,
    folder: Path,
    arch: str | None = "SM86",
    room: int = 1 << 30,
) -> str:
    with pytest.raises(SattnEdgeError) as caught:
        compiled(model, folder, arch, room)
    assert (type(caught.value), caught.value.exit_code) == (kind, code)
    return str(caught.value)


def test_an_engine_and_the_same_again(folder):
    made = compiled(graph(), folder)
    size, version = struct.unpack_from("<Q4s", made.plan, 0x10)
    assert (made.plan[:4], made.plan[0x1C:0x20], size) == (MAGIC, MAGIC, len(made.plan))
    assert made.release == ".".join(map(str, version))
    assert made.digest == digest(made.plan)
    assert {kernel.kind for kernel in parse_layers(made.layers_text)} >= {"kgen"}
    again = compiled(graph(), folder)
    assert again.digest == made.digest
    assert compiled(graph("taps"), folder).digest != made.digest  # the control


def test_it_tells_how_far_it_is(folder):
    heard = Heard()
    compile_graph(graph(), CompileOptions("tensorrt-rtx", 1 << 30, arch="SM86"), heard, "it", folder)
    phases = [event for event in heard.events if event[0] == "phase"]
    assert any(parent == "" and steps > 0 for _, _, parent, steps in phases)
    begun = [name for _, name, _, steps in phases if steps]
    assert sorted(begun) == sorted(name for _, name, _, steps in phases if not steps)
    assert "step" in heard.kinds()


def test_an_architecture_it_does_not_have(folder):
    """Jetson Orin is sm87: TensorRT-RTX is not for it, and says which it is for."""
    text = refused(UsageError, 2, graph(), folder, arch="SM87")
    known = ", ".join(architectures(load("tensorrt-rtx").module))
    assert "sm86" in known
    assert text == f"--arch: got 'SM87'; TensorRT-RTX {load('tensorrt-rtx').release} compiles for {known}"


def test_too_little_workspace(folder):
    text = refused(UsageError, 2, WHOLE, folder, room=4 * MIB)
    assert "no way to run it in a workspace of 4 MiB" in text
    assert text.endswith("--workspace MIB")
    assert compiled(WHOLE, folder, room=LEAST_WORKSPACE).plan  # the least that is ever given is enough


def test_no_gpu_and_no_architecture(folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "there is no GPU here" in refused(UnavailableError, 6, graph(), folder, arch=None)


def test_graphs_the_parser_does_not_take(folder):
    assert "it found no outputs" in refused(ModelFileError, 3, ModelProto(), folder)
    text = refused(ModelFileError, 3, made_of("Frobnicate", "elsewhere"), folder)
    assert "TensorRT-RTX's parser refuses the graph at node 'odd'" in text
    assert "Plugin not found" in text


def test_a_refused_build_does_not_spoil_the_next(folder):
    """Turing has no FP32 products for this compiler. The build after it is as good as the one before."""
    before = compiled(WHOLE, folder)
    text = refused(QualityError, 4, WHOLE, folder, arch="SM75")
    assert "makes no engine of it" in text
    assert "SM75" in text
    after = compiled(WHOLE, folder)
    assert after.digest == before.digest
    assert len(parse_layers(after.layers_text)) == len(parse_layers(before.layers_text))


_ONE_PROCESS = """
import json, sys
from sattn_runtime.tensorrt.compiler import compile_job
from sattn_runtime.tensorrt.job import Job
from sattn_runtime.tensorrt.layers import parse_layers
rows = []
for arch in {archs}:
    made = compile_job(Job("tensorrt-rtx", {graph!r}, {plan!r}, 1 << 30, arch=arch), lambda message: None)
    rows.append((bool(made.error), made.plan, len(parse_layers(made.layers)) if made.layers else 0))
print(json.dumps(rows))
"""


def test_control_in_one_process_it_does(folder, tmp_path):
    """What the process for each build is for: seen with TensorRT-RTX 1.7.1, and looked at here."""
    path = tmp_path / "graph.onnx"
    path.write_bytes(WHOLE.SerializeToString())
    code = _ONE_PROCESS.format(archs=["SM75", "SM86"], graph=str(path), plan=str(tmp_path / "plan"))
    (failed, _, _), (error, spoilt, kernels) = json.loads(run_code(code))
    assert (failed, error) == (True, False)
    good = compiled(WHOLE, folder)
    assert spoilt != good.digest
    assert kernels > len(parse_layers(good.layers_text))


def test_control_in_one_process_two_good_builds_are_the_same(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(graph().SerializeToString())
    code = _ONE_PROCESS.format(archs=["SM86", "SM86"], graph=str(path), plan=str(tmp_path / "plan"))
    first, second = json.loads(run_code(code))
    assert first == second
    assert not first[0]
