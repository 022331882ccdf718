"""The model file: one ordinary `.onnx` that carries the contract, golden windows, statistics and provenance.

Everything of ours lies in `metadata_props` as canonical JSON under `sattn_edge.*`, so every ONNX tool opens the
file unchanged. Reading one always goes through the gate; a newer format than this version knows is refused.

A file exported with `--attention-output` has a second output and its layout under `sattn_edge.attention`
(`sattn_edge.attention_output`), each only with the other. Without, nothing in the file speaks of it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from sattn_edge.attention_output import OUTPUT, AttentionLayout, read_layout
from sattn_edge.calibration_table import CalibrationTable
from sattn_edge.contract import Contract, contract_from_dict
from sattn_edge.errors import ContractError, ModelFileError
from sattn_edge.files import digest
from sattn_edge.gate import admit

FORMAT = 1
PREFIX = "sattn_edge."
GOLDEN_MAX_COUNT = 64
GOLDEN_MAX_BYTES = 1 << 20
_LONGEST_FORMAT = 9  # digits; a version number of thousands of them is no number to Python
_REEXPORT = "make it with sattn-export"


@dataclass(frozen=True)
class Golden:
    """Windows with the logits the trained network gave for them: what every engine must reproduce.

    x float32 [n, 1, series, modal] in physical units; logits float32 [n, classes]; `synthetic` says that the
    windows were drawn from the contract's statistics and are nobody's data.
    """

    x: NDArray[np.float32]
    logits: NDArray[np.float32]
    synthetic: bool
    source: str

    @property
    def logit_scale(self) -> float:
        """The largest absolute logit over the golden windows."""
        return float(np.abs(self.logits).max())


@dataclass(frozen=True)
class ModelFile:
    """A model file that passed the gate. `data` is the whole file, as a runtime takes it; `path`: where it was read.

    attention: how the gates lie in the output `attention`, None where the file does not give them.
    """

    name: str
    data: bytes
    proto: ModelProto
    contract: Contract
    golden: Golden
    statistics: dict[str, Any] | None
    provenance: dict[str, Any]
    calibration: dict[str, Any] | None
    path: Path | None = None
    attention: AttentionLayout | None = None

    @property
    def file_digest(self) -> str:
        """sha256 of the file as it is."""
        return digest(self.data)

    @property
    def graph_digest(self) -> str:
        """sha256 of the graph without metadata: what engines and calibration are bound to."""
        return graph_digest(self.proto)

    @property
    def graph_unchanged(self) -> bool:
        """Whether the graph is the one the golden logits were checked against at export."""
        return bool(self.provenance.get("graph_digest") == self.graph_digest)


def graph_digest(model: ModelProto) -> str:
    """sha256 of a model without metadata, doc string and producer."""
    bare = ModelProto()
    bare.CopyFrom(model)
    for field in ("metadata_props", "doc_string", "producer_name", "producer_version", "model_version"):
        bare.ClearField(field)
    return digest(bare.SerializeToString(deterministic=True))


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return msgspec.json.encode(value, order="sorted").decode()


def load_model_file(path: str | Path) -> ModelFile:
    """Reads, gates and parses a model file.

    Raises:
        ModelFileError: not there, refused by the gate, not made by sattn-export, a newer format, or metadata
            that does not fit the graph.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(str(path), f"can't be read ({error.strerror})", todo=_REEXPORT) from error
    return replace(parse_model_file(data, path.name), path=path)


def parse_model_file(data: bytes, name: str) -> ModelFile:
    """Like `load_model_file`, from bytes; `name` stands in error messages."""
    proto = admit(data, name)
    props = {p.key[len(PREFIX) :]: p.value for p in proto.metadata_props if p.key.startswith(PREFIX)}
    _check_format(props, name)
    try:
        contract = contract_from_dict(_json(props, "contract", name), f"{name}, contract")
    except ContractError as error:
        raise ModelFileError(error.subject, error.found, error.allowed, _REEXPORT) from error
    golden = _read_golden(_json(props, "golden", name), name)
    _check_fits(proto, contract, golden, name)
    return ModelFile(
        name=name,
        data=data,
        proto=proto,
        contract=contract,
        golden=golden,
        statistics=_dict(props, "statistics", name) if "statistics" in props else None,
        provenance=_dict(props, "provenance", name),
        calibration=_dict(props, "calibration", name) if "calibration" in props else None,
        attention=_read_attention(proto, props, name),
    )


def _read_attention(proto: ModelProto, props: dict[str, str], name: str) -> AttentionLayout | None:
    """The layout of the second output; each is there only with the other, and speaks of the same size."""
    gives = proto.graph.output[1].type.tensor_type.shape.dim[1].dim_value if len(proto.graph.output) > 1 else None
    if gives is None and OUTPUT not in props:
        return None
    if gives is None:
        found = f"carries sattn_edge.{OUTPUT}, but its graph has no output '{OUTPUT}'"
        raise ModelFileError(name, found, todo=_REEXPORT)
    try:
        layout = read_layout(_json(props, OUTPUT, name))
    except ValueError as error:
        found = f"sattn_edge.{OUTPUT} can't be read ({error})"
        raise ModelFileError(name, found, "the layout of its gates", _REEXPORT) from error
    if layout.values != gives:
        found = f"output '{OUTPUT}' has {gives} values"
        raise ModelFileError(name, found, f"sattn_edge.{OUTPUT} says {layout.values}", _REEXPORT)
    return layout


