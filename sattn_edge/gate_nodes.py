"""The gate's rules for a single node, read off the ONNX operator schemas at the declared opset.

N1  the operator is ONNX's own, in force at this opset and among those taken, or a function of the file
N2  there are as many inputs and outputs as the schema allows; only optional ones are left out, the last never
N3  attributes are named, typed and complete as the schema says, each one once and with one value
N4  no subgraphs, and no sparse, type or list-of-tensor attributes; tensor attributes obey the tensor rules
N5  kernels, strides, dilations, pads and groups are within bounds, not negative, and agree on their length
N6  nothing is set to training
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from onnx import AttributeProto, FunctionProto, NodeProto, defs

from sattn_edge.gate_limits import (
    MAX_ATTRIBUTE_VALUES,
    MAX_DOC_BYTES,
    MAX_VALUES_OF_A_NODE,
    MAX_WINDOW_ATTRIBUTE,
    Case,
    first_repeated,
    show,
)
from sattn_edge.gate_operators import OPERATORS
from sattn_edge.gate_tensors import check_tensor

_VALUE_FIELD = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
}
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_PADDINGS = (b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER")

FunctionKey = tuple[str, str]
"""Domain and name."""


@dataclass(frozen=True)
class Operators:
    """What a node may call: ONNX's operators at one opset, and the file's own functions."""

    opset: int
    functions: Mapping[FunctionKey, FunctionProto]


@dataclass(frozen=True)
class _Signature:
    """What the gate needs of a schema. `required` and `variadic` speak of the inputs."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    required: tuple[bool, ...]
    variadic: bool
    attributes: Mapping[str, int]
    needed: frozenset[str]
    unfit: str


def describe(node: NodeProto) -> str:
    """How messages name a node."""
    return f"node {show(node.name)} ({show(node.op_type)[1:-1]})" if node.name else f"a {show(node.op_type)} node"


def is_onnx_domain(domain: str, case: Case) -> bool:
    """`ai.onnx` is the long spelling of the default domain; only other exporters write it."""
    return not domain or (case.foreign and domain == "ai.onnx")


def check_node(node: NodeProto, operators: Operators, case: Case, scope: FunctionProto | None = None) -> None:
    """N1 to N5; `scope` is the function whose body the node is in, if any."""
    if node.overload or node.device_configurations:
        raise case.refuse(f"{describe(node)} has an overload or a device configuration", "neither")
    if len(node.doc_string) > MAX_DOC_BYTES:
        raise case.refuse(f"{describe(node)} has a doc string of {len(node.doc_string)} characters", f"{MAX_DOC_BYTES}")
    if len(node.input) + len(node.output) > MAX_VALUES_OF_A_NODE:
        raise case.refuse(
            f"{describe(node)} has {len(node.input) + len(node.output)} inputs and outputs",
            f"at most {MAX_VALUES_OF_A_NODE}",
        )
    if is_onnx_domain(node.domain, case):
        _check_operator(node, operators.opset, case, scope)
        return
    function = operators.functions.get((node.domain, node.op_type))
    if function is None:
        raise case.refuse(
            f"{describe(node)} is of the domain {show(node.domain)}, and the file has no such function",
            "operators of ONNX itself" + ("" if case.foreign else " and the functions of sattn_edge"),
        )
    _check_call(node, function, case, scope)


def _check_operator(node: NodeProto, opset: int, case: Case, scope: FunctionProto | None) -> None:
    signature = _signature(node.op_type, opset)
    if signature is None:
        raise case.refuse(f"{describe(node)} is no operator of ONNX", f"those of opset {opset}")
    # Before the schema's own complaints: that there is a subgraph says more than a wrong number of inputs.
    for attribute in node.attribute:
        _check_kind(attribute, node, case)
    if signature.unfit:
        raise case.refuse(f"{describe(node)} is {signature.unfit} at opset {opset}", "operators in force")
    if node.op_type not in OPERATORS:
        raise case.refuse(
            f"{describe(node)} is an operator that sattn-edge does not take",
            "what networks over sensor windows are made of",
            "sattn_edge/gate_operators.py lists them",
        )
    _check_inputs(node, signature, case)
    _check_count(node, "outputs", len(node.output), signature.outputs, case)
    for attribute in node.attribute:
        kind = signature.attributes.get(attribute.name)
        if kind is None:
            known = ", ".join(sorted(signature.attributes)) or "none"
            raise case.refuse(f"{describe(node)} has an attribute {show(attribute.name)}", f"at opset {opset}: {known}")
        _check_value(attribute, kind, node, case, scope)
    _each_once(node, case)
    missing = signature.needed - {a.name for a in node.attribute}
    if missing:
        raise case.refuse(f"{describe(node)} lacks the attribute {show(min(missing))}", "all that the operator needs")
    _check_window(node, case)
    _check_inference(node, case)


