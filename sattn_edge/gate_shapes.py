"""The gate's last rules: what onnx itself checks, and the shapes it infers.

S1  onnx's own checker finds nothing, its strict type and shape inference included
S2  with functions written out, the type and shape of every tensor is known, and bounded
S3  outputs have the shape that the graph declares, and a free batch stays free
S4  kernels fit the rank of what they slide over; no convolution or product is absurdly large
S5  whole numbers are divided by constants without 0 or -1 only (a device may trap on others)
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, checker, inliner, numpy_helper, shape_inference

from sattn_edge.gate_graph import Dims, declared, network_inputs, shape_text
from sattn_edge.gate_limits import (
    ELEMENT_BYTES,
    INFERENCE_BATCH,
    INTEGER_TYPES,
    MAX_ELEMENTS,
    MAX_MACS,
    MAX_TOTAL_ELEMENTS,
    Case,
    show,
    type_name,
)
from sattn_edge.gate_nodes import describe

# What onnx's C++ throws: its own two errors, and what the standard library's exceptions become in Python.
_ONNX_ERRORS = (
    checker.ValidationError,
    shape_inference.InferenceError,
    onnx.defs.SchemaError,
    RuntimeError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
)
_SLIDING = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "AveragePool", "MaxPool", "LpPool"})
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Which input is the weight."""
_PRODUCTS = frozenset({"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"})

Known = dict[str, tuple[int, list[int]]]
"""Element type and shape by value name."""


def check_with_onnx(model: ModelProto, case: Case) -> None:
    """S1."""
    try:
        checker.check_model(model, full_check=True)
    except _ONNX_ERRORS as error:
        raise case.refuse(f"does not pass onnx's checker ({_first_line(error)})", "a valid model") from error


def write_out(model: ModelProto, case: Case) -> ModelProto:
    """The model with its function calls replaced by their bodies; the model itself stays as it is."""
    try:
        return inliner.inline_local_functions(model)
    except _ONNX_ERRORS as error:
        raise case.refuse(f"has functions that can't be written out ({_first_line(error)})") from error


def check_shapes(flat: ModelProto, case: Case) -> None:
    """S2 to S5 on a model without functions, which is changed: its batch is fixed."""
    outputs = {v.name: declared(v, case)[1] for v in flat.graph.output}
    _fix_batch(flat, case)
    try:
        inferred = shape_inference.infer_shapes(flat, check_type=True, strict_mode=True, data_prop=True)
    except _ONNX_ERRORS as error:
        raise case.refuse(f"has shapes that don't fit ({_first_line(error)})", "a valid model") from error
    known = _known(inferred, case)
    _check_bounds(inferred, known, case)
    _check_outputs(outputs, known, case)
    constants = _constants(inferred)
    for node in inferred.graph.node:
        _check_kernel(node, known, case)
        _check_work(node, known, case)
        _check_division(node, known, constants, case)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return show(text.splitlines()[0], 200)[1:-1] if text else type(error).__name__


def _fix_batch(flat: ModelProto, case: Case) -> None:
    """Fixes free first dimensions and drops every shape that is only claimed, so that all are inferred."""
    for value in network_inputs(flat.graph, case):
        first = value.type.tensor_type.shape.dim[0]
        if not first.HasField("dim_value"):
            first.dim_value = INFERENCE_BATCH
    del flat.graph.value_info[:]
    for value in flat.graph.output:
        value.type.tensor_type.ClearField("shape")


