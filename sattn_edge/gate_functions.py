"""The gate's rules for model-local functions.

F1  each function stands once in the file, and their number is bounded
F2  ours: only the attention functions, with the very bodies this version writes
F3  others': a body obeys the rules for nodes and wiring, at the opset of the file
F4  no function calls itself, however indirectly, and the calls written out stay within the bound on nodes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from onnx import FunctionProto, ModelProto, NodeProto

from sattn_edge.attention import DOMAIN, function_named
from sattn_edge.gate_graph import check_body
from sattn_edge.gate_limits import MAX_DOC_BYTES, MAX_FUNCTIONS, MAX_NODES, Case, show
from sattn_edge.gate_nodes import FunctionKey, Operators, is_onnx_domain


def check_functions(model: ModelProto, opset: int, case: Case) -> Operators:
    """F1 to F4. Returns what the file's nodes may call."""
    functions = _by_name(model, case)
    operators = Operators(opset, functions)
    for function in functions.values():
        if _opset(function, case) not in (None, opset):
            raise case.refuse(
                f"function {show(function.name)} is written for opset {_opset(function, case)}",
                f"the file's opset, {opset}",
                "write the functions out with onnx.inliner",
            )
        if function.domain == DOMAIN:
            _same_as_ours(function, case)
        else:
            _foreign_function(function, operators, case)
    _bounded_when_written_out(model.graph.node, functions, case)
    return operators


def _by_name(model: ModelProto, case: Case) -> dict[FunctionKey, FunctionProto]:
    if len(model.functions) > MAX_FUNCTIONS:
        raise case.refuse(f"has {len(model.functions)} functions", f"at most {MAX_FUNCTIONS}")
    functions: dict[FunctionKey, FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name)
        if key in functions:
            raise case.refuse(f"has the function {show(function.name)} twice", "each function once")
        functions[key] = function
    return functions


def _opset(function: FunctionProto, case: Case) -> int | None:
    versions = [o.version for o in function.opset_import if is_onnx_domain(o.domain, case)]
    if len(versions) > 1:
        raise case.refuse(f"function {show(function.name)} declares its opset {len(versions)} times", "once")
    return versions[0] if versions else None


def _same_as_ours(function: FunctionProto, case: Case) -> None:
    ours = _our_shape(function.name)
    if ours is None or _shape(function) != ours:
        found = "is not the one this version writes" if ours else "is none of ours"
        raise case.refuse(
            f"function {show(f'{function.domain}::{function.name}')} {found}",
            "the attention functions of sattn-edge, unchanged",
        )


@lru_cache(maxsize=8)
def _our_shape(name: str) -> bytes | None:
    function = function_named(name)
    return None if function is None else _shape(function)


def _shape(function: FunctionProto) -> bytes:
    """Everything about a function that a runtime acts on, in one order."""
    bare = FunctionProto()
    bare.CopyFrom(function)
    bare.ClearField("doc_string")
    for node in bare.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        attributes = sorted(node.attribute, key=lambda a: a.name)
        node.ClearField("attribute")
        node.attribute.extend(attributes)
    return bytes(bare.SerializeToString(deterministic=True))


def _foreign_function(function: FunctionProto, operators: Operators, case: Case) -> None:
    what = f"function {show(f'{function.domain}::{function.name}')}"
    if not case.foreign:
        raise case.refuse(f"{what} is none of ours", "the attention functions of sattn-edge")
    if not function.name or not function.domain or is_onnx_domain(function.domain, case) or function.overload:
        raise case.refuse(f"{what} has no name or domain of its own, or an overload", "plain functions")
    if len(function.doc_string) > MAX_DOC_BYTES or len(function.node) > MAX_NODES:
        raise case.refuse(f"{what} is too long", f"{MAX_NODES} nodes, {MAX_DOC_BYTES} characters of doc string")
    if function.attribute_proto:
        raise case.refuse(f"{what} has default values for its attributes", "functions without defaults")
    check_body(function, operators, case)


def _bounded_when_written_out(
    nodes: Sequence[NodeProto], functions: Mapping[FunctionKey, FunctionProto], case: Case
) -> None:
    """F4: a few functions that call one another twice can stand for millions of nodes."""
    sizes: dict[FunctionKey, int] = {}
    open_calls: list[FunctionKey] = []

    def size(key: FunctionKey) -> int:
        if key in open_calls:
            raise case.refuse(f"function {show(key[1])} calls itself", "functions without recursion")
        if key not in sizes:
            open_calls.append(key)
            sizes[key] = total(functions[key].node)
            open_calls.pop()
        return sizes[key]

    def total(body: Sequence[NodeProto]) -> int:
        keys = [(node.domain, node.op_type) for node in body]
        return sum(size(key) if key in functions else 1 for key in keys)

    for key in functions:
        size(key)
    if total(nodes) > MAX_NODES:
        raise case.refuse(f"has {total(nodes)} nodes with its functions written out", f"at most {MAX_NODES}")
