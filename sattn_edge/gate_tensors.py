"""The gate's rules for stored tensors: initializers and tensors in attributes.

T1  the data stands in the file, never in another one, and is not a segment of something
T2  the element type is one our runtimes compute with: no string, 4-bit, 8-bit float or complex type
T3  no dimension is negative (or zero, in our own files), the rank and the number of elements are bounded
T4  the data is exactly as long as the dimensions and the type say, in the one field meant for that type
"""

from __future__ import annotations

from math import prod

from onnx import TensorProto

from sattn_edge.gate_limits import ELEMENT_BYTES, MAX_ELEMENTS, MAX_RANK, Case, show, type_name

_TYPED_FIELD: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
_DATA_FIELDS = (
    "raw_data",
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "string_data",
)


def check_tensor(tensor: TensorProto, what: str, case: Case) -> None:
    """All four rules; `what` names the tensor in messages."""
    _inside_the_file(tensor, what, case)
    _element_type(tensor, what, case)
    _dimensions(tensor, what, case)
    _data_length(tensor, what, case)


def _inside_the_file(tensor: TensorProto, what: str, case: Case) -> None:
    if tensor.external_data or tensor.data_location != TensorProto.DEFAULT:
        where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        raise case.refuse(
            f"{what} has its data in another file ({show(where)})",
            "all weights inside the one .onnx file",
            "save it without external data",
        )
    if tensor.HasField("segment"):
        raise case.refuse(f"{what} is a segment of a larger tensor", "whole tensors")


def _element_type(tensor: TensorProto, what: str, case: Case) -> None:
    if tensor.data_type not in ELEMENT_BYTES:
        allowed = ", ".join(type_name(t) for t in ELEMENT_BYTES)
        raise case.refuse(f"{what} has the element type {type_name(tensor.data_type)}", allowed)


def _dimensions(tensor: TensorProto, what: str, case: Case) -> None:
    dims = list(tensor.dims)
    if len(dims) > MAX_RANK:
        raise case.refuse(f"{what} has {len(dims)} dimensions", f"at most {MAX_RANK}")
    if any(d < 0 for d in dims):
        raise case.refuse(f"{what} has a negative dimension in {dims}", "dimensions of 1 or more")
    # Exporters write empty lists (an unused `roi`, say) as a tensor of shape [0].
    if 0 in dims and not (case.foreign and len(dims) == 1):
        raise case.refuse(f"{what} is empty, its dimensions are {dims}", "dimensions of 1 or more")
    if prod(dims) > MAX_ELEMENTS:
        raise case.refuse(f"{what} has {prod(dims)} elements ({dims})", f"at most {MAX_ELEMENTS}")


def _data_length(tensor: TensorProto, what: str, case: Case) -> None:
    elements, element_type = prod(tensor.dims), tensor.data_type
    typed = _TYPED_FIELD.get(element_type, "int32_data")
    filled = [name for name in _DATA_FIELDS if len(getattr(tensor, name))]
    if not filled and not elements:
        return
    if filled not in (["raw_data"], [typed]):
        raise case.refuse(
            f"{what} keeps its data in {', '.join(filled) or 'no field'}", f"one field, raw_data or {typed}"
        )
    unit = ELEMENT_BYTES[element_type] if filled == ["raw_data"] else 1
    found, wanted = len(getattr(tensor, filled[0])), elements * unit
    if found != wanted:
        things = "bytes" if filled == ["raw_data"] else "values"
        raise case.refuse(
            f"{what} holds {found} {things} of data",
            f"{wanted} for {list(tensor.dims)} of {type_name(element_type)}",
            "fetch or make the file again, it is damaged",
        )