def _known(inferred: ModelProto, case: Case) -> Known:
    """S2, the known half."""
    graph = inferred.graph
    known: Known = {t.name: (t.data_type, list(t.dims)) for t in graph.initializer}
    shapes: dict[str, tuple[int, Dims | None]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = declared(value, case)
    names = [v.name for v in graph.input] + [name for node in graph.node for name in node.output if name]
    for name in names:
        element_type, dims = shapes.get(name, (TensorProto.UNDEFINED, None))
        whole = [] if dims is None else [d for d in dims if d is not None]
        if dims is None or len(whole) < len(dims):
            found = "unknown" if dims is None else shape_text(dims)
            raise case.refuse(
                f"the shape of {show(name)} can't be inferred ({found})",
                "shapes that follow from the input's",
                "export it at opset 17 or later, or fold its constants first" if case.foreign else "",
            )
        known[name] = (element_type, whole)
    return known


def _check_bounds(inferred: ModelProto, known: Known, case: Case) -> None:
    """S2, the bounded half."""
    total = 0
    stored = {t.name for t in inferred.graph.initializer}
    for name, (element_type, dims) in known.items():
        if name in stored:
            continue
        if element_type not in ELEMENT_BYTES:
            raise case.refuse(f"value {show(name)} is {type_name(element_type)}", "numbers of 8 to 64 bits")
        elements = _elements(dims)
        if min(dims, default=1) < 0 or (elements == 0 and not (case.foreign and len(dims) == 1)):
            raise case.refuse(f"value {show(name)} is empty, its shape is {dims}", "dimensions of 1 or more")
        if elements > MAX_ELEMENTS:
            raise case.refuse(
                f"value {show(name)} has {elements} elements at a batch of {INFERENCE_BATCH}, {dims}",
                f"at most {MAX_ELEMENTS}",
            )
        total += elements
    if total > MAX_TOTAL_ELEMENTS:
        raise case.refuse(f"its tensors have {total} elements", f"at most {MAX_TOTAL_ELEMENTS} together")


def _elements(dims: list[int]) -> int:
    product = 1
    for dim in dims:
        product *= dim
    return product


def _check_outputs(outputs: dict[str, Dims | None], known: Known, case: Case) -> None:
    """S3. Other exporters' declarations are loose; what counts for them is what was inferred."""
    for name, wanted in outputs.items():
        element_type, dims = known[name]
        if element_type != TensorProto.FLOAT:
            raise case.refuse(f"output {show(name)} is {type_name(element_type)}", "float")
        if not case.foreign and dims != [INFERENCE_BATCH if d is None else d for d in wanted or []]:
            raise case.refuse(
                f"output {show(name)} comes out as {dims} at a batch of {INFERENCE_BATCH}",
                f"{shape_text(wanted or [])}, as it declares",
            )


def _check_kernel(node: NodeProto, known: Known, case: Case) -> None:
    """S4, ranks."""
    if node.op_type not in _SLIDING:
        return
    axes = len(known[node.input[0]][1]) - 2
    for attribute in node.attribute:
        per_axis = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 2}.get(attribute.name)
        if per_axis and len(attribute.ints) != per_axis * axes:
            raise case.refuse(
                f"{describe(node)} has {len(attribute.ints)} {attribute.name}",
                f"{per_axis * axes} for {axes} axes",
            )


def _check_work(node: NodeProto, known: Known, case: Case) -> None:
    """S4, size. A convolution takes one multiply-add per output element and weight of one filter."""
    if node.op_type in _CONVOLUTIONS:
        terms = _elements(known[node.input[_CONVOLUTIONS[node.op_type]]][1][1:])
    elif node.op_type == "ConvTranspose":
        terms = _elements(known[node.input[1]][1])
    elif node.op_type in _PRODUCTS:
        terms = max(known[node.input[0]][1], default=1)
    else:
        return
    work = terms * _elements(known[node.output[0]][1])
    if work > MAX_MACS:
        raise case.refuse(f"{describe(node)} takes {work} multiply-adds", f"at most {MAX_MACS}")


def _constants(flat: ModelProto) -> dict[str, TensorProto]:
    constants = {t.name: t for t in flat.graph.initializer}
    for node in flat.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return constants


def _check_division(node: NodeProto, known: Known, constants: dict[str, TensorProto], case: Case) -> None:
    """S5. x86 traps on a division by zero and on the smallest number divided by -1."""
    if node.op_type not in ("Div", "Mod") or known[node.input[0]][0] not in INTEGER_TYPES:
        return
    divisor = constants.get(node.input[1])
    if divisor is None or np.isin(numpy_helper.to_array(divisor), (0, -1)).any():
        raise case.refuse(
            f"{describe(node)} divides whole numbers by something not constant, 0 or -1", "a constant above 0"
        )
