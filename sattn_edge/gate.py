"""The one strict gate that every ONNX file passes before a runtime sees it.

A runtime trusts its input: mutated files have crashed ONNX Runtime, and a crash ends a service where an
exception would not. So a file is refused unless it is plainly whole, each rule with a message of its own.
The numbered rules stand where they are kept:

    B1  this module      the file is not empty and not larger than the bound
    B2  this module      it parses: neither text nor damaged nor cut short
    B3  this module      every name and text in it is UTF-8
    B4  this module      it has no fields that ONNX has not (others': they are dropped)
    H1  this module      there is a graph
    H2  this module      there is nothing about training, nor device configurations
    H3  this module      the IR version is one that the runtimes read
    H4  this module      metadata is bounded, each key stands once
    H5  this module      the doc string is bounded
    H6  this module      opsets: ONNX's own within range, our domain at its version, in our files no other
    F1..F4  gate_functions   model-local functions
    N1..N6  gate_nodes       a single node against its schema
    T1..T4  gate_tensors     stored tensors
    G1..G6  gate_graph       names, wiring, what the network takes and gives
    S1..S3  gate_shapes      onnx's checker, inferred shapes, bounds on them
    L1..L4  gate_layers      single layers, once every shape is known

The bounds are in gate_limits, the operators in gate_operators. Two kinds of file come here: our own model
files (`foreign=False`), and files that other exporters made and `sattn-export` will convert (`foreign=True`:
more opsets and IR versions, several inputs and outputs, any functions that obey the same rules, unused opset
imports).

Only onnx and numpy are needed; no runtime is asked.
"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import ModelProto, defs

from sattn_edge.attention import DOMAIN, DOMAIN_VERSION
from sattn_edge.gate_functions import check_functions
from sattn_edge.gate_graph import check_graph, check_sizes
from sattn_edge.gate_limits import (
    FOREIGN_IR_VERSIONS,
    FOREIGN_OPSETS,
    MAX_DOC_BYTES,
    MAX_FILE_BYTES,
    MAX_METADATA_BYTES,
    MIB,
    OWN_IR_VERSIONS,
    OWN_OPSETS,
    Case,
    first_repeated,
    show,
)
from sattn_edge.gate_nodes import Operators, is_onnx_domain
from sattn_edge.gate_shapes import check_shapes, check_with_onnx, write_out

_FETCH = "fetch or make the file again"
_NOT_UTF8 = "holds a name or text that is not UTF-8"


def admit(data: bytes, subject: str, *, foreign: bool = False) -> ModelProto:
    """The model in `data`, once every rule above holds. `subject` names the file in messages.

    Raises:
        ModelFileError: a rule does not hold; whatever the bytes are, nothing else is raised.
    """
    case = Case(subject, foreign)
    try:
        model = _parse(data, case)
        _check(model, case)
    except UnicodeDecodeError as error:
        raise case.refuse(_NOT_UTF8, "UTF-8", _FETCH) from error
    except (RecursionError, MemoryError) as error:
        raise case.refuse("is nested too deeply or needs too much memory", "a plain network") from error
    return model


def _check(model: ModelProto, case: Case) -> None:
    opset = _check_header(model, case)
    check_sizes(model.graph, case)
    operators = check_functions(model, opset, case)
    check_graph(model.graph, operators, case)
    check_with_onnx(model, case)
    flat = write_out(model, case)
    if case.foreign and model.functions:
        # What a call hands to its function meets the operators' schemas only now.
        check_graph(flat.graph, Operators(opset, {}), case)
    check_shapes(flat, case)


def _parse(data: bytes, case: Case) -> ModelProto:
    """B1 to B4."""
    if not data:
        raise case.refuse("is empty", "an ONNX model", _FETCH)
    if len(data) > MAX_FILE_BYTES:
        raise case.refuse(f"has {len(data) / MIB:.0f} MiB", f"at most {MAX_FILE_BYTES // MIB} MiB")
    try:
        model: ModelProto = ModelProto.FromString(data)
    except DecodeError as error:
        raise case.refuse(_what_it_is(data), "an ONNX model", _FETCH) from error
    _check_texts(model, case)
    size = model.ByteSize()
    model.DiscardUnknownFields()
    # Other exporters may be newer than the onnx here; what it doesn't know is dropped before conversion.
    if model.ByteSize() != size and not (case.foreign and model.HasField("graph")):
        raise case.refuse("has fields that are not ONNX's", "an ONNX model", _FETCH)
    return model


def _check_texts(message: Message, case: Case) -> None:
    """B3. Depending on its version, protobuf hands out such a text as bytes or raises when it is read."""
    for name, is_text, is_single in _fields_with_text(message.DESCRIPTOR):
        if is_single and not message.HasField(name):
            continue
        values = [getattr(message, name)] if is_single else getattr(message, name)
        for value in values:
            if not is_text:
                _check_texts(value, case)
            elif not isinstance(value, str):
                raise case.refuse(_NOT_UTF8, "UTF-8", _FETCH)


@lru_cache(maxsize=64)
def _fields_with_text(descriptor: Descriptor) -> tuple[tuple[str, bool, bool], ...]:
    """Of each field that is a text or may hold one: its name, whether it is one, and whether it is single."""
    return tuple(
        (field.name, field.type == field.TYPE_STRING, field.has_presence)
        for field in descriptor.fields
        if field.type in (field.TYPE_STRING, field.TYPE_MESSAGE)
    )


def _what_it_is(data: bytes) -> str:
    """In a user's words, why the bytes could not be parsed."""
    head = data[:512]
    if all(b in b"\t\n\r" or 32 <= b < 127 for b in head):
        return "is text, not an ONNX model"
    missing = _missing_bytes(data)
    return f"is cut short, {missing} bytes or more are missing" if missing else "is not an ONNX model or is damaged"


