"""The gate's last rules: what onnx itself checks, and the shapes it infers.

S1  onnx's own checker finds nothing, its strict type and shape inference included
S2  with functions written out, the type and shape of every tensor is known, and bounded
S3  outputs have the shape that the graph declares, and a free batch stays free
"""

from __future__ import annotations

from math import prod

import onnx
from onnx import ModelProto, TensorProto, checker, inliner, shape_inference, version_converter

from sattn_edge.gate_graph import Dims, declared, network_inputs, shape_text
from sattn_edge.gate_layers import Known, check_layers, constants_of
from sattn_edge.gate_limits import (
    ELEMENT_BYTES,
    INFERENCE_BATCH,
    MAX_ELEMENTS,
    MAX_TOTAL_ELEMENTS,
    Case,
    show,
    type_name,
)

_FOLLOWS_SHAPES = 17
# What onnx's C++ throws: its own two errors, and what the standard library's exceptions become in Python.
_ONNX_ERRORS = (
    checker.ValidationError,
    shape_inference.InferenceError,
    version_converter.ConvertError,
    onnx.defs.SchemaError,
    RuntimeError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
)


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
    """S2, S3 and the rules for layers, on a model without functions, which is changed: its batch is fixed."""
    outputs = {v.name: declared(v, case)[1] for v in flat.graph.output}
    _fix_batch(flat, case)
    flat = _raised(flat, case)
    try:
        inferred = shape_inference.infer_shapes(flat, check_type=True, strict_mode=True, data_prop=True)
    except _ONNX_ERRORS as error:
        raise case.refuse(f"has shapes that don't fit ({_first_line(error)})", "a valid model") from error
    known = _known(inferred, case)
    _check_bounds(inferred, known, case)
    _check_outputs(outputs, known, case)
    check_layers(inferred.graph.node, known, constants_of(inferred), case)


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


def _raised(flat: ModelProto, case: Case) -> ModelProto:
    """Others' older files in newer definitions: onnx follows a computed shape (Shape, Gather, Concat) only there."""
    opset = next(o.version for o in flat.opset_import if o.domain in ("", "ai.onnx"))
    if not case.foreign or opset >= _FOLLOWS_SHAPES:
        return flat
    try:
        return version_converter.convert_version(flat, _FOLLOWS_SHAPES)
    except _ONNX_ERRORS:
        return flat  # the shapes may be plain all the same; if not, the rule below says which


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
        elements = prod(dims)
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
