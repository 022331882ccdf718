"""Lists of kernels as the compilers write them, and as nobody should."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sattn_edge.errors import UnavailableError
from sattn_runtime.tensorrt.layers import (
    SHAPE_CALL,
    EngineLayer,
    EngineTensor,
    normalise_dtype,
    parse_json,
    parse_layers,
    parse_log,
)


def logged(name: str, dims: str = "1,64,9", dtype: str = "Float") -> str:
    return (
        f"{{ Name: {name}, Dimensions: [{dims}], Strides: [1,1,1], StrideOrder: [2,1,0], Datatype: {dtype}, "
        "Format: (NHWC) Channel major format }"
    )


def row(name: str, kind: str, inputs: str, outputs: str, metadata: str, constants: str = "") -> str:
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {inputs}], Constants: [ {constants}], Outputs: [ {outputs}], "
        f"TacticName: , StreamId: 0, Metadata: {metadata}"
    )


def log(*rows: str) -> str:
    tail = "I/O Tensors:\n Name: window, IOMode: Input, DataType: Float, Dimensions: [1,1,128,9], Metadata: no"
    return "\n".join(["Layers:", *rows, "", tail, "", "Engine Metadata:", " Multi-Device: Disabled"])


def test_a_line_of_the_log_is_a_layer() -> None:
    two = f"{logged('a')}, {logged('b', '-1,3', 'Half')}"
    text = log(row("__myl_Fc_myl0_0", "gemm", two, logged("y", "1", "Int8"), "[ONNX Layer: one]\x1f[ONNX Layer: two]"))
    assert parse_log(text) == (
        EngineLayer(
            "__myl_Fc_myl0_0",
            "gemm",
            (EngineTensor("a", (1, 64, 9), "float32"), EngineTensor("b", (-1, 3), "float16")),
            (EngineTensor("y", (1,), "int8"),),
            ("one", "two"),
        ),
    )


@pytest.mark.parametrize(
    "end", ["", "\n", "\n\nBindings:\nx\ny", "\nI/O Tensors:\n Name: x", "\n\nEngine Metadata:\n Name: x"]
)
def test_the_list_ends_where_something_else_begins(end: str) -> None:
    text = f"Layers:\n{row('k', 'kgen', logged('a'), logged('y'), '[ONNX Layer: n]')}{end}"
    assert [layer.nodes for layer in parse_log(text)] == [("n",)]


def test_constants_are_neither_input_nor_output() -> None:
    text = log(row("k", "kgen", logged("a"), logged("y"), "[ONNX Layer: n]", constants=logged("w", "7", "Half")))
    (layer,) = parse_log(text)
    assert [t.name for t in (*layer.inputs, *layer.outputs)] == ["a", "y"]


def test_a_kernel_for_sizes_reads_nothing_and_is_told_by_its_kind() -> None:
    text = log(
        "Name: __mye6_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, "
        "Metadata: ",
        row("k", "kgen", logged("a"), logged("y"), "[ONNX Layer: n]"),
    )
    sizes, other = parse_log(text)
    assert sizes == EngineLayer("__mye6_0", SHAPE_CALL)
    assert other.kind != SHAPE_CALL


@pytest.mark.parametrize(
    "name", ["a, b", "a[0]", "x] [y", "a, Dimensions", "{ a }", "a\nb", "Name: x", "größe", "a: b"]
)
def test_any_name_of_a_node_comes_back(name: str) -> None:
    text = log(row("k", "kgen", logged("a"), logged("y"), f"[ONNX Layer: {name}]\x1f[ONNX Layer: last]"))
    assert [layer.nodes for layer in parse_log(text)] == [(name, "last")]


def test_names_of_layers_and_tensors_may_hold_commas_and_brackets() -> None:
    text = log(row("k, [0]", "kgen", logged("a, [b]{c}"), logged("y"), "[ONNX Layer: n]"))
    (layer,) = parse_log(text)
    assert (layer.name, layer.inputs) == ("k, [0]", (EngineTensor("a, [b]{c}", (1, 64, 9), "float32"),))


@pytest.mark.parametrize("separator", ["\x1e", "\x1f", "\\u001e", "\\u001f"])
def test_nodes_are_parted_by_any_of_the_separators(separator: str) -> None:
    text = log(
        row(
            "k",
            "kgen",
            logged("a"),
            logged("y"),
            f"[ONNX Layer: n]{separator}[ONNX Layer: n]{separator}[ONNX Layer: m]",
        )
    )
    assert parse_log(text)[0].nodes == ("n", "m")


def tensor(name: str, dtype: str, dims: list[int]) -> dict[str, object]:
    return {"Name": name, "Location": "Device", "Dimensions": dims, "Format/Datatype": dtype}


def inspected(**changes: object) -> dict[str, object]:
    entry: dict[str, object] = {
        "Name": "conv1 + relu1",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor("x", "Channel major FP16 format where channel % 8 == 0", [1, 64, 128, 9])],
        "Outputs": [tensor("y", "Row major linear FP32", [1, 128, 64, 9])],
        "TacticValue": "0x1",
        "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
    }
    return {**entry, **changes}


def inspector(*rows: object) -> str:
    return json.dumps({"Layers": rows, "Bindings": ["x", "y"]})


def test_an_entry_of_the_inspector_is_a_layer() -> None:
    assert parse_json(inspector(inspected())) == (
        EngineLayer(
            "conv1 + relu1",
            "CaskConvolution",
            (EngineTensor("x", (1, 64, 128, 9), "float16"),),
            (EngineTensor("y", (1, 128, 64, 9), "float32"),),
            ("conv1", "relu1"),
        ),
    )


def test_type_and_format_may_be_fields_of_their_own() -> None:
    rows = [{"Name": "x", "Dimensions": [1], "Datatype": "Half", "Format": "(NHWC) FP32 it is not"}]
    assert parse_json(inspector(inspected(Inputs=rows)))[0].inputs == (EngineTensor("x", (1,), "float16"),)


def test_control_characters_in_strings_are_read() -> None:
    text = inspector(inspected()).replace("\\u001e", "\x1e")
    assert "\x1e" in text
    assert parse_json(text)[0].nodes == ("conv1", "relu1")


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("conv1 + relu1", ("conv1", "relu1")),
        ("conv1 || conv2", ("conv1", "conv2")),
        ("PWN(PWN(att0.sigmoid), att0.multiply)", ("att0.sigmoid", "att0.multiply")),
        ("layer(0)", ("layer(0)",)),
        ("Reformatting CopyNode for Input Tensor 0 to conv1", ()),
        ("{ForeignNode[a...b]}", ()),
        ("__myl_FcAdd_myl0_1", ()),
    ],
)
def test_where_nothing_else_tells_the_name_tells_the_nodes(name: str, nodes: tuple[str, ...]) -> None:
    assert parse_json(inspector(name))[0] == EngineLayer(name, "", nodes=nodes)
    assert parse_json(inspector(inspected(Name=name, Metadata="")))[0].nodes == nodes


def test_what_an_entry_lacks_is_not_told() -> None:
    assert parse_json(inspector({"Name": "a"}, 7)) == (
        EngineLayer("a", "", nodes=("a",)),
        EngineLayer("7", "", nodes=("7",)),
    )


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("Float", "float32"),
        ("Half", "float16"),
        ("Int8", "int8"),
        ("Int32", "int32"),
        ("Int64", "int64"),
        ("Bool", "bool"),
        ("UInt8", "uint8"),
        ("BFloat16", "bfloat16"),
        ("BF16", "bfloat16"),
        ("FP8", "float8"),
        ("Float8E4M3FN", "float8"),
        ("FP4", "float4"),
        ("Int4", "int4"),
        ("Double", "float64"),
        ("Row major linear FP32", "float32"),
        ("Row major linear FP16 format", "float16"),
        ("Channel major FP16 format where channel % 8 == 0", "float16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Half NHWC8", "float16"),
        ("Row major linear FP32 format (kLINEAR)", "float32"),
        ("N/A due to dynamic shapes", ""),
        ("", ""),
    ],
)
def test_types_are_named_as_numpy_does(text: str, dtype: str) -> None:
    assert normalise_dtype(text) == dtype


def test_either_text_is_recognised() -> None:
    assert parse_layers(inspector(inspected()))[0].kind == "CaskConvolution"
    assert parse_layers(log(row("k", "kgen", logged("a"), logged("y"), "")))[0].kind == "kgen"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "has no list of layers"),
        ("Graph optimization time: 0.1 seconds.", "has no list of layers"),
        ("Layers:\n\nI/O Tensors:\n Name: x", "lists no layer"),
        ("{", "is not JSON"),
        ('{"a":' * 100_000, "is not JSON"),
        ('{"Layers": []}', "lists no layer"),
        ('{"Layers": {}}', "lists no layer"),
        ("{}", "lists no layer"),
    ],
)
def test_what_is_no_list_is_an_error_that_says_what_to_do(text: str, found: str) -> None:
    with pytest.raises(UnavailableError, match=f"^the compiler's list of kernels: the text {found}; .*verbosity"):
        parse_layers(text)


TITLES = (
    "Name: ",
    "LayerType: ",
    "Inputs: [",
    "Constants: [",
    "Outputs: [",
    "TacticName: ",
    "Metadata: ",
    "Datatype: ",
)
MARKS = (
    "Layers:\n",
    "\nI/O Tensors:",
    "[ONNX Layer: ",
    "Dimensions: [",
    "], ",
    "]",
    "{ ",
    "}",
    ", ",
    "\x1f",
    "\n",
    "1,",
)
PIECES = st.sampled_from((*TITLES, *MARKS, '"Layers": [', '"Name": ', '"', "{"))


@given(st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=40).map("".join)))
@example("Layers:\nName: ")
@example('{"Layers": [null, {"Inputs": [1, {"Dimensions": [null, {}]}], "Metadata": 3}]}')
def test_any_text_is_layers_or_an_error_of_ours(text: str) -> None:
    try:
        found = parse_layers(text)
    except UnavailableError:
        return
    assert found
    assert all(isinstance(node, str) for layer in found for node in layer.nodes)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["Layers", "Name", "LayerType", "Inputs", "Outputs", "Dimensions", "Datatype", "Metadata"]),
            inner,
            max_size=4,
        ),
    ),
)


@given(st.fixed_dictionaries({"Layers": st.lists(JSON, min_size=1, max_size=4)}))
def test_any_json_with_layers_has_as_many(data: dict[str, list[object]]) -> None:
    assert len(parse_layers(json.dumps(data))) == len(data["Layers"])
