"""The gate's rules for a graph: its names, its wiring, and what it takes and gives.

G1  nodes, tensors, names and doc strings are bounded in number and length
G2  every value is made once: inputs, initializers and node outputs all have names of their own
G3  every node input and graph output is made by something before it: no open ends, no cycles, no other order
G4  described values are tensors with dimensions that make sense
G5  inputs are float32 tensors, fixed but for the first dimension; ours: one, [batch, 1, series, modal]
G6  outputs are float32 tensors; ours: [batch, classes], and at most `attention` [batch, values] behind it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx import FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from sattn_edge.attention_output import OUTPUT
from sattn_edge.gate_limits import (
    ELEMENT_BYTES,
    MAX_DOC_BYTES,
    MAX_ELEMENTS,
    MAX_NAME_CHARS,
    MAX_NODES,
    MAX_RANK,
    MAX_TENSORS,
    Case,
    show,
    type_name,
)
from sattn_edge.gate_nodes import Operators, check_node, describe
from sattn_edge.gate_tensors import check_tensor

Dims = list[int | None]
"""The dimensions a value declares; None is a free one."""


def check_graph(graph: GraphProto, operators: Operators, case: Case) -> None:
    """G2 to G6, every node and every initializer."""
    for tensor in graph.initializer:
        check_tensor(tensor, f"initializer {show(tensor.name)}", case)
    for value in graph.value_info:
        _check_described(value, case)
    _unique((v.name for v in graph.value_info), "described value", set(), case)
    known = _sources(graph, case)
    for node in graph.node:
        check_node(node, operators, case)
    made = check_wiring(graph.node, known, case)
    _check_inputs(graph, case)
    _check_outputs(graph, made, case)


def check_body(function: FunctionProto, operators: Operators, case: Case) -> None:
    """The node and wiring rules for a function's body."""
    for node in function.node:
        check_node(node, operators, case, function)
    known: set[str] = set()
    _unique(function.input, "function input", known, case)
    known |= check_wiring(function.node, known, case)
    for name in function.output:
        if name not in known:
            raise case.refuse(f"function {show(function.name)} has an output {show(name)} that nothing makes")


def check_sizes(graph: GraphProto, case: Case) -> None:
    """G1, before anything goes over the graph node by node."""
    if graph.sparse_initializer:
        raise case.refuse("has sparse initializers", "dense ones")
    if not graph.node:
        raise case.refuse("has a graph without nodes", "a network")
    for what, found, limit in (
        ("nodes", len(graph.node), MAX_NODES),
        ("initializers", len(graph.initializer), MAX_TENSORS),
        ("inputs", len(graph.input), MAX_TENSORS),
        ("outputs", len(graph.output), MAX_TENSORS),
        ("described values", len(graph.value_info), 2 * MAX_NODES),
        ("quantization annotations", len(graph.quantization_annotation), MAX_TENSORS),
        ("characters of doc string in its graph", len(graph.doc_string), MAX_DOC_BYTES),
    ):
        if found > limit:
            raise case.refuse(f"has {found} {what}", f"at most {limit}")


def _unique(names: Iterable[str], what: str, known: set[str], case: Case) -> None:
    """Adds each name to `known`; an empty, overlong or known one is refused."""
    for name in names:
        if not name or len(name) > MAX_NAME_CHARS:
            raise case.refuse(f"has {what} {show(name)}", f"a name of 1 to {MAX_NAME_CHARS} characters")
        if name in known:
            raise case.refuse(f"{what} {show(name)} is a second value of that name", "each name once")
        known.add(name)


def _sources(graph: GraphProto, case: Case) -> set[str]:
    """The names that exist before the first node."""
    known: set[str] = set()
    _unique((t.name for t in graph.initializer), "initializer", known, case)
    # Before IR 4 an initializer had to be listed among the inputs; some exporters still do.
    _unique((v.name for v in network_inputs(graph, case)), "input", known, case)
    return known


def network_inputs(graph: GraphProto, case: Case) -> list[ValueInfoProto]:
    """The inputs that a caller has to give."""
    initialised = {t.name for t in graph.initializer} if case.foreign else set()
    return [value for value in graph.input if value.name not in initialised]


def check_wiring(nodes: Sequence[NodeProto], sources: set[str], case: Case) -> set[str]:
    """G2 and G3 over nodes in their order. Returns the names that the nodes make."""
    known, made = set(sources), set[str]()
    for node in nodes:
        for name in node.input:
            if name and name not in known:
                raise _not_made(name, node, nodes, case)
        outputs = [name for name in node.output if name]
        if not outputs:
            raise case.refuse(f"{describe(node)} has no output", "nodes that make something")
        _unique(outputs, f"the output of {describe(node)},", known, case)
        made.update(outputs)
    return made


