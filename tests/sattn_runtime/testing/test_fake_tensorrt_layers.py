"""What an engine of the fake says it is made of: one layer a product, in the type its data come in."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sattn_edge.lowering import FORMS
from sattn_runtime.tensorrt.layers import SHAPE_CALL, parse_layers
from tests.sattn_runtime.testing.helpers_fake_tensorrt import CLASSIC, RTX, Process, graph

PRODUCTS = ("Conv", "Gemm", "MatMul")
TYPES_OLD = {
    "Row major linear FP32": "Float",
    "Row major linear FP16 format": "Half",
    "Row major Int8 format": "Int8",
}


def nodes(layer) -> list[str]:
    return [part.removeprefix("[ONNX Layer: ").removesuffix("]") for part in layer["Metadata"].split("\x1f")]


def types(layers) -> dict[str, str]:
    """Type of the first input, by the first node of a layer."""
    out = {}
    for layer in layers:
        first = layer["Inputs"][0]
        out[nodes(layer)[0]] = TYPES_OLD.get(first.get("Format/Datatype", ""), first.get("Datatype"))
    return out


def built(monkeypatch, precision: str, *, release: str = "10.3.0", typed: bool = True, flags=(), **config):
    process = Process(monkeypatch, release=release, **config)
    model = graph("reference", precision, typed=typed)
    return process, process.engine(process.plan(model, process.config(*flags)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_node_is_in_one_layer_and_every_product_has_its_own(monkeypatch, form, precision):
    process = Process(monkeypatch)
    model = graph(form, precision)
    layers = process.layers(process.engine(process.plan(model)))
    assert sorted(name for layer in layers for name in nodes(layer)) == sorted(n.name for n in model.graph.node)
    products = [node.name for node in model.graph.node if node.op_type in PRODUCTS]
    assert [nodes(layer)[0] for layer in layers if layer["LayerType"] != "kgen"] == products
    made = {tensor["Name"] for layer in layers for tensor in layer["Outputs"]} | {"window"}
    assert {tensor["Name"] for layer in layers for tensor in layer["Inputs"]} <= made


@pytest.mark.parametrize("release", CLASSIC[1:])
def test_typed_layers_have_the_types_of_the_graph(monkeypatch, release):
    wanted = {
        "fp32": dict.fromkeys(("conv0", "conv1", "conv2", "fc"), "Float"),
        "int8": {"conv0": "Float", "conv1": "Int8", "conv2": "Int8", "fc": "Float"},
    }
    for precision, expected in wanted.items():
        process, engine = built(monkeypatch, precision, release=release)
        found = types(process.layers(engine))
        assert {name: found[name] for name in expected} == expected
    process, engine = built(monkeypatch, "fp16", release=release)
    assert types(process.layers(engine))["conv1"] == "Half"


@pytest.mark.parametrize(
    ("precision", "flags", "kind"),
    [
        ("fp32", (), "Float"),
        ("fp16", ("FP16",), "Half"),
        ("int8", ("INT8",), "Int8"),
        ("int8", ("FP16", "INT8"), "Int8"),
    ],
)
def test_on_8_6_flags_tell(monkeypatch, precision, flags, kind):
    process, engine = built(monkeypatch, precision, release="8.6.1", typed=False, flags=flags)
    assert types(process.layers(engine))["conv1"] == kind


def test_8_6_without_its_flag_stays_in_float32(monkeypatch):
    """What a caller sees who forgets the flag: FP16 was asked for, and nothing is in FP16."""
    process, engine = built(monkeypatch, "fp16", release="8.6.1", typed=False)
    assert set(types(process.layers(engine)).values()) == {"Float"}


@pytest.mark.parametrize(("release", "typed", "flags"), [("10.3.0", True, ()), ("8.6.1", False, ("FP16", "INT8"))])
def test_an_engine_may_be_told_to_hold_float32(monkeypatch, release, typed, flags):
    process, engine = built(
        monkeypatch, "int8", release=release, typed=typed, flags=flags, faults={"precision": "fp32"}
    )
    assert set(types(process.layers(engine)).values()) == {"Float"}
    process, engine = built(monkeypatch, "int8", release=release, typed=typed, flags=flags)
    assert "Int8" in types(process.layers(engine)).values()


def test_a_generation_writes_types_in_its_own_way(monkeypatch):
    for release, old in (("8.6.1", True), ("10.13.3.9", True), ("11.0.0.114", False)):
        process, engine = built(monkeypatch, "fp32", release=release)
        first = process.layers(engine)[0]["Inputs"][0]
        assert ("Format/Datatype" in first, "Datatype" in first) == (old, not old)


def test_the_verbosity_decides_what_is_told(monkeypatch):
    for name, shown in (("DETAILED", dict), ("LAYER_NAMES_ONLY", str), ("NONE", None)):
        process = Process(monkeypatch)
        config = process.config()
        config.profiling_verbosity = getattr(process.trt.ProfilingVerbosity, name)
        engine = process.engine(process.plan(graph(), config))
        layers = process.layers(engine)
        assert {type(layer) for layer in layers} == ({shown} if shown else set())
        assert engine.num_layers > 2
        assert any(text.startswith("Engine Layer") for _, text in process.messages) == (name == "DETAILED")
        inspector = engine.create_engine_inspector()
        data = json.loads(inspector.get_engine_information(process.trt.LayerInformationFormat.JSON))
        assert data["Bindings"] == ["window", "logits"]
        lines = inspector.get_engine_information(process.trt.LayerInformationFormat.ONELINE).splitlines()
        assert lines[-2:] == ["window", "logits"]
        one = inspector.get_layer_information(0, process.trt.LayerInformationFormat.JSON)
        if layers:
            assert json.loads(one) == layers[0]
            assert len(lines) == len(layers) + 5  # two headings, a blank, two names


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_rtx_logs_its_layers_while_it_builds(monkeypatch, precision):
    process = Process(monkeypatch, "tensorrt_rtx")
    model = graph("gemm", precision)
    engine = process.engine(process.plan(model))
    (text,) = (text for severity, text in process.messages if severity == "VERBOSE")
    rows = parse_layers(text)
    told = process.layers(engine)
    assert [row.name for row in rows] == [layer["Name"] for layer in told]
    assert [row.nodes for row in rows] == [tuple(nodes(layer)) for layer in told]
    assert ("Datatype: Int8" in text) == (precision == "int8")
    assert " Name: window, IOMode: Input, DataType: Float, Dimensions: [1,1,32,3]" in text


def test_rtx_has_one_more_layer_for_a_free_axis(monkeypatch):
    process = Process(monkeypatch, "tensorrt_rtx")
    config, profile = process.config(), process.trt.Builder(process.log).create_optimization_profile()
    profile.set_shape("window", (1, 1, 32, 3), (2, 1, 32, 3), (4, 1, 32, 3))
    config.add_optimization_profile(profile)
    process.plan(graph(free=True), config)
    text = process.said("VERBOSE")
    assert [row.kind for row in parse_layers(text)].count(SHAPE_CALL) == 1
    assert "MinShape: [1,1,32,3], OptShape: [2,1,32,3], MaxShape: [4,1,32,3]" in text
    fixed = Process(monkeypatch, "tensorrt_rtx")
    fixed.plan(graph("reference"))
    assert "shape_call" not in fixed.said("VERBOSE")


REAL = """
import sys, tensorrt_rtx as trt
texts = []
class Log(trt.ILogger):
    def log(self, severity, text):
        texts.append(text)
