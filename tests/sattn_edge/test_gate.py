"""The gate as a whole: what passes, what it says to bytes that are no model, and others' files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge import gate, gate_limits
from sattn_edge.attention import DOMAIN
from sattn_edge.errors import ModelFileError
from sattn_edge.gate import admit
from tests.helpers_onnx import (
    before,
    changed,
    flat_model,
    initializer,
    make_model,
    node,
    refused,
)

# -- what passes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "max", "mean+max"])
@pytest.mark.parametrize("foreign", [False, True])
def test_a_good_file_passes_and_comes_back_as_it_was(pooling, foreign):
    data = make_model(pooling=pooling).SerializeToString()
    assert admit(data, "net.onnx", foreign=foreign).SerializeToString() == data


def test_the_widths_and_shapes_of_real_networks_pass():
    for widths, series, modal in (((64, 128, 256, 512), 128, 6), ((4,), 7, 1), ((8, 8, 8), 1000, 12)):
        admit(make_model(widths, series=series, modal=modal).SerializeToString(), "net.onnx")


def test_lowered_files_of_later_opsets_pass():
    for opset, ir_version in ((18, 8), (19, 9), (19, 10)):
        model = flat_model(17, ir_version)
        for extra in [n for n in model.graph.node if n.op_type == "ReduceMean"]:
            axes = next(a for a in extra.attribute if a.name == "axes")
            name = f"{extra.output[0]}.axes"
            model.graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), name))
            extra.attribute.remove(axes)
            extra.input.append(name)
        model.opset_import[0].version = opset
        admit(model.SerializeToString(), "net.onnx")


def test_int8_and_float16_inside_the_graph_pass():
    model = flat_model()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.int8(0), "zero"))
    before(
        model,
        "Gemm",
        helper.make_node("Cast", ["flat"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["single", "scale", "zero"], ["int8"]),
        helper.make_node("DequantizeLinear", ["int8", "scale", "zero"], ["back"]),
    )
    admit(model.SerializeToString(), "net.onnx")


def test_quantization_annotations_and_a_dangling_import_of_ours_are_tolerated():
    model = flat_model()
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.graph.quantization_annotation.add(tensor_name="pooled")
    admit(model.SerializeToString(), "net.onnx")


def test_others_files_may_import_domains_they_do_not_use_have_more_outputs_and_a_fixed_batch():
    model = flat_model(ir_version=13)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["n", "c", "one", "m"]))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    admit(model.SerializeToString(), "net.onnx", foreign=True)
    refused(model.SerializeToString())


def test_initializers_listed_as_inputs_are_no_inputs_of_others_files():
    model = flat_model(ir_version=8)
    weight = initializer(model, "fc.weight")
    model.graph.input.append(helper.make_tensor_value_info("fc.weight", TensorProto.FLOAT, list(weight.dims)))
    admit(model.SerializeToString(), "net.onnx", foreign=True)
    assert "'fc.weight' is a second value of that name" in refused(model.SerializeToString())


# -- B: bytes ---------------------------------------------------------------------------------------------


def test_an_empty_file():
    assert refused(b"") == "net.onnx: is empty; an ONNX model; fetch or make the file again"


@pytest.mark.parametrize("text", [b"hello world\n" * 99, b"{}", b"rate_hz = 50.0\nwindow = 128\n"])
def test_a_text(text):
    assert "is text, not an ONNX model" in refused(text)


def test_not_protobuf():
    assert "is not an ONNX model or is damaged" in refused(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))


def test_a_file_cut_short_is_never_admitted_without_its_graph():
    data = make_model().SerializeToString()
    assert "is cut short, " in refused(data[: len(data) // 2])
    for length in range(0, len(data) - 1, 97):
        try:
            admit(data[:length], "net.onnx")
        except ModelFileError:
            continue
        pytest.fail(f"admitted the first {length} of {len(data)} bytes")


def test_a_file_that_is_too_large(monkeypatch):
    monkeypatch.setattr(gate, "MAX_FILE_BYTES", gate_limits.MIB)
    assert "has 2 MiB; at most 1 MiB" in refused(bytes(2 * gate_limits.MIB))
    assert gate_limits.MAX_FILE_BYTES == 512 * gate_limits.MIB


def test_texts_that_are_not_utf8():
    data = make_model().SerializeToString().replace(b"classifier", b"classif\xff\xfer")
    assert "not UTF-8" in refused(data)


def test_fields_that_are_not_onnx():
    data = make_model().SerializeToString() + b"\xfa\x7f\x03abc"
    assert "has fields that are not ONNX's" in refused(data)
    admitted = admit(data, "net.onnx", foreign=True)
    assert admitted.SerializeToString() == make_model().SerializeToString()


# -- others' files


def with_function(model: ModelProto, body: list[NodeProto], calls: int = 1, name: str = "F") -> ModelProto:
    """A function `x::F(a) -> b` and calls of it in front of the classifier."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("x", 1)]
    model.functions.append(helper.make_function("x", name, ["a"], ["b"], body, imports))
    if not any(o.domain == "x" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("x", 1))
    if calls:
        before(model, "Gemm", helper.make_node(name, [node(model, "Gemm").input[0]], [f"{name}.out"], domain="x"))
    return model


