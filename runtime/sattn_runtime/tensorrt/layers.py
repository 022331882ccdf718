"""What an engine is made of: the kernels a compiler listed, read from its log or from the engine's inspector.

    verbose build log (TensorRT-RTX, no GPU)     `Layers:` and one line a kernel          -> parse_log
    EngineInspector, JSON (on the device)        {"Layers": [{"Name": ..., ...}, ...]}    -> parse_json

Both are text for people whose wording changed between releases, so reading them is kept in this one place. A type is
given as numpy names it; "" where the text does not say (names only, or shapes that are not known yet).

Sources: the log of TensorRT-RTX 1.7.1; for the inspector, the examples in NVIDIA's documentation of 8.x to 11.x and
listings that users of 8.2 to 10.x have published. Nothing was read from a Jetson.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sattn_edge.errors import UnavailableError

SHAPE_CALL = "shape_call"
"""The kind of the entry that works out sizes where the batch is free. It is one kernel more."""

_TYPES = (  # the first that occurs counts: `bf16` and `uint8` before what they contain
    (r"e4m3|e5m2|fp8|float8", "float8"),
    (r"bf16|bfloat", "bfloat16"),
    (r"fp16|float16|half", "float16"),
    (r"fp64|float64|double", "float64"),
    (r"fp4|float4|e2m1", "float4"),
    (r"fp32|float", "float32"),
    (r"uint8", "uint8"),
    (r"int8", "int8"),
    (r"int4", "int4"),
    (r"int64", "int64"),
    (r"int32", "int32"),
    (r"bool", "bool"),
)
_CONSTANTS, _OUTPUTS = "], Constants: [", "], Outputs: ["
_SEPARATOR = re.compile(r"(?:[\x1c-\x1f]|\\u001[c-f])(?=\[ONNX Layer: )")
_ONNX = "[ONNX Layer: "
_END = re.compile(r"\n(?:\n|I/O Tensors:|Bindings:)")
_TENSOR_NAME = re.compile(r"\{ Name: ")
_FUSED_NAMES = re.compile(r" \+ | \|\| |, ")
_COPIES = ("Reformat", "NoOp", "Constant")


@dataclass(frozen=True)
class EngineTensor:
    """What a kernel reads or writes. `dims` are -1 where a size is free; `dtype` as numpy says it, "" if not told."""

    name: str
    dims: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class EngineLayer:
    """One kernel. `nodes` are the names of the ONNX nodes that have a part in it, in the compiler's order."""

    name: str
    kind: str
    inputs: tuple[EngineTensor, ...] = ()
    outputs: tuple[EngineTensor, ...] = ()
    nodes: tuple[str, ...] = ()


def parse_layers(text: str) -> tuple[EngineLayer, ...]:
    """The kernels in either text, in order of execution.

    Raises:
        UnavailableError: it is neither a list from a log nor an inspector's JSON, or it lists nothing.
    """
    return parse_json(text) if text.lstrip().startswith("{") else parse_log(text)


def parse_log(text: str) -> tuple[EngineLayer, ...]:
    """The entries of the log's message `Layers:`, up to the empty line or its table of inputs and outputs.

    Raises:
        UnavailableError: the message is not there or holds no entry.
    """
    head, found, rest = text.partition("Layers:\n")
    if not found or (head and not head.endswith("\n")):
        raise _unreadable("has no list of layers")
    rows = _END.split(f"\n{rest}", maxsplit=1)[0]
    layers = tuple(_log_entry(row) for row in _entries(rows))
    if not layers:
        raise _unreadable("lists no layer")
    return layers


def _entries(rows: str) -> Iterator[str]:
    """Lines, joined where a name of the user's own runs over the end of one."""
    entry: list[str] = []
    for line in rows.split("\n"):
        if line.startswith("Name: ") and entry:
            yield "\n".join(entry)
            entry = []
        if entry or line.startswith("Name: "):
            entry.append(line)
    if entry:
        yield "\n".join(entry).rstrip("\n")


def _log_entry(row: str) -> EngineLayer:
    """Cut at the titles, each looked for behind the one before: names may hold commas and brackets."""
    name, _, rest = row.removeprefix("Name: ").partition(", LayerType: ")
    kind, _, rest = rest.partition(",")
    inputs, title, rest = _first(rest.partition("Inputs: [")[2], (_CONSTANTS, _OUTPUTS))
    outputs = rest if title == _OUTPUTS else rest.partition(_OUTPUTS)[2]
    outputs, _, rest = outputs.partition("], TacticName: ")
    metadata = rest.partition(", Metadata: ")[2]
    return EngineLayer(name, kind, _log_tensors(inputs), _log_tensors(outputs), _onnx_nodes(metadata))


