"""The gate's rules for tensors, the graph and shapes, each broken by one change to a good file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sattn_edge.gate import admit
from tests.helpers_onnx import (
    Change,
    Rules,
    attribute,
    before,
    changed,
    check_rule,
    initializer,
    node,
    refused,
    replace,
    set_ints,
)

# -- T: tensors -------------------------------------------------------------------------------------------


def external(model: ModelProto) -> None:
    tensor = initializer(model, "fc.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")


def external_in_attribute(model: ModelProto) -> None:
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    value.external_data.add(key="location", value="/etc/passwd")
    before(model, "Gemm", helper.make_node("Constant", [], ["c"], value=value))


def as_type(element_type: int) -> Change:
    return lambda m: setattr(initializer(m, "fc.weight"), "data_type", element_type)


def with_dims(values: list[int]) -> Change:
    return lambda m: initializer(m, "fc.bias").dims.__setitem__(slice(None), values)


def emptied(model: ModelProto) -> None:
    initializer(model, "fc.bias").CopyFrom(numpy_helper.from_array(np.zeros(0, np.float32), "fc.bias"))


def two_fields(model: ModelProto) -> None:
    initializer(model, "fc.bias").float_data.extend([0.0] * 4)


def short_typed(model: ModelProto) -> None:
    tensor = initializer(model, "fc.bias")
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * 3)


TENSORS: Rules = {
    "external": (external, "initializer 'fc.weight' has its data in another file ('../weights.bin'); all weights"),
    "external in an attribute": (external_in_attribute, "has its data in another file ('/etc/passwd')"),
    "segment": (lambda m: setattr(initializer(m, "fc.bias").segment, "begin", 1), "is a segment of a larger tensor"),
    "string": (as_type(TensorProto.STRING), "has the element type string"),
    "4 bits": (as_type(TensorProto.INT4), "has the element type int4"),
    "8-bit float": (as_type(TensorProto.FLOAT8E4M3FN), "has the element type float8e4m3fn"),
    "unknown type": (as_type(99), "has the element type number 99; float, uint8"),
    "negative dimension": (with_dims([-4]), "has a negative dimension in [-4]"),
    "two negative dimensions": (with_dims([-2, -2]), "has a negative dimension in [-2, -2]"),
    "empty": (emptied, "initializer 'fc.bias' is empty, its dimensions are [0]"),
    "many dimensions": (with_dims([1] * 9 + [4]), "has 10 dimensions; at most 8"),
    "huge": (with_dims([2**40, 2**40]), "elements ([1099511627776, 1099511627776]); at most 67108864"),
    "more dims than data": (with_dims([5]), "holds 16 bytes of data; 20 for [5] of float"),
    "less dims than data": (with_dims([3]), "holds 16 bytes of data; 12 for [3] of float"),
    "no data": (lambda m: initializer(m, "fc.bias").ClearField("raw_data"), "keeps its data in no field"),
    "two fields": (two_fields, "keeps its data in raw_data, float_data; one field, raw_data or float_data"),
    "short typed data": (short_typed, "holds 3 values of data; 4 for [4] of float"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "has sparse initializers"),
}


# -- G: the graph -----------------------------------------------------------------------------------------


def swapped(model: ModelProto) -> None:
    nodes = list(model.graph.node)
    nodes[0], nodes[1] = nodes[1], nodes[0]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def input_dim(axis: int, value: int | None) -> Change:
    def change(model: ModelProto) -> None:
        dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
        dim.Clear()
        if value is not None:
            dim.dim_value = value

    return change


def sequence_input(model: ModelProto) -> None:
    inner = onnx.TypeProto()
    inner.CopyFrom(model.graph.input[0].type)
    model.graph.input[0].type.sequence_type.elem_type.CopyFrom(inner)


def elem_type(part: str, kind: int) -> Change:
    return lambda m: setattr(getattr(m.graph, part)[0].type.tensor_type, "elem_type", kind)


def described(kind: int, shape: list[int]) -> Change:
    def change(model: ModelProto) -> None:
        value = model.graph.value_info.add(name="pooled")
        value.type.tensor_type.elem_type = kind
        for size in shape:
            value.type.tensor_type.shape.dim.add(dim_value=size)

    return change


def second_output(model: ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 24]))


GRAPH: Rules = {
    "no nodes": (lambda m: m.graph.ClearField("node"), "has a graph without nodes"),
    "open graph": (
        lambda m: node(m, "Relu").input.__setitem__(0, "nobody"),
        "node 'block0.relu' (Relu) reads 'nobody', which nothing makes: an open graph",
    ),
    "cycle": (lambda m: node(m, "Sub").input.__setitem__(0, "logits"), "made by itself or later: a cycle or wrong"),
    "itself": (lambda m: node(m, "Relu").input.__setitem__(0, "block0.out"), "made by itself or later"),
    "order": (swapped, "reads 'centred', which is made by itself or later: a cycle or wrong order"),
    "name made twice": (
        lambda m: node(m, "Relu").output.__setitem__(0, "centred"),
        "the output of node 'block0.relu' (Relu), 'centred' is a second value of that name",
    ),
    "output named as an input": (
        lambda m: node(m, "Relu").output.__setitem__(0, "input"),
        "'input' is a second value of that name",
    ),
    "initializer twice": (
        lambda m: m.graph.initializer.append(initializer(m, "fc.bias")),
        "initializer 'fc.bias' is a second value",
    ),
    "initializer without a name": (
        lambda m: initializer(m, "fc.bias").ClearField("name"),
        "has initializer ''; a name",
    ),
    "long name": (lambda m: setattr(initializer(m, "fc.bias"), "name", "x" * 2000), "a name of 1 to 1024 characters"),
    "no output": (lambda m: node(m, "Relu").ClearField("output"), "has 0 outputs; 1"),
    "empty output": (lambda m: node(m, "Relu").output.__setitem__(0, ""), "has no output"),
    "too many nodes": (
        lambda m: m.graph.node.extend([m.graph.node[0]] * 10_000),
        "nodes; at most 10000",
    ),
    "graph output by nobody": (
        lambda m: setattr(m.graph.output[0], "name", "nobody"),
        "graph output 'nobody' is made by no node",
    ),
    "graph output is an input": (
        lambda m: setattr(m.graph.output[0], "name", "input"),
        "graph output 'input' is made by no node",
    ),
    "no outputs": (lambda m: m.graph.ClearField("output"), "has no outputs; the logits"),
    "two outputs": (second_output, "has the outputs 'logits' and 'flat'; the logits, then 'attention'"),
    "no inputs": (lambda m: m.graph.ClearField("input"), "which nothing makes: an open graph"),
    "two inputs": (
        lambda m: m.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])),
        "has 2 inputs; exactly one",
    ),
    "sequence input": (sequence_input, "value 'input' is sequence_type; tensors"),
    "double input": (elem_type("input", TensorProto.DOUBLE), "input 'input' is double; float"),
    "int64 output": (elem_type("output", TensorProto.INT64), "output 'logits' is int64; float"),
    "free series": (input_dim(2, None), "input 'input' has the shape [free, 1, free, 3]; all dimensions fixed"),
    "negative series": (input_dim(2, -1), "input 'input' has the shape [free, 1, -1, 3]"),
    "fixed batch": (input_dim(0, 1), "input 'input' is [1, 1, 32, 3]; [free batch, 1, series, modal]"),
    "two planes": (input_dim(1, 2), "input 'input' is [free, 2, 32, 3]; [free batch, 1, series, modal]"),
    "unknown input shape": (
        lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
        "has the shape unknown; all dimensions fixed",
    ),
    "huge series": (input_dim(2, 2**40), "1099511627776"),
    "fixed batch of the output": (
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[0], "dim_value", 1),
        "output 'logits' is [1, 4]; [free batch, classes]",
    ),
    "described string": (described(TensorProto.STRING, [1]), "value 'pooled' has the element type string"),
    "described negative": (described(TensorProto.FLOAT, [-3]), "value 'pooled' has the dimensions [-3]"),
}


# -- S: onnx's checker and inferred shapes -----------------------------------------------------------------


def reshaped(values: list[int]) -> Change:
    def change(model: ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), "shape"))
        replace(model, "Flatten", helper.make_node("Reshape", ["pooled", "shape"], ["flat"]))

    return change


def batch_fixed(model: ModelProto) -> None:
    """The mean over the batch: right for a batch of one, wrong for any other."""
    mean = helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[0], keepdims=1)
    before(model, "Gemm", mean)


def unknown_shape(model: ModelProto) -> None:
    """As many elements as a sample says."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "zero"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    made = [
        helper.make_node("ReduceMean", ["input"], ["sample"], keepdims=0),
        helper.make_node("Cast", ["sample"], ["count"], to=TensorProto.INT64),
        helper.make_node("Range", ["zero", "count", "one"], ["counted"]),
    ]
    for at, extra in enumerate(made):
        model.graph.node.insert(at, extra)


