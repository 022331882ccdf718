"""What the gate allows: its bounds, the element types, and the wording that its rules share.

A bound stands well above what a sensor network needs and well below what hurts a small device. The gate's
messages quote these numbers, so that a user who meets one learns how far off the file is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import TensorProto

from sattn_edge.errors import ModelFileError

MIB = 1024 * 1024

MAX_FILE_BYTES = 512 * MIB
MAX_METADATA_BYTES = 8 * MIB
MAX_DOC_BYTES = 64 * 1024
MAX_NAME_CHARS = 1024
MAX_NODES = 10_000
MAX_TENSORS = 10_000
MAX_FUNCTIONS = 256
MAX_RANK = 8
MAX_VALUES_OF_A_NODE = 1024
MAX_ATTRIBUTE_VALUES = 65_536
MAX_ELEMENTS = 2**26
"""Elements of any one tensor, inferred at a batch of INFERENCE_BATCH."""
MAX_TOTAL_ELEMENTS = 2**28
"""Elements of all tensors that nodes make, together."""
MAX_MACS = 10**11
"""Multiply-adds of any one convolution or product of matrices."""
INFERENCE_BATCH = 3
"""Stands for a free batch while shapes are inferred; not 1, so that a batch lost on the way shows."""
MAX_WINDOW_ATTRIBUTE = 65_536
"""Largest kernel, stride, dilation, pad and group."""

OWN_OPSETS = (17, 19)
OWN_IR_VERSIONS = (8, 10)
FOREIGN_OPSETS = (9, 25)
FOREIGN_IR_VERSIONS = (3, 13)

ELEMENT_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.UINT8: 1,
    TensorProto.INT8: 1,
    TensorProto.UINT16: 2,
    TensorProto.INT16: 2,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.BOOL: 1,
    TensorProto.FLOAT16: 2,
    TensorProto.DOUBLE: 8,
    TensorProto.UINT32: 4,
    TensorProto.UINT64: 8,
    TensorProto.BFLOAT16: 2,
}
"""Bytes of one element, for each type a tensor may have: no 4-bit, 8-bit float, complex or string."""

INTEGER_TYPES = frozenset(
    {
        TensorProto.UINT8,
        TensorProto.INT8,
        TensorProto.UINT16,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT32,
        TensorProto.UINT64,
    }
)


@dataclass(frozen=True)
class Case:
    """One file before the gate: its name in messages, and whether it is somebody else's export."""

    subject: str
    foreign: bool

    def refuse(self, found: str, allowed: str = "", todo: str = "") -> ModelFileError:
        """The error to raise, with what to do next where the rule says nothing better."""
        return ModelFileError(self.subject, found, allowed, todo or self._todo)

    @property
    def _todo(self) -> str:
        return "export it again, simpler" if self.foreign else "make the file again with sattn-export"


def show(text: str, limit: int = 60) -> str:
    """A name out of the file, quoted, control characters escaped and cut to a line's length."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def type_name(element_type: int) -> str:
    """The name of an element type, or its number where ONNX knows none."""
    try:
        return str(TensorProto.DataType.Name(element_type)).lower()
    except ValueError:
        return f"number {element_type}"
