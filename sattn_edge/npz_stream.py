"""The arrays of an .npz read as streams: the rows in order, and what is behind is not kept.

`numpy.load` reads a member in one piece; a day of ECG is more than a small device can hold. Nothing is ever
unpickled. Whatever is wrong with the file is a RecordingError.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from sattn_edge.errors import RecordingError

Array = NDArray[Any]  # the dtype is the file's until a caller has looked at it

# What zipfile and numpy's header reader raise on files that were cut off or altered.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    OverflowError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
)
_CHUNK = 1 << 20  # bytes decompressed at a time
_DEFLATE_LIMIT = 1100  # deflate makes data at most about 1032 times smaller


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What the head of a member says: the array's shape, dtype and order, and the bytes before the data."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An open .npz. A context manager; `subject` names the file in errors.

    Raises:
        RecordingError: not there, empty, or not a zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.subject = path, str(path)
        try:
            self._bytes = path.stat().st_size
            if self._bytes == 0:
                raise RecordingError(self.subject, "is empty (0 bytes)", "an .npz that numpy.savez wrote")
            self._file = path.open("rb")  # our own, since a ZipFile leaves its file open while a member is
        except OSError as error:
            raise self._broken(error) from error
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _BROKEN as error:
            self._file.close()
            raise self._broken(error) from error
        members = {i.filename.removesuffix(".npy"): i for i in self._zip.infolist()}
        self._members = {name: info for name, info in members.items() if info.filename.endswith(".npy")}

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._members

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the arrays, in the file's order."""
        return tuple(self._members)

    def stream(self, key: str) -> ArrayStream:
        """Opens an array to be read by rows. Raises RecordingError if its head is unusable."""
        info, subject = self._members[key], f"{self.subject}, '{key}'"
        try:
            member = self._zip.open(info)
            header = _read_header(member)
        except _BROKEN as error:
            raise self._broken(error, key) from error
        if header.dtype.hasobject:
            raise RecordingError(subject, "holds Python objects", "plain numbers and strings", "save it without pickle")
        wrong = self._wrong_size(info, header)
        if wrong:
            raise RecordingError(subject, f"is corrupt ({wrong})", todo="copy or save the file again")
        return ArrayStream(member, header, subject)

    def read(self, key: str) -> Array:
        """A whole array, in the machine's byte order."""
        stream = self.stream(key)
        return stream.rows(0, stream.length) if stream.header.shape else stream.scalar()

    def text(self, key: str) -> str:
        """A single string; a whole number is taken as its decimal digits."""
        return str(self._of_kind(key, "Uiu", (), "one string"))

    def number(self, key: str) -> float:
        """A single number."""
        return float(self._of_kind(key, "iuf", (), "one number"))

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings; whole numbers are taken as their decimal digits."""
        return tuple(str(s) for s in self._of_kind(key, "Uiu", (None,), "a list of strings").tolist())

    def _of_kind(self, key: str, kinds: str, shape: tuple[None, ...], what: str) -> Array:
        array = self.read(key)
        if array.size == 1 and not shape:
            array = array.reshape(())  # [1] serves as well as a scalar
        if array.dtype.kind not in kinds or array.ndim != len(shape):
            raise RecordingError(f"{self.subject}, '{key}'", f"is {array.dtype} {list(array.shape)}", what)
        return array

    def _wrong_size(self, info: zipfile.ZipInfo, header: ArrayHeader) -> str:
        """Why the sizes can't be true, or nothing. Without this a few bytes could ask for all memory."""
        if any(n < 0 for n in header.shape) or header.offset + header.nbytes != info.file_size:
            return f"{list(header.shape)} {header.dtype} does not fit {info.file_size} bytes"
        if info.compress_size > self._bytes or info.file_size > _DEFLATE_LIMIT * (info.compress_size + 64):
            return f"{info.compress_size} bytes can't hold {info.file_size}"
        return ""

    def _broken(self, error: BaseException, key: str = "") -> RecordingError:
        subject = f"{self.subject}, '{key}'" if key else self.subject
        if isinstance(error, OSError) and error.strerror:
            return RecordingError(subject, f"can't be read ({error.strerror})")
        return RecordingError(
            subject,
            f"is truncated or corrupt ({str(error)[:120]})",  # numpy quotes the whole head
            "an .npz that numpy.savez wrote",
            "copy or save it again",
        )


