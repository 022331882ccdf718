"""The gate's rules for header, functions and nodes, each broken by one change to a good file."""

from __future__ import annotations

import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper

from tests.helpers_onnx import (
    Change,
    Rules,
    attribute,
    changed,
    check_rule,
    node,
    refused,
    replace,
    set_ints,
)

# -- H: the header ----------------------------------------------------------------------------------------


HEADER: Rules = {
    "no graph": (lambda m: m.ClearField("graph"), "has no graph"),
    "training": (lambda m: m.training_info.add(), "has training information"),
    "old IR": (lambda m: setattr(m, "ir_version", 7), "has IR version 7; 8 to 10"),
    "new IR": (lambda m: setattr(m, "ir_version", 11), "has IR version 11; 8 to 10"),
    "old opset": (lambda m: setattr(m.opset_import[0], "version", 16), "is written for opset 16; 17 to 19"),
    "new opset": (lambda m: setattr(m.opset_import[0], "version", 20), "is written for opset 20; 17 to 19"),
    "no opset": (lambda m: m.opset_import.pop(0), "does not say which opset"),
    "opset twice": (lambda m: m.opset_import.append(m.opset_import[0]), "imports the domain '' twice"),
    "other domain": (lambda m: m.opset_import.add(domain="com.microsoft", version=1), "the domain 'com.microsoft'"),
    "newer domain of ours": (lambda m: setattr(m.opset_import[1], "version", 2), "has version 2 of sattn_edge"),
    "key twice": (
        lambda m: m.metadata_props.add(key="sattn_edge.format", value="2"),
        "metadata key 'sattn_edge.format' twice",
    ),
    "much metadata": (lambda m: m.metadata_props.add(key="x", value="x" * 9 * 2**20), "has 9.0 MiB of metadata"),
    "metadata on nodes": (
        lambda m: m.graph.node[0].metadata_props.add(key="x", value="x" * 9 * 2**20),
        "has 9.0 MiB of metadata; at most 8 MiB",
    ),
    "doc string": (lambda m: setattr(m, "doc_string", "x" * 70_000), "a doc string of 70000 characters"),
}


# -- F: functions -----------------------------------------------------------------------------------------


def other_body(model: ModelProto) -> None:
    model.functions[0].node[-1].op_type = "Add"


FUNCTIONS: Rules = {
    "another body": (other_body, "'sattn_edge::SpatialAttention' is not the one this version writes"),
    "another name": (lambda m: setattr(m.functions[0], "name", "Other"), "'sattn_edge::Other' is none of ours"),
    "another domain": (lambda m: setattr(m.functions[0], "domain", "x"), "'x::SpatialAttention' is none of ours"),
    "twice": (lambda m: m.functions.append(m.functions[0]), "has the function 'SpatialAttention' twice"),
    "missing": (lambda m: m.functions.pop(), "of the domain 'sattn_edge', and the file has no such function"),
    "another opset": (lambda m: setattr(m.opset_import[0], "version", 18), "is written for opset 17; the file's opset"),
    "call without pads": (lambda m: node(m, "SpatialAttention").attribute.pop(), "has the attributes none"),
    "call with less": (lambda m: node(m, "SpatialAttention").input.pop(), "has 2 inputs; 3"),
    "call with an empty input": (
        lambda m: node(m, "SpatialAttention").input.__setitem__(2, ""),
        "leaves out an input or output",
    ),
    "negative pads": (lambda m: set_ints(m, "SpatialAttention", "pads", [1, 0, -1, 0]), "has pads [1, 0, -1, 0]; 0 to"),
}


# -- N: nodes ---------------------------------------------------------------------------------------------


def add_graph_attribute(model: ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["flat"], ["y"])], "inner", [], [])
    node(model, "Flatten").attribute.append(helper.make_attribute("body", inner))


def to_if(model: ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["pooled"], ["y"])], "inner", [], [])
    replace(model, "Flatten", helper.make_node("If", ["pooled"], ["flat"], then_branch=inner, else_branch=inner))


def to_operator(op_type: str, **attributes: object) -> Change:
    """The Relu of the first block becomes another operator."""
    return lambda m: replace(
        m, "Relu", helper.make_node(op_type, ["block0.bn"], ["block0.out"], name="new", **attributes)
    )


def wrong_value_field(model: ModelProto) -> None:
    attribute(model, "Flatten", "axis").floats.append(1.0)


def no_value(model: ModelProto) -> None:
    attribute(model, "Flatten", "axis").ClearField("i")


def attribute_twice(model: ModelProto) -> None:
    node(model, "Flatten").attribute.append(attribute(model, "Flatten", "axis"))