def _kind(schema_type: defs.OpSchema.AttrType) -> int:
    """The AttributeProto type a schema's attribute type stands for; they have the same names."""
    return int(AttributeProto.AttributeType.Value(str(schema_type).rpartition(".")[2]))


@lru_cache(maxsize=1024)
def _signature(op_type: str, opset: int) -> _Signature | None:
    try:
        schema = defs.get_schema(op_type, max_inclusive_version=opset, domain="")
    except defs.SchemaError:
        return None
    optional, variadic = (
        defs.OpSchema.FormalParameterOption.Optional,
        defs.OpSchema.FormalParameterOption.Variadic,
    )
    experimental = schema.support_level == defs.OpSchema.SupportType.EXPERIMENTAL
    return _Signature(
        inputs=(schema.min_input, schema.max_input),
        outputs=(schema.min_output, schema.max_output),
        required=tuple(p.option != optional for p in schema.inputs),
        variadic=bool(schema.inputs) and schema.inputs[-1].option == variadic,
        attributes={name: _kind(a.type) for name, a in schema.attributes.items()},
        needed=frozenset(name for name, a in schema.attributes.items() if a.required),
        unfit="deprecated" if schema.deprecated else "experimental" if experimental else "",
    )


def _check_inputs(node: NodeProto, signature: _Signature, case: Case) -> None:
    _check_count(node, "inputs", len(node.input), signature.inputs, case)
    # Some kernels take the number of inputs for the inputs there are: ONNX Runtime's LayerNormalization dies of it.
    if node.input and not node.input[-1]:
        raise case.refuse(
            f"{describe(node)} ends with an input that is left out", "a shorter list of inputs", "take it off the list"
        )
    for i, name in enumerate(node.input):
        required = signature.required[min(i, len(signature.required) - 1)]
        if not name and required:
            raise case.refuse(f"{describe(node)} leaves out its input {i}", "only optional inputs may be left out")


def _check_count(node: NodeProto, what: str, found: int, allowed: tuple[int, int], case: Case) -> None:
    low, high = allowed
    if not low <= found <= high:
        wanted = str(low) if low == high else f"{low} to {high}" if high < 2**31 - 1 else f"{low} or more"
        raise case.refuse(f"{describe(node)} has {found} {what}", wanted)


def _each_once(node: NodeProto, case: Case) -> None:
    twice = first_repeated(a.name for a in node.attribute)
    if twice is not None:
        raise case.refuse(f"{describe(node)} has the attribute {show(twice)} twice", "each attribute once")


def _check_kind(attribute: AttributeProto, node: NodeProto, case: Case) -> None:
    """N4, whatever the schema would allow."""
    if attribute.type in _SUBGRAPHS or attribute.HasField("g") or attribute.graphs:
        raise case.refuse(
            f"{describe(node)} has a subgraph (attribute {show(attribute.name)})",
            "a plain graph without If, Loop or Scan",
        )
    if attribute.type not in _VALUE_FIELD:
        raise case.refuse(
            f"{describe(node)} has an attribute {show(attribute.name)} of type number {attribute.type}",
            "numbers, texts and tensors",
        )


