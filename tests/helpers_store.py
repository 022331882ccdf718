"""Entries of the engine store with nothing built: every field of what they are bound to is set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from sattn_edge.engine_manifest import (
    Acceptance,
    Candidate,
    Gpu,
    Manifest,
    Measurement,
    Platform,
    Request,
    Subject,
)
from sattn_edge.files import digest

GPU = Gpu("Orin", "8.7", "12.6", "12.6", "36.4.3")
PLATFORM = Platform("10.3.0", "a board", "aarch64", "0.1.0", ("asimddp",), GPU)
REQUEST = Request("tensorrt", "fp16", "auto", 2, 1, (1, 2, 4), 64, "sm86")
SUBJECT = Subject("sha256:1", "sha256:2", REQUEST, PLATFORM)
ACCEPTED = Acceptance(6, True, "ONNX Runtime", 1e-6, 1e-4, 0, 0.0, True)


def manifest_of(plan: bytes | None = None, subject: Subject = SUBJECT, **changes: Any) -> Manifest:
    """The manifest of an engine, accepted in form gemm."""
    manifest = Manifest(
        subject,
        "gemm",
        "asked for",
        (Candidate("gemm", subject.request.precision, acceptance=ACCEPTED),),
        Measurement(200, 40, 10),
        "2026-01-01T00:00:00.000000+00:00",
        plan=None if plan is None else digest(plan),
        plan_bytes=None if plan is None else len(plan),
        model="small.onnx",
        precision=subject.request.precision,
    )
    return msgspec.structs.replace(manifest, **changes)


def with_change(subject: Subject, name: str, value: object) -> Subject:
    """A subject with another value of one field: `graph`, `request.batch`, `platform.gpu.name`."""
    return _set(subject, name.split("."), value)


def single_changes(struct: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    """Every field, however deep, with what the struct is when that field alone has another value."""
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        inner = single_changes(value) if isinstance(value, msgspec.Struct) else [("", _other(value))]
        for below, changed in inner:
            yield ".".join(filter(None, (name, below))), msgspec.structs.replace(struct, **{name: changed})


def _set(struct: Any, names: list[str], value: object) -> Any:
    first, *rest = names
    return msgspec.structs.replace(struct, **{first: _set(getattr(struct, first), rest, value) if rest else value})


def _other(value: object) -> object:
    if isinstance(value, str):
        return value + "0"
    if isinstance(value, int):
        return value + 1
    if isinstance(value, tuple):
        return (*value[:-1], _other(value[-1]))
    raise TypeError(f"a field with nothing in it can't be told to change: {value!r}")