def _first(text: str, titles: tuple[str, ...]) -> tuple[str, str, str]:
    """The text cut at whichever title comes first."""
    places = [(at, title) for title in titles if (at := text.find(title)) >= 0]
    if not places:
        return text, "", ""
    at, title = min(places)
    return text[:at], title, text[at + len(title) :]


def _log_tensors(text: str) -> tuple[EngineTensor, ...]:
    return tuple(_log_tensor(part) for part in _TENSOR_NAME.split(text)[1:])


def _log_tensor(part: str) -> EngineTensor:
    name, _, rest = part.partition(", Dimensions: [")
    dims, _, rest = rest.partition("]")
    datatype = rest.partition("Datatype: ")[2].partition(",")[0]
    return EngineTensor(name, _dims(dims.split(",")), normalise_dtype(datatype))


def parse_json(text: str) -> tuple[EngineLayer, ...]:
    """The entries of an inspector's JSON: objects, or names alone where the engine was built without details.

    Raises:
        UnavailableError: not JSON, no list `Layers`, or an empty one.
    """
    try:
        data = json.loads(text, strict=False)  # names of nodes stand in it with their control characters
    except (ValueError, RecursionError) as error:
        raise _unreadable("is not JSON") from error
    rows = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not rows:
        raise _unreadable("lists no layer")
    return tuple(_json_entry(row) for row in rows)


def _json_entry(row: Any) -> EngineLayer:
    if not isinstance(row, dict):
        name = str(row)
        return EngineLayer(name, "", nodes=_nodes_in_name(name, ""))
    name, kind = str(row.get("Name", "")), str(row.get("LayerType", ""))
    nodes = _onnx_nodes(str(row.get("Metadata") or "")) or _nodes_in_name(name, kind)
    return EngineLayer(name, kind, _json_tensors(row.get("Inputs")), _json_tensors(row.get("Outputs")), nodes)


def _json_tensors(rows: Any) -> tuple[EngineTensor, ...]:
    if not isinstance(rows, list):
        return ()
    return tuple(_json_tensor(row) for row in rows if isinstance(row, dict))


def _json_tensor(row: dict[str, Any]) -> EngineTensor:
    dims = row.get("Dimensions")
    told = next((str(row[key]) for key in ("Datatype", "DataType", "Format/Datatype") if key in row), "")
    return EngineTensor(str(row.get("Name", "")), _dims(dims if isinstance(dims, list) else []), normalise_dtype(told))


def _dims(sizes: list[Any]) -> tuple[int, ...]:
    texts = (str(size).strip() for size in sizes)
    return tuple(int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else -1 for text in texts if text)


def normalise_dtype(text: str) -> str:
    """A type in any of the wordings: `Half`, `Row major linear FP32`, `Channel major FP16 format where ...`.

    "" where none is named, as in `N/A due to dynamic shapes`.
    """
    return next((name for words, name in _TYPES if re.search(words, text, re.IGNORECASE)), "")


def _onnx_nodes(metadata: str) -> tuple[str, ...]:
    """`[ONNX Layer: a]` and more, one separator between two; names may hold brackets."""
    parts = [part for part in _SEPARATOR.split(metadata) if part.startswith(_ONNX)]
    return tuple(dict.fromkeys(part.removeprefix(_ONNX).removesuffix("]") for part in parts))


def _nodes_in_name(name: str, kind: str) -> tuple[str, ...]:
    """The nodes a layer's own name tells of, where nothing else does: `conv1 + relu1`, `PWN(PWN(sigmoid), mul)`.

    A copy between formats carries the name of what it copies for, and an opaque region only names its ends.
    """
    if kind in _COPIES or kind == SHAPE_CALL or name.startswith(("Reformatting ", "__my", "{ForeignNode[")):
        return ()
    parts = (part.replace("PWN(", "").strip() for part in _FUSED_NAMES.split(name))
    return tuple(dict.fromkeys(_closed(part) for part in parts if part))


def _closed(part: str) -> str:
    """Without the closing brackets whose opening ones were taken off."""
    while part.endswith(")") and part.count(")") > part.count("("):
        part = part[:-1]
    return part


def _unreadable(what: str) -> UnavailableError:
    return UnavailableError(
        "the compiler's list of kernels",
        f"the text {what}",
        "the message 'Layers:' of a verbose log, or the JSON of an engine inspector",
        "build with detailed profiling verbosity, and report this release of TensorRT",
    )