def test_others_functions_pass_if_their_bodies_obey_the_rules():
    model = with_function(flat_model(), [helper.make_node("Relu", ["a"], ["b"])])
    admit(model.SerializeToString(), "net.onnx", foreign=True)
    model.opset_import.pop()
    assert "function 'x::F' is none of ours" in refused(model.SerializeToString())


def test_others_functions_are_refused_for_what_is_in_them():
    unknown = with_function(flat_model(), [helper.make_node("Nothing", ["a"], ["b"])])
    assert "is no operator of ONNX" in refused(unknown.SerializeToString(), foreign=True)
    open_end = with_function(flat_model(), [helper.make_node("Relu", ["c"], ["b"])])
    assert "reads 'c', which nothing makes" in refused(open_end.SerializeToString(), foreign=True)
    no_output = with_function(flat_model(), [helper.make_node("Relu", ["a"], ["c"])])
    assert "has an output 'b' that nothing makes" in refused(no_output.SerializeToString(), foreign=True)
    itself = with_function(flat_model(), [helper.make_node("F", ["a"], ["b"], domain="x")])
    assert "function 'F' calls itself" in refused(itself.SerializeToString(), foreign=True)


def test_functions_that_stand_for_millions_of_nodes():
    model = with_function(flat_model(), [helper.make_node("Relu", ["a"], ["b"])], calls=0, name="F0")
    for i in range(1, 25):
        twice = [helper.make_node(f"F{i - 1}", [a], [b], domain="x") for a, b in (("a", "c"), ("c", "b"))]
        with_function(model, twice, calls=int(i == 24), name=f"F{i}")
    assert "nodes with its functions written out; at most 10000" in refused(model.SerializeToString(), foreign=True)


def test_what_a_call_hands_to_its_function_meets_the_schema():
    conv = helper.make_node("LeakyRelu", ["a"], ["b"])
    conv.attribute.add(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="alpha")
    model = with_function(flat_model(), [conv])
    model.functions[0].attribute.append("alpha")
    call = node(model, "F")
    call.attribute.append(helper.make_attribute("alpha", 0.5))
    admit(model.SerializeToString(), "net.onnx", foreign=True)
    call.attribute[0].CopyFrom(helper.make_attribute("alpha", [1, 2]))
    assert "is of type ints; float" in refused(model.SerializeToString(), foreign=True)


@pytest.mark.parametrize(
    ("opset", "ir_version", "text"),
    [
        (8, 8, "opset 8; 9 to 25"),
        (99, 8, "opset 99; 9 to"),
        (17, 14, "IR version 14; 3 to 13"),
        (17, 2, "IR version 2"),
    ],
)
def test_opsets_and_ir_versions_of_others_files(opset, ir_version, text):
    assert text in refused(flat_model(opset, ir_version).SerializeToString(), foreign=True)


# -- the gate itself --------------------------------------------------------------------------------------


def test_names_out_of_the_file_cannot_write_to_a_terminal():
    data = changed(lambda m: setattr(node(m, "Relu"), "op_type", "\x1b[2J" + "x" * 5000))
    message = refused(data)
    assert "\x1b" not in message
    assert len(message) < 400


def test_many_repeated_things_do_not_take_long():
    for change in (
        lambda m: [m.metadata_props.add(key=f"{i}") for i in range(50_000)],
        lambda m: [node(m, "Flatten").attribute.add(name=f"{i}", type=2, i=1) for i in range(50_000)],
    ):
        data = changed(change)
        try:
            admit(data, "net.onnx")
        except ModelFileError:
            pass


def test_the_gate_loads_no_runtime_and_no_torch():
    code = "import sys, sattn_edge.gate; print(sorted({'onnxruntime', 'torch'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert ran.stdout.strip() == "[]"
