"""Mutators of nodes: operators, attributes, wiring."""

from __future__ import annotations

import random
from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, defs, helper

from tests.fuzz.mutate_common import (
    NASTY_FLOATS,
    all_attributes,
    all_nodes,
    change_one,
    fitting_operators,
    resize,
    some_int,
    some_name,
)


def op_type(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice(all_nodes(model))
    node.op_type = rng.choice(
        (
            rng.choice(fitting_operators(node)),
            rng.choice(fitting_operators()),
            "",
            "Nothing",
            node.op_type + "\x00",
        )
    )


def swap_operator(model: ModelProto, rng: random.Random) -> None:
    """Another operator that fits the inputs, without attributes it has no use for: often valid."""
    node = rng.choice(model.graph.node)
    node.op_type, node.domain = rng.choice(fitting_operators(node)), ""
    opset = next((o.version for o in model.opset_import if not o.domain), 17)
    try:
        known = defs.get_schema(node.op_type, max_inclusive_version=opset, domain="").attributes
    except defs.SchemaError:
        return
    kept = [a for a in node.attribute if a.name in known]
    del node.attribute[:]
    node.attribute.extend(kept)


def insert_operator(model: ModelProto, rng: random.Random) -> None:
    """An operator with one input put between two nodes."""
    at = rng.randrange(len(model.graph.node))
    node = model.graph.node[at]
    if not node.input:
        return
    probe = helper.make_node("Probe", [node.input[0]], ["extra"])
    probe.op_type = rng.choice(fitting_operators(probe))
    node.input[0] = "extra"
    model.graph.node.insert(at, probe)


def domain(model: ModelProto, rng: random.Random) -> None:
    domains = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "sattn_edge", "x")
    rng.choice(all_nodes(model)).domain = rng.choice(domains)


def attribute_value(model: ModelProto, rng: random.Random) -> None:
    attribute = rng.choice(all_attributes(model))
    if attribute.ints:
        values = list(attribute.ints)
        rng.choice((change_one, resize))(values, rng)
        del attribute.ints[:]
        attribute.ints.extend(values)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice(NASTY_FLOATS)
    elif attribute.type == AttributeProto.INT:
        attribute.i = some_int(rng)
    else:
        attribute.s = rng.choice((b"", b"VALID", b"SAME_UPPER", b"\xff\xfe", b"x" * 1000))


def attribute_type(model: ModelProto, rng: random.Random) -> None:
    rng.choice(all_attributes(model)).type = rng.choice(AttributeProto.AttributeType.values())


def attribute_name(model: ModelProto, rng: random.Random) -> None:
    names = (
        "axis",
        "axes",
        "to",
        "value",
        "body",
        "pads",
        "strides",
        "group",
        "auto_pad",
        "epsilon",
        "",
        "x",
    )
    rng.choice(all_attributes(model)).name = rng.choice(names)


def attribute_reference(model: ModelProto, rng: random.Random) -> None:
    rng.choice(all_attributes(model)).ref_attr_name = rng.choice(("pads", "axes", "nobody"))


def attribute_added(model: ModelProto, rng: random.Random) -> None:
    """One of the attributes that the operator has and the node leaves out, with a nasty value."""
    node = rng.choice(model.graph.node)
    known = sorted(defs.get_schema(node.op_type).attributes) if not node.domain and defs.has(node.op_type) else []
    name = rng.choice([*known, "value"])
    values: tuple[Any, ...] = (
        some_int(rng),
        [some_int(rng)] * rng.randrange(1, 6),
        rng.choice(NASTY_FLOATS),
        "VALID",
    )
    node.attribute.append(helper.make_attribute(name, rng.choice(values)))