class ArrayStream:
    """The rows of one array, forwards only. `header` says shape and dtype."""

    def __init__(self, member: IO[bytes], header: ArrayHeader, subject: str) -> None:
        self.header, self.subject = header, subject
        self._member, self._row = member, 0
        self._whole: Array | None = None

    @property
    def length(self) -> int:
        """The number of rows."""
        return self.header.shape[0] if self.header.shape else 1

    def rows(self, start: int, stop: int) -> Array:
        """Rows start to stop - 1, in the machine's byte order; `start` is not before an earlier `stop`.

        Raises:
            RecordingError: the data ends early or fails its checksum.
        """
        if self.header.fortran and len(self.header.shape) > 1:
            return self._columns()[start:stop]
        if start < self._row:
            raise ValueError(f"row {start} was passed already")
        self._skip(start - self._row)
        self._row = stop
        rest = self.header.shape[1:]
        return self._typed(self._take((stop - start) * self._row_bytes())).reshape(stop - start, *rest)

    def scalar(self) -> Array:
        """The value of an array without axes."""
        return self._typed(self._take(self.header.nbytes)).reshape(())

    def finish(self) -> None:
        """Reads what is left, so that the checksum of the whole member is checked."""
        if self._whole is None:
            self._skip(self.length - self._row)
            self._row = self.length

    def _columns(self) -> Array:
        """An array stored column by column (a saved transpose) has to be read whole."""
        if self._whole is None:
            flat = self._typed(self._take(self.header.nbytes))
            self._whole = flat.reshape(self.header.shape, order="F")
        return self._whole

    def _row_bytes(self) -> int:
        return math.prod(self.header.shape[1:]) * self.header.dtype.itemsize

    def _skip(self, rows: int) -> None:
        left = rows * self._row_bytes()
        while left > 0:
            left -= len(self._read(min(left, _CHUNK)))

    def _take(self, nbytes: int) -> NDArray[np.uint8]:
        try:
            out = np.empty(nbytes, np.uint8)
        except MemoryError as error:
            raise RecordingError(self.subject, f"needs {nbytes / 1e6:.0f} MB of memory at once") from error
        done = 0
        while done < nbytes:
            piece = self._read(min(nbytes - done, _CHUNK))
            out[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        return out

    def _read(self, nbytes: int) -> bytes:
        try:
            piece = self._member.read(nbytes)
        except _BROKEN as error:
            raise RecordingError(
                self.subject, f"is truncated or corrupt ({error})", todo="copy or save the file again"
            ) from error
        if not piece:
            raise RecordingError(self.subject, "is truncated", todo="copy or save the file again")
        return piece

    def _typed(self, data: NDArray[np.uint8]) -> Array:
        dtype = self.header.dtype
        if dtype.itemsize == 0:  # strings that are all empty take no bytes
            return np.zeros(math.prod(self.header.shape), dtype)
        array = data.view(dtype).astype(dtype.newbyteorder("="), copy=False)
        if dtype.kind in "SU":
            return self._text(array)
        return array

    def _text(self, array: Array) -> Array:
        """Strings as str that can be printed; numpy itself looks at neither bytes nor code points."""
        try:
            array = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
        except UnicodeDecodeError as error:
            raise RecordingError(self.subject, f"is not UTF-8 text ({error})") from error
        codes = array.view(np.uint32)
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            raise RecordingError(self.subject, "is corrupt (no text)", todo="copy or save the file again")
        return array


def _read_header(member: IO[bytes]) -> ArrayHeader:
    version = npy_format.read_magic(member)
    if version == (1, 0):
        shape, fortran, dtype = npy_format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, fortran, dtype = npy_format.read_array_header_2_0(member)
    else:
        raise ValueError(f"array format {version[0]}.{version[1]} is not known")
    return ArrayHeader(shape, dtype, fortran, member.tell())