def _check_format(props: dict[str, str], name: str) -> None:
    found = props.get("format")
    if found is None:
        raise ModelFileError(
            name,
            "carries no sattn_edge.format",
            "a model file is an ONNX file made by sattn-export",
            _REEXPORT,
        )
    if not found.isascii() or not found.isdigit():
        raise ModelFileError(name, f"sattn_edge.format is {found[:20]!r}", f"a number up to {FORMAT}", _REEXPORT)
    if len(found) > _LONGEST_FORMAT or int(found) > FORMAT:
        raise ModelFileError(
            name,
            f"has format {found[:20]}",
            f"this version reads up to format {FORMAT}",
            "upgrade sattn-edge, or export again with this version",
        )


def _json(props: dict[str, str], key: str, name: str) -> Any:
    if key not in props:
        raise ModelFileError(name, f"carries no sattn_edge.{key}", todo=_REEXPORT)
    try:
        return msgspec.json.decode(props[key].encode())
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise ModelFileError(name, f"sattn_edge.{key} is not JSON ({error})", todo=_REEXPORT) from error


def _dict(props: dict[str, str], key: str, name: str) -> dict[str, Any]:
    value = _json(props, key, name)
    if not isinstance(value, dict):
        raise ModelFileError(name, f"sattn_edge.{key} is not a JSON object", todo=_REEXPORT)
    return value


class _GoldenJson(msgspec.Struct, forbid_unknown_fields=True):
    """Golden windows as they lie in the file: little-endian float32 in base64."""

    x: str
    x_shape: tuple[int, int, int, int]
    logits: str
    logits_shape: tuple[int, int]
    synthetic: bool
    source: str


def _read_golden(raw: object, name: str) -> Golden:
    try:
        row = msgspec.convert(raw, _GoldenJson)
        x = _array(row.x, row.x_shape)
        logits = _array(row.logits, row.logits_shape)
    except (msgspec.ValidationError, ValueError, binascii.Error) as error:
        raise ModelFileError(name, f"golden windows can't be read ({error})", todo=_REEXPORT) from error
    if not (np.isfinite(x).all() and np.isfinite(logits).all()):
        raise ModelFileError(name, "golden windows hold NaN or Inf", "finite numbers", _REEXPORT)
    return Golden(x, logits, row.synthetic, row.source)


def _array(text: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    data = base64.b64decode(text, validate=True)
    if min(shape) < 1 or len(data) > GOLDEN_MAX_BYTES:
        raise ValueError(f"shape {shape}, {len(data)} bytes")
    return np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float32)


def _check_fits(proto: ModelProto, contract: Contract, golden: Golden, name: str) -> None:
    """The contract, the golden windows and the graph speak of the same shapes."""
    window = (contract.window, contract.modal)
    takes = tuple(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim)
    gives = tuple(d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim)
    if takes[1:] != (1, *window) or gives[1:] != (len(contract.labels),):
        raise ModelFileError(
            name,
            f"the graph maps [batch, {_dims(takes)}] to [batch, {_dims(gives)}]",
            f"the contract says [batch, 1, {_dims((0, *window))}] to [batch, {len(contract.labels)}]",
            _REEXPORT,
        )
    n = len(golden.x)
    if n > GOLDEN_MAX_COUNT:
        raise ModelFileError(name, f"carries {n} golden windows", f"at most {GOLDEN_MAX_COUNT}", _REEXPORT)
    if golden.x.shape != (n, 1, *window) or golden.logits.shape != (n, len(contract.labels)):
        raise ModelFileError(name, "golden windows do not have the contract's shape", todo=_REEXPORT)


def _dims(shape: tuple[int, ...]) -> str:
    return ", ".join(str(d) for d in shape[1:])


def golden_limit(window: int, modal: int) -> int:
    """How many windows of float32 `[window, modal]` fit the golden limits once they are base64, at least 1."""
    each = -(-window * modal * 4 // 3) * 4
    return max(1, min(GOLDEN_MAX_COUNT, GOLDEN_MAX_BYTES // each))


def model_bytes(
    model: ModelProto,
    contract: Contract,
    golden: Golden,
    *,
    statistics: Mapping[str, Any] | None,
    provenance: dict[str, Any],
    attention: AttentionLayout | None = None,
) -> bytes:
    """Serialises a graph with its metadata. The same inputs give the same bytes."""
    out = ModelProto()
    out.CopyFrom(model)
    out.ClearField("metadata_props")
    rows: dict[str, object] = {
        "contract": contract,
        "golden": _GoldenJson(
            x=_base64(golden.x),
            x_shape=_shape4(golden.x),
            logits=_base64(golden.logits),
            logits_shape=(len(golden.logits), golden.logits.shape[1]),
            synthetic=golden.synthetic,
            source=golden.source,
        ),
        "provenance": {**provenance, "graph_digest": graph_digest(model)},
    }
    if statistics is not None:
        rows["statistics"] = statistics
    if attention is not None:
        rows[OUTPUT] = attention
    out.metadata_props.add(key=f"{PREFIX}format", value=str(FORMAT))
    for key in sorted(rows):
        out.metadata_props.add(key=f"{PREFIX}{key}", value=canonical_json(rows[key]))
    made: bytes = out.SerializeToString(deterministic=True)
    return made


def with_calibration(model: ModelFile, table: CalibrationTable) -> bytes:
    """The model file with a calibration table in the place of any it had; all else stays as it is."""
    out = ModelProto()
    out.CopyFrom(model.proto)
    rows = {row.key: row.value for row in model.proto.metadata_props}
    rows[f"{PREFIX}calibration"] = canonical_json(table)
    out.ClearField("metadata_props")
    for key in sorted(rows, key=lambda name: (name != f"{PREFIX}format", name)):
        out.metadata_props.add(key=key, value=rows[key])
    made: bytes = out.SerializeToString(deterministic=True)
    return made


def _shape4(x: NDArray[np.float32]) -> tuple[int, int, int, int]:
    n, planes, series, modal = x.shape
    return n, planes, series, modal


def _base64(array: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()