def huge_constant(model: ModelProto) -> None:
    """A few bytes in the file, and petabytes when it runs."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "shape"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["huge"]))


def many_large(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**25], np.int64), "shape"))
    for i in range(9):
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], [f"large{i}"]))


def large_product(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([8192, 8192], np.int64), "shape"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["square"]))
    model.graph.node.insert(1, helper.make_node("MatMul", ["square", "square"], ["product"], name="product"))


def divided(by: int | None, op_type: str = "Div") -> Change:
    def change(model: ModelProto) -> None:
        whole = helper.make_node("Cast", ["flat"], ["whole"], to=TensorProto.INT32)
        if by is not None:
            model.graph.initializer.append(numpy_helper.from_array(np.array([by], np.int32), "by"))
        quotient = helper.make_node(op_type, ["whole", "whole" if by is None else "by"], ["quotient"], name="halve")
        before(model, "Gemm", whole, quotient, helper.make_node("Cast", ["quotient"], ["back"], to=TensorProto.FLOAT))

    return change


def wrong_channels(model: ModelProto) -> None:
    weight = initializer(model, "block1.conv.weight")
    shape = list(weight.dims)
    weight.dims[:] = [shape[0], shape[1] + 1, *shape[2:]]
    weight.raw_data = bytes(4 * int(np.prod(weight.dims)))


def bias_of(count: int, name: str = "block0.conv.bias") -> Change:
    return lambda m: initializer(m, name).CopyFrom(numpy_helper.from_array(np.zeros(count, np.float32), name))


def bias_reshaped(model: ModelProto) -> None:
    initializer(model, "block0.conv.bias").dims[:] = [1, 4]


def other_kernel(model: ModelProto) -> None:
    set_ints(model, "Conv", "kernel_shape", [4, 1])


def grouped(model: ModelProto) -> None:
    attribute(model, "Conv", "group").i = 2


def short_scale(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "scale"))
    inputs = ["block0.bn", "scale", "block0.bn.bias"]
    replace(model, "Relu", helper.make_node("InstanceNormalization", inputs, ["block0.out"], name="new"))


LAYERS: Rules = {
    "bias too short": (bias_of(2), "node 'block0.conv' (Conv) has an input 2 of [2]; [4], one for each feature map"),
    "bias too long": (bias_of(5), "node 'block0.conv' (Conv) has an input 2 of [5]; [4], one for each"),
    "bias of another rank": (bias_reshaped, "has an input 2 of [1, 4]; [4], one for each feature map"),
    "attention's bias": (bias_of(3, "block1.att.bias"), "(Conv) has an input 2 of [3]; [1], one for each"),
    "scale too short": (short_scale, "node 'new' (InstanceNormalization) has an input 1 of [3]; [4], one for each"),
    "kernel beside the weight": (other_kernel, "has a weight [4, 1, 3, 1] for an input [3, 1, 32, 3] and the kernel"),
    "groups": (grouped, "has a weight [4, 1, 3, 1] for an input [3, 1, 32, 3] in 2 groups"),
}

SHAPES: Rules = {
    "unknown": (unknown_shape, "the shape of 'counted' can't be inferred ([free])"),
    "types that don't fit": (
        lambda m: before(m, "Gemm", helper.make_node("Cast", ["flat"], ["whole"], to=TensorProto.INT64)),
        "does not pass onnx's checker",
    ),
    "shapes that don't fit": (reshaped([0, 7]), "does not pass onnx's checker"),
    "kernel too wide": (
        lambda m: set_ints(m, "Conv", "kernel_shape", [99, 1]),
        "value 'block0.main' is empty, its shape is [3, 4, -31, 3]",
    ),
    "rank of the pads": (
        lambda m: set_ints(m, "SpatialAttention", "pads", [1, 0]),
        "does not pass onnx's checker ([ShapeInferenceError]",
    ),
    "batch lost": (
        reshaped([1, -1]),
        "has shapes that don't fit ([ShapeInferenceError] Inference error(s): (op_type:Gemm, node name: classifier)",
    ),
    "batch fixed on the way": (batch_fixed, "output 'logits' comes out as [1, 4] at a batch of 3; [free, 4], as it"),
    "huge tensor": (huge_constant, "value 'huge' has 1099511627776 elements at a batch of 3"),
    "many large tensors": (many_large, "its tensors have 30"),
    "large product": (large_product, "node 'product' (MatMul) takes 549755813888 multiply-adds"),
    "division by nought": (divided(0), "node 'halve' (Div) divides whole numbers by something not constant, 0 or -1"),
    "division by -1": (divided(-1), "divides whole numbers"),
    "rest of a division": (divided(0, "Mod"), "node 'halve' (Mod) divides whole numbers"),
    "division by a value": (divided(None), "divides whole numbers"),
    "declared classes": (
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 5),
        "does not pass onnx's checker ([ShapeInferenceError]",
    ),
}

RULES = {
    f"{group}: {name}": case
    for group, cases in {"tensors": TENSORS, "graph": GRAPH, "shapes": SHAPES, "layers": LAYERS}.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("rule", RULES)
def test_one_change_against_a_rule_is_refused(rule):
    check_rule(*RULES[rule])


@pytest.mark.parametrize("rule", TENSORS)
def test_others_files_obey_the_same_rules(rule):
    if rule == "empty":
        pytest.skip("others write this")
    refused(changed(TENSORS[rule][0]), foreign=True)


def test_whole_numbers_divided_by_a_constant_pass():
    admit(changed(divided(2)), "net.onnx")