NODES: Rules = {
    "unknown operator": (to_operator("Nothing"), "node 'new' (Nothing) is no operator of ONNX; those of opset 17"),
    "operator of a later opset": (to_operator("Gelu"), "is no operator of ONNX; those of opset 17"),
    "deprecated operator": (to_operator("Upsample"), "is deprecated at opset 17"),
    "operator not taken": (to_operator("RandomUniformLike"), "is an operator that sattn-edge does not take"),
    "other domain": (lambda m: setattr(node(m, "Relu"), "domain", "com.microsoft"), "domain 'com.microsoft', and"),
    "long spelling of the domain": (lambda m: setattr(node(m, "Relu"), "domain", "ai.onnx"), "domain 'ai.onnx'"),
    "overload": (lambda m: setattr(node(m, "Relu"), "overload", "x"), "has an overload"),
    "too few inputs": (lambda m: node(m, "Gemm").input.__delitem__(slice(1, 3)), "has 1 inputs; 2 to 3"),
    "too many inputs": (lambda m: node(m, "Relu").input.append("pooled"), "has 2 inputs; 1"),
    "too many outputs": (lambda m: node(m, "Relu").output.append("more"), "has 2 outputs; 1"),
    "required input left out": (lambda m: node(m, "Gemm").input.__setitem__(1, ""), "leaves out its input 1"),
    "last input left out": (
        lambda m: node(m, "Gemm").input.__setitem__(2, ""),
        "node 'classifier' (Gemm) ends with an input that is left out; a shorter list of inputs",
    ),
    "very many inputs": (
        lambda m: replace(m, "Relu", helper.make_node("Sum", ["block0.bn"] * 2000, ["block0.out"])),
        "has 2001 inputs and outputs; at most 1024",
    ),
    "unknown attribute": (to_operator("Relu", alpha=1.0), "has an attribute 'alpha'; at opset 17: none"),
    "attribute of a later opset": (
        lambda m: node(m, "ReduceMean").attribute.append(helper.make_attribute("noop_with_empty_axes", 1)),
        "has an attribute 'noop_with_empty_axes'; at opset 17: axes, keepdims",
    ),
    "wrong attribute type": (
        lambda m: attribute(m, "Flatten", "axis").CopyFrom(helper.make_attribute("axis", 1.0)),
        "attribute 'axis' of node 'flatten' (Flatten) is of type float; int",
    ),
    "value in another field": (wrong_value_field, "has a value in floats, i; one value, in 'i'"),
    "no value": (no_value, "has a value in no field; one value, in 'i'"),
    "attribute twice": (attribute_twice, "has the attribute 'axis' twice"),
    "attribute missing": (to_operator("Cast"), "lacks the attribute 'to'"),
    "very many values": (
        lambda m: set_ints(m, "ReduceMean", "axes", [2] * 70_000),
        "has 70000 values; at most 65536",
    ),
    "reference outside a function": (
        lambda m: setattr(attribute(m, "Flatten", "axis"), "ref_attr_name", "pads"),
        "refers to 'pads'; inside a function",
    ),
    "subgraph": (add_graph_attribute, "has a subgraph (attribute 'body'); a plain graph without If"),
    "If": (to_if, "a 'If' node has a subgraph (attribute"),
    "list of tensors": (
        lambda m: node(m, "Relu").attribute.append(
            AttributeProto(name="x", type=AttributeProto.TENSORS, tensors=[TensorProto()])
        ),
        "has an attribute 'x' of type number 9",
    ),
    "negative pads": (lambda m: set_ints(m, "Conv", "pads", [-1, 0, 1, 0]), "has pads [-1, 0, 1, 0]; 0 to 65536"),
    "huge pads": (lambda m: set_ints(m, "Conv", "pads", [2**40, 0, 1, 0]), "has pads [1099511627776, 0, 1, 0]"),
    "stride of nought": (lambda m: set_ints(m, "Conv", "strides", [0, 1]), "has strides [0, 1]; 1 to 65536"),
    "huge dilation": (lambda m: set_ints(m, "Conv", "dilations", [2**31, 1]), "has dilations [2147483648, 1]"),
    "kernel of nought": (lambda m: set_ints(m, "Conv", "kernel_shape", [0, 1]), "has kernel_shape [0, 1]"),
    "group of nought": (lambda m: setattr(attribute(m, "Conv", "group"), "i", 0), "has group [0]; 1 to 65536"),
    "different ranks": (lambda m: set_ints(m, "Conv", "strides", [2]), "pads for different ranks"),
    "auto_pad": (
        lambda m: node(m, "Conv").attribute.append(helper.make_attribute("auto_pad", "SAME")),
        "has auto_pad b'SAME'",
    ),
    "training mode": (
        lambda m: node(m, "BatchNormalization").attribute.append(helper.make_attribute("training_mode", 1)),
        "(BatchNormalization) is set to training; a network for inference",
    ),
    "doc string": (lambda m: setattr(node(m, "Relu"), "doc_string", "x" * 70_000), "a doc string of 70000"),
}


RULES = {
    f"{group}: {name}": case
    for group, cases in {"header": HEADER, "functions": FUNCTIONS, "nodes": NODES}.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("rule", RULES)
def test_one_change_against_a_rule_is_refused(rule):
    check_rule(*RULES[rule])


@pytest.mark.parametrize("rule", NODES)
def test_others_files_obey_the_same_rules(rule):
    if rule == "long spelling of the domain":
        pytest.skip("others write this")
    refused(changed(NODES[rule][0]), foreign=True)