def _check_value(
    attribute: AttributeProto, kind: int, node: NodeProto, case: Case, scope: FunctionProto | None
) -> None:
    what = f"attribute {show(attribute.name)} of {describe(node)}"
    if attribute.type != kind:
        names = AttributeProto.AttributeType
        found = names.Name(attribute.type).lower()
        raise case.refuse(f"{what} is of type {found}", names.Name(kind).lower())
    if len(attribute.doc_string) > MAX_DOC_BYTES:
        raise case.refuse(f"{what} has a doc string of {len(attribute.doc_string)} characters", f"{MAX_DOC_BYTES}")
    field = _VALUE_FIELD[attribute.type]
    filled = {f.name for f, _ in attribute.ListFields()} - {"name", "type", "doc_string"}
    if attribute.ref_attr_name:
        _check_reference(attribute, filled, what, case, scope)
        return
    if filled - {field} or (len(field) == 1 and not filled):
        raise case.refuse(
            f"{what} has a value in {', '.join(sorted(filled)) or 'no field'}", f"one value, in {field!r}"
        )
    if field == "t":
        check_tensor(attribute.t, what, case)
    elif len(field) > 1 and len(getattr(attribute, field)) > MAX_ATTRIBUTE_VALUES:
        raise case.refuse(f"{what} has {len(getattr(attribute, field))} values", f"at most {MAX_ATTRIBUTE_VALUES}")


def _check_reference(
    attribute: AttributeProto, filled: set[str], what: str, case: Case, scope: FunctionProto | None
) -> None:
    declared = set() if scope is None else {*scope.attribute, *(a.name for a in scope.attribute_proto)}
    if filled != {"ref_attr_name"} or attribute.ref_attr_name not in declared:
        raise case.refuse(
            f"{what} refers to {show(attribute.ref_attr_name)}",
            "inside a function, one of its own attributes",
        )


def _check_call(node: NodeProto, function: FunctionProto, case: Case, scope: FunctionProto | None) -> None:
    """A call of a function: all inputs and outputs, attributes it declares; ours have all of theirs."""
    _check_count(node, "inputs", len(node.input), (len(function.input), len(function.input)), case)
    _check_count(node, "outputs", len(node.output), (len(function.output), len(function.output)), case)
    if not all((*node.input, *node.output)):
        raise case.refuse(f"{describe(node)} leaves out an input or output", "all of the function's")
    _each_once(node, case)
    declared = {*function.attribute, *(a.name for a in function.attribute_proto)}
    given = {a.name for a in node.attribute}
    if given - declared or (not case.foreign and declared - given):
        raise case.refuse(
            f"{describe(node)} has the attributes {', '.join(map(show, sorted(given))) or 'none'}",
            f"the function's: {', '.join(map(show, sorted(declared))) or 'none'}",
        )
    for attribute in node.attribute:
        _check_kind(attribute, node, case)
        kind = attribute.type if case.foreign else int(AttributeProto.INTS)
        _check_value(attribute, kind, node, case, scope)
    _check_window(node, case)


def _check_window(node: NodeProto, case: Case) -> None:
    """N5, for whichever operator has such attributes."""
    lengths = set[float]()
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            continue
        if attribute.name in ("kernel_shape", "strides", "dilations"):
            _check_range(attribute.name, list(attribute.ints), 1, node, case)
            lengths.add(len(attribute.ints))
        elif attribute.name == "pads" and node.op_type != "Pad":
            _check_range("pads", list(attribute.ints), 0, node, case)
            lengths.add(len(attribute.ints) / 2)
        elif attribute.name == "group":
            _check_range("group", [attribute.i], 1, node, case)
        elif attribute.name == "auto_pad" and attribute.s not in _PADDINGS:
            raise case.refuse(f"{describe(node)} has auto_pad {attribute.s[:20]!r}", "NOTSET, VALID or SAME_*")
    if len(lengths) > 1:
        raise case.refuse(
            f"{describe(node)} has kernel_shape, strides, dilations and pads for different ranks",
            "one number per axis, two for pads",
        )


def _check_inference(node: NodeProto, case: Case) -> None:
    """N6. In training a BatchNormalization gives its statistics too, and a Dropout drops."""
    training = any(a.name == "training_mode" and a.i for a in node.attribute)
    extra_outputs = node.op_type == "BatchNormalization" and len(node.output) > 1
    if training or extra_outputs or (node.op_type == "Dropout" and len(node.input) > 2):
        raise case.refuse(
            f"{describe(node)} is set to training", "a network for inference", "export it in evaluation mode"
        )


def _check_range(name: str, values: list[int], low: int, node: NodeProto, case: Case) -> None:
    if any(not low <= v <= MAX_WINDOW_ATTRIBUTE for v in values):
        raise case.refuse(f"{describe(node)} has {name} {values[:8]}", f"{low} to {MAX_WINDOW_ATTRIBUTE}")