def attribute_dropped(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice([n for n in all_nodes(model) if n.attribute])
    node.attribute.pop(rng.randrange(len(node.attribute)))


def attribute_twice(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice([n for n in all_nodes(model) if n.attribute])
    node.attribute.append(rng.choice(node.attribute))


def subgraph(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    inner = helper.make_graph([helper.make_node("Identity", list(node.input[:1]), ["inner"])], "inner", [], [])
    inner.output.append(helper.make_empty_tensor_value_info("inner"))
    if rng.random() < 0.5:
        node.op_type, node.domain = rng.choice(("If", "Loop", "Scan")), ""
        del node.attribute[:]
    for name in rng.choice((("then_branch", "else_branch"), ("body",))):
        node.attribute.append(helper.make_attribute(name, inner))


def window(model: ModelProto, rng: random.Random) -> None:
    """Huge, zero or negative pads, strides, dilations, kernels and groups."""
    node = rng.choice([n for n in model.graph.node if n.op_type in ("Conv", "SpatialAttention")] or model.graph.node)
    name = rng.choice(("pads", "strides", "dilations", "kernel_shape", "group", "auto_pad"))
    kept = [a for a in node.attribute if a.name != name]
    values = [rng.choice((some_int(rng), 0, 1, 2)) for _ in range(4 if name == "pads" else 2)]
    value = {"group": values[0], "auto_pad": "SAME_UPPER"}.get(name, values)
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def integer_division(model: ModelProto, rng: random.Random) -> None:
    """Whole numbers divided by nought, which a processor may trap on."""
    at = rng.randrange(len(model.graph.node))
    node = model.graph.node[at]
    if not node.input:
        return
    kind = rng.choice((TensorProto.INT32, TensorProto.INT64))
    model.graph.initializer.append(helper.make_tensor("zero", kind, [1], [rng.choice((0, -1, 2))]))
    whole = helper.make_node("Cast", [node.input[0]], ["whole"], to=kind)
    quotient = helper.make_node(rng.choice(("Div", "Mod")), ["whole", "zero"], ["quotient"])
    back = helper.make_node("Cast", ["quotient"], ["back"], to=TensorProto.FLOAT)
    node.input[0] = "back"
    for i, extra in enumerate((whole, quotient, back)):
        model.graph.node.insert(at + i, extra)


def constant(model: ModelProto, rng: random.Random) -> None:
    """A Constant or ConstantOfShape in place of an initializer, small in the file and huge in memory."""
    tensor = rng.choice(model.graph.initializer)
    shape = [rng.choice((1, 3, 65536, some_int(rng))) for _ in range(rng.randrange(1, 5))]
    stored = helper.make_tensor(f"{tensor.name}.shape", TensorProto.INT64, [len(shape)], shape)
    made = helper.make_node("ConstantOfShape", [stored.name], [tensor.name], name="constant")
    model.graph.initializer.remove(tensor)
    model.graph.initializer.append(stored)
    model.graph.node.insert(0, made)


def input_name(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice([n for n in all_nodes(model) if n.input])
    node.input[rng.randrange(len(node.input))] = some_name(model, rng)


def output_name(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice([n for n in all_nodes(model) if n.output])
    node.output[rng.randrange(len(node.output))] = some_name(model, rng)


def arity(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice(all_nodes(model))
    names = rng.choice((node.input, node.output))
    if names and rng.random() < 0.5:
        names.pop(rng.randrange(len(names)))
    else:
        names.extend([rng.choice(("", some_name(model, rng)))] * rng.choice((1, 3, 40)))


def cycle(model: ModelProto, rng: random.Random) -> None:
    """A node reads what a later one makes."""
    first = rng.randrange(len(model.graph.node))
    node, later = model.graph.node[first], rng.choice(model.graph.node[first:])
    if node.input and later.output:
        node.input[0] = later.output[0]


def drop_node(model: ModelProto, rng: random.Random) -> None:
    model.graph.node.pop(rng.randrange(len(model.graph.node)))


def duplicate_node(model: ModelProto, rng: random.Random) -> None:
    at = rng.randrange(len(model.graph.node))
    node = NodeProto()
    node.CopyFrom(model.graph.node[at])
    if rng.random() < 0.5:
        node.output[0] += ".again"
    model.graph.node.insert(at + 1, node)


def reorder(model: ModelProto, rng: random.Random) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


NODE_CHANGES = (
    op_type, swap_operator, insert_operator, domain, attribute_value, attribute_type,
    attribute_name, attribute_reference, attribute_added, attribute_dropped, attribute_twice,
    subgraph, window, integer_division, constant, input_name, output_name, arity, cycle, drop_node,
    duplicate_node, reorder,
)  # fmt: skip
