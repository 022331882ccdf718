"""The engine of the fake: a header that says what it was built for, and the very ONNX bytes that the parser was given.

    b"FTRT" | u32 size of the header | header, JSON | ONNX

Nothing in it guards it: there is no digest, and a flipped byte may give an engine that computes something else, as
with a real one. Only its ends are checked.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

MAGIC = b"FTRT"
_SIZE = struct.Struct("<I")
Shape = tuple[int, ...]
PRODUCTS = ("Conv", "Gemm", "MatMul")
FIRST_WITH_TF32 = 8.0
"""Compute capability."""
_TF32_DROPPED_BITS = 13  # 23 bits of a float32's mantissa, less the 10 that TF32 keeps


class Header(msgspec.Struct, frozen=True):
    """What an engine was built by, for, and with.

    architectures: compute capabilities it runs on ("8.7"). flags: names of the builder flags that were set. ranges: of
    the one profile, least, usual and largest shape by input, empty where no input has a free axis. onnx_bytes: size of
    what follows. poisoned: a build had failed before it in its process.
    """

    module: str
    release: str
    gpu: str
    architectures: tuple[str, ...]
    flags: tuple[str, ...]
    strongly_typed: bool
    verbosity: str
    ranges: dict[str, tuple[Shape, Shape, Shape]]
    onnx_bytes: int
    poisoned: bool = False


class PlanError(ValueError):
    """The bytes are no plan; the message is the runtime's."""


def encode(header: Header, onnx: bytes) -> bytes:
    """The bytes of an engine; the same for the same header and graph."""
    text = msgspec.json.encode(header)
    return b"".join((MAGIC, _SIZE.pack(len(text)), text, onnx))


def decode(data: bytes) -> tuple[Header, bytes]:
    """The header and the ONNX bytes.

    Raises:
        PlanError: another magic, no header, or not as long as it says.
    """
    if not data:
        raise PlanError("Cannot deserialize with an empty memory buffer")
    if data[: len(MAGIC)] != MAGIC:
        raise PlanError("Serialization assertion magicTag failed: the file is no engine of this kind")
    start = len(MAGIC) + _SIZE.size
    try:
        end = start + _SIZE.unpack_from(data, len(MAGIC))[0]
        header = msgspec.json.decode(data[start:end], type=Header)
    except (struct.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PlanError("Serialization assertion header failed: it can't be read") from error
    if end + header.onnx_bytes != len(data):
        raise PlanError("Serialization assertion plan.header.size == blobSize failed")
    return header, data[end:]


def as_built(header: Header, onnx: bytes) -> ModelProto:
    """The graph as this release computes it: with what 8.6 gets wrong, and TF32 where that is set and there is such.

    Raises:
        google.protobuf's DecodeError: the bytes are no graph (any more).
    """
    model: ModelProto = ModelProto.FromString(onnx)
    if header.module == "tensorrt":
        if header.release.startswith("8."):
            average_over_everything(model)
        if "TF32" in header.flags and float(header.architectures[0]) >= FIRST_WITH_TF32:
            cut_to_tf32(model)
    return model


def average_over_everything(model: ModelProto) -> None:
    """8.6 does not look at axes that come as an input of ReduceMean: it averages over all, the batch too."""
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and len(node.input) > 1:
            del node.input[1:]


def cut_to_tf32(model: ModelProto) -> None:
    """Leaves float32 weights of products the ten bits of TF32: the error of TF32, or most of it."""
    weights = {node.input[1] for node in model.graph.node if node.op_type in PRODUCTS}
    for tensor in model.graph.initializer:
        if tensor.name in weights and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_tf32(numpy_helper.to_array(tensor)), tensor.name))


def _tf32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Drops the bits, as tensor cores do with a float32 that nobody rounded for them."""
    kept = np.uint32(0xFFFFFFFF >> _TF32_DROPPED_BITS << _TF32_DROPPED_BITS)
    cut: NDArray[np.float32] = (np.ascontiguousarray(values, np.float32).view(np.uint32) & kept).view(np.float32)
    return cut