log = Log()
builder = trt.Builder(log)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
assert trt.OnnxParser(network, log).parse(sys.stdin.buffer.read())
config = builder.create_builder_config()
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
assert builder.build_serialized_network(network, config) is not None
print(next(text for text in texts if text.startswith("Layers:")))
"""


def test_the_log_has_the_form_of_the_real_one(monkeypatch):
    """Field by field; what the fields hold is another matter."""
    pytest.importorskip("tensorrt_rtx")
    model = graph("gemm", "int8")
    done = subprocess.run(
        [sys.executable, "-c", REAL], input=model.SerializeToString(), capture_output=True, check=True
    )
    process = Process(monkeypatch, "tensorrt_rtx", release=RTX)
    process.plan(model)
    real, fake = (text.splitlines() for text in (done.stdout.decode(), process.said("VERBOSE")))
    for start in ("Name: ", " Name: window", " Name: logits"):
        ours, theirs = (next(line for line in text if line.startswith(start)) for text in (fake, real))
        assert fields(ours) == fields(theirs)
    assert (real[0], fake[0]) == ("Layers:", "Layers:")
    assert "I/O Tensors:" in real
    assert "I/O Tensors:" in fake


def fields(line: str) -> list[str]:
    """The names in front of colons, once each."""
    words = [word.removesuffix(":") for word in line.replace("{", " ").replace("[", " ").split() if word.endswith(":")]
    return sorted(set(words))