def _not_made(name: str, node: NodeProto, nodes: Sequence[NodeProto], case: Case) -> Exception:
    if any(name in other.output for other in nodes):
        return case.refuse(
            f"{describe(node)} reads {show(name)}, which is made by itself or later: a cycle or wrong order",
            "nodes in the order they are computed",
        )
    return case.refuse(f"{describe(node)} reads {show(name)}, which nothing makes: an open graph", "a whole graph")


def declared(value: ValueInfoProto, case: Case) -> tuple[int, Dims | None]:
    """Element type and dimensions a value declares, None for a shape that is left out."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise case.refuse(f"value {show(value.name)} is {kind or 'without a type'}", "tensors")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    return tensor.elem_type, dims


def _check_described(value: ValueInfoProto, case: Case) -> None:
    """G4. What is described may be partly unknown; the shapes that count are inferred later."""
    element_type, dims = declared(value, case)
    if element_type not in ELEMENT_BYTES:
        raise case.refuse(f"value {show(value.name)} has the element type {type_name(element_type)}", "numbers")
    _check_dims(value, dims or [], case)


def _check_dims(value: ValueInfoProto, dims: Dims, case: Case) -> None:
    low = 0 if case.foreign else 1
    if len(dims) > MAX_RANK or any(d is not None and not low <= d <= MAX_ELEMENTS for d in dims):
        raise case.refuse(
            f"value {show(value.name)} has the dimensions {shape_text(dims)}",
            f"at most {MAX_RANK} of {low} to {MAX_ELEMENTS}",
        )


def shape_text(dims: Dims) -> str:
    """`[free, 1, 128, 6]`."""
    return f"[{', '.join('free' if d is None else str(d) for d in dims)}]"


def _check_inputs(graph: GraphProto, case: Case) -> None:
    inputs = network_inputs(graph, case)
    if not inputs or (not case.foreign and len(inputs) != 1):
        raise case.refuse(f"has {len(inputs)} inputs", "one or more" if case.foreign else "exactly one")
    for value in inputs:
        dims = _float_tensor(value, "input", case)
        fixed = dims is not None and all(d is not None and d > 0 for d in dims[1:]) and dims[:1] != [0]
        if dims is None or not dims or not fixed:
            raise case.refuse(
                f"input {show(value.name)} has the shape {'unknown' if dims is None else shape_text(dims)}",
                "all dimensions fixed but the first",
                "export it with a fixed window length",
            )
        if not case.foreign and (len(dims) != 4 or dims[0] is not None or dims[1] != 1):
            raise case.refuse(f"input {show(value.name)} is {shape_text(dims)}", "[free batch, 1, series, modal]")


def _check_outputs(graph: GraphProto, made: set[str], case: Case) -> None:
    _unique((v.name for v in graph.output), "graph output", set(), case)
    if not graph.output:
        raise case.refuse("has no outputs", "one or more" if case.foreign else "the logits")
    for value in graph.output:
        if value.name not in made:
            raise case.refuse(f"graph output {show(value.name)} is made by no node", "outputs that nodes make")
        dims = _float_tensor(value, "output", case)
        _check_dims(value, dims or [], case)
    if not case.foreign:
        _check_own_outputs(graph.output, case)


def _check_own_outputs(outputs: Sequence[ValueInfoProto], case: Case) -> None:
    """The one place that knows what our networks give: the logits, and the gates behind them where asked for."""
    if len(outputs) > 2:
        raise case.refuse(f"has {len(outputs)} outputs", f"the logits, and '{OUTPUT}' at most")
    if len(outputs) == 2 and (outputs[0].name == OUTPUT or outputs[1].name != OUTPUT):
        found = f"outputs {show(outputs[0].name)} and {show(outputs[1].name)}"
        raise case.refuse(f"has the {found}", f"the logits, then '{OUTPUT}'")
    for output, allowed in zip(outputs, ("classes", "values"), strict=False):
        dims = declared(output, case)[1] or []
        if len(dims) != 2 or dims[0] is not None or dims[1] is None:
            raise case.refuse(f"output {show(output.name)} is {shape_text(dims)}", f"[free batch, {allowed}]")


def _float_tensor(value: ValueInfoProto, what: str, case: Case) -> Dims | None:
    element_type, dims = declared(value, case)
    if element_type != TensorProto.FLOAT:
        raise case.refuse(f"{what} {show(value.name)} is {type_name(element_type)}", "float")
    return dims