def _missing_bytes(data: bytes) -> int:
    """How far the last top-level field reaches past the end; 0 where the file ends otherwise."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            _, at = _varint(data, at)
        elif key & 7 == 2:
            length, at = _varint(data, at)
            at += length
        else:
            return 0
    return at - len(data) if at - len(data) <= MAX_FILE_BYTES else 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    return value, at


def _check_header(model: ModelProto, case: Case) -> int:
    """H1 to H6. Returns the opset of ONNX's own operators."""
    if not model.HasField("graph"):
        raise case.refuse("has no graph", "an ONNX model with a network in it", _FETCH)
    if model.training_info or model.configuration:
        raise case.refuse("has training information or device configurations", "a network for inference")
    low, high = FOREIGN_IR_VERSIONS if case.foreign else OWN_IR_VERSIONS
    if not low <= model.ir_version <= high:
        raise case.refuse(f"has IR version {model.ir_version}", f"{low} to {high}")
    if len(model.doc_string) > MAX_DOC_BYTES:
        raise case.refuse(f"has a doc string of {len(model.doc_string)} characters", f"at most {MAX_DOC_BYTES}")
    _check_metadata(model, case)
    return _check_opsets(model, case)


def _check_opsets(model: ModelProto, case: Case) -> int:
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if is_onnx_domain(entry.domain, case) else entry.domain
        if domain in versions:
            raise case.refuse(f"imports the domain {show(domain)} twice", "each domain once")
        versions[domain] = entry.version
    if "" not in versions:
        raise case.refuse("does not say which opset it is written for", "an opset import of ONNX's domain")
    _check_other_domains(versions, case)
    low, high = FOREIGN_OPSETS if case.foreign else OWN_OPSETS
    high = min(high, defs.onnx_opset_version())
    if not low <= versions[""] <= high:
        raise case.refuse(f"is written for opset {versions['']}", f"{low} to {high}")
    return versions[""]


def _check_other_domains(versions: dict[str, int], case: Case) -> None:
    """Ours imports our own domain and no other. An import that no node uses does no harm in others' files."""
    others = set(versions) - {"", DOMAIN}
    if others and not case.foreign:
        raise case.refuse(f"imports the domain {show(min(others))}", f"ONNX's own and {DOMAIN}")
    if versions.get(DOMAIN, DOMAIN_VERSION) != DOMAIN_VERSION:
        raise case.refuse(
            f"has version {versions[DOMAIN]} of {DOMAIN}", f"version {DOMAIN_VERSION}", "update sattn-edge"
        )


def _check_metadata(model: ModelProto, case: Case) -> None:
    """H4: the model's, and what newer IR versions put beside graph, nodes and tensors."""
    twice = first_repeated(entry.key for entry in model.metadata_props)
    if twice is not None:
        raise case.refuse(f"has the metadata key {show(twice)} twice", "each key once")
    graph = model.graph
    holders = (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info)
    size = sum(entry.ByteSize() for holder in holders for entry in holder.metadata_props)
    if size > MAX_METADATA_BYTES:
        raise case.refuse(f"has {size / MIB:.1f} MiB of metadata", f"at most {MAX_METADATA_BYTES // MIB} MiB")
