"""The records of an MCAP file, as far as it goes.

The package's own reader stops a whole chunk (1 MiB, unless its writer was told otherwise) before the place where a file
was cut off, and gives a message that was cut in two as if it were whole. Here the frames of records are followed by
hand, and a chunk is unpacked as far as its bytes reach (zstd and lz4 give whole blocks of 64 to 128 kB); what is within
a record is read by the package.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO

from sattn_edge.errors import RecordingError
from sattn_runtime.sources.optional import load_package

MAGIC = b"\x89MCAP0\r\n"
_FRAME = struct.Struct("<BQ")
_CHUNK_HEAD = struct.Struct("<QQQII")  # times, size and CRC unpacked, length of the compression's name
_SIZE = struct.Struct("<Q")
_CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x04, 0x05, 0x06, 0x0F
_LARGEST = 1 << 30  # bytes of a record, packed or not; what says more is damaged


@dataclass(frozen=True, slots=True)
class Record:
    """A record of messages or of what they are on: its kind, and its bytes."""

    kind: int
    data: bytes

    @property
    def is_channel(self) -> bool:
        """Whether it describes a channel."""
        return self.kind == _CHANNEL

    @property
    def is_message(self) -> bool:
        """Whether it is a message."""
        return self.kind == _MESSAGE


class McapRecords:
    """Iterates over a file's channels and messages, those in chunks too. `cut_off` says afterwards if it was cut."""

    def __init__(self, path: Path) -> None:
        self.cut_off = False
        self._path, self._subject = path, str(path)

    def __iter__(self) -> Iterator[Record]:
        """Raises RecordingError where it is no MCAP file, is damaged, or can't be read."""
        try:
            with self._path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise RecordingError(self._subject, "is no MCAP file", "its first bytes are \\x89MCAP0")
                yield from self._in_file(file)
        except OSError as error:
            raise RecordingError(self._subject, f"can't be read ({error.strerror})") from error

    def _in_file(self, file: BinaryIO) -> Iterator[Record]:
        for kind, data, whole in self._frames(file):
            if kind == _CHUNK:
                yield from self._in_chunk(data, whole)
            elif kind == _DATA_END and whole:
                self.cut_off = not _ends_well(file)
                return
            elif whole:
                yield Record(kind, data)
        self.cut_off = True

    def _frames(self, file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
        """(kind, bytes, whether they are all there) up to the end of what there is."""
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            kind, length = _FRAME.unpack(head)
            if length > _LARGEST:
                raise RecordingError(
                    self._subject, f"has a record of {length:,} bytes", f"at most {_LARGEST:,}", DAMAGED
                )
            data = file.read(length)
            yield kind, data, len(data) == length

    def _in_chunk(self, data: bytes, whole: bool) -> Iterator[Record]:
        if len(data) < _CHUNK_HEAD.size:
            return
        _, _, size, crc, name_bytes = _CHUNK_HEAD.unpack_from(data)
        body = _CHUNK_HEAD.size + name_bytes
        compression = data[_CHUNK_HEAD.size : body].decode("ascii", "replace")
        packed = data[body + _SIZE.size :]
        if size > _LARGEST:
            raise RecordingError(self._subject, f"has a chunk of {size:,} bytes", f"at most {_LARGEST:,}", DAMAGED)
        try:
            plain = self._unpack(compression, packed, size)
        except RecordingError:
            raise
        except Exception as error:  # zstd and lz4 have errors of their own, both derived from this
            raise RecordingError(self._subject, f"has a damaged chunk ({error})", todo=DAMAGED) from error
        if whole and (len(plain) != size or (crc and zlib.crc32(plain) != crc)):
            raise RecordingError(self._subject, "has a damaged chunk (its CRC32 is another)", todo=DAMAGED)
        for kind, record, complete in self._frames(BytesIO(plain)):
            if complete:
                yield Record(kind, record)

    def _unpack(self, compression: str, packed: bytes, size: int) -> bytes:
        """As much of a chunk as its bytes give, at most what it says it holds and one byte more."""
        if compression == "zstd":
            zstandard = load_package("zstandard", "mcap", self._subject)
            with zstandard.ZstdDecompressor().stream_reader(BytesIO(packed)) as reader:
                return bytes(reader.read(size + 1))
        if compression == "lz4":
            lz4 = load_package("lz4.frame", "mcap", self._subject)
            return bytes(lz4.LZ4FrameDecompressor().decompress(packed, size + 1))
        if compression:
            raise RecordingError(self._subject, f"has chunks packed by {compression[:20]!r}", "zstd, lz4, or nothing")
        return packed


def _ends_well(file: BinaryIO) -> bool:
    """Whether the file's last bytes are those of a whole one."""
    file.seek(-len(MAGIC), SEEK_END)
    return file.read() == MAGIC


DAMAGED = "record it again, or repair it with `mcap recover`"
