"""Binary frames of a microcontroller: COBS between zero bytes, a CRC32, and a number on every sample.

`sattn_frame.h` beside this module makes them; `python -m sattn_runtime.sources.frames` prints where it is. Within
the COBS coding, little endian:

| bytes | a frame of samples | a frame of names |
|---|---|---|
| 1 | kind, 1 | kind, 2 |
| 1 | channels | 0 |
| 2 | samples in the frame, n | 0 |
| 4 | number of the first sample, wraps | 0 |
| 4 | time of the first sample in microseconds, wraps | rate in Hz, float32, 0 if not known |
| .. | float32 [n, channels] in physical units | `acc_x[g],acc_y[g]`, UTF-8 |
| 4 | CRC32 (IEEE 802.3) of all before | the same |

Names are optional, and may come again at any time; without them channels are the contract's in its order. Samples of
one frame lie one period of the contract apart. A number that goes back means that the firmware started again: a new
stream. What was lost on the way is a hole in the numbers.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.recording_base import check_rate
from sattn_runtime.sources.base import Chunk, Item, StreamStart
from sattn_runtime.sources.checks import RateCheck, named_channels
from sattn_runtime.sources.optional import load_package

HEADER_FILE = Path(__file__).with_name("sattn_frame.h")
_HEAD = struct.Struct("<BBHII")
_CRC_BYTES = 4
_SAMPLES, _NAMES = 1, 2
_WRAP, _HALF = 1 << 32, 1 << 31
_LONGEST_FRAME = 1 << 20
_TRIES = 50  # frames without a good one, and it is told


class FrameDecoder:
    """Bytes to items. `reset` where the port was away."""

    def __init__(self, contract: Contract, subject: str, name: str) -> None:
        self._cobs = load_package("cobs.cobs", "serial", subject)
        self._contract, self._subject, self._name = contract, subject, name
        self.counted: Counter[str] = Counter()
        self._tried, self._any = 0, False
        self._columns: list[int] | None = None
        self._fields = contract.modal
        self.reset()

    def reset(self) -> None:
        """Forgets the stream: the next sample begins a new one.

        The names hold on: firmware with a supply of its own does not send them again because its cable was out.
        """
        self._rest, self._whole = bytearray(), False
        self._notes: tuple[str, ...] = ()
        self._restart()

    def _restart(self) -> None:
        self._started = False
        self._next, self._time_us = 0, 0
        self._rate = RateCheck(self._contract, self._subject, "time stamps")

    def feed(self, data: bytes, arrival_ns: int) -> list[Item]:
        """What these bytes complete.

        Raises:
            RecordingError: another number of channels, names that lack one, a wrong rate, or no good frame at all.
        """
        *coded, rest = data.split(b"\0")
        if coded:
            coded[0] = bytes(self._rest) + coded[0]
            self._rest.clear()
        self._rest += rest  # what waits is neither searched nor copied again: bytes without a zero may be a MiB
        if len(self._rest) > _LONGEST_FRAME:
            self._rest.clear()
            self._bad()
        items: list[Item] = []
        for one in coded:
            if one:
                self._take(one, arrival_ns, items)
            self._whole = True
        return items

    def _take(self, coded: bytes, arrival_ns: int, items: list[Item]) -> None:
        frame = self._open(coded)
        if frame is None:
            # The first one after the port was opened may have begun before.
            self._bad() if self._whole else self.counted.update(["partial_frames"])
            return
        kind, channels, count, number, time = _HEAD.unpack_from(frame)
        body = frame[_HEAD.size : -_CRC_BYTES]
        self._any = True
        if kind == _NAMES:
            self._take_names(body, struct.unpack("<f", struct.pack("<I", time))[0])
        elif kind == _SAMPLES and count and len(body) == 4 * count * channels:
            samples = np.frombuffer(body, "<f4").reshape(count, channels)
            self._take_samples(samples, number, time, arrival_ns, items)
        else:
            self._bad()

    def _open(self, coded: bytes) -> bytes | None:
        """The frame, if its coding and its CRC hold."""
        try:
            frame: bytes = self._cobs.decode(coded)
        except self._cobs.DecodeError:
            return None
        if len(frame) < _HEAD.size + _CRC_BYTES:
            return None
        body, crc = frame[:-_CRC_BYTES], int.from_bytes(frame[-_CRC_BYTES:], "little")
        return frame if zlib.crc32(body) == crc else None

    def _bad(self) -> None:
        self.counted["bad_frames"] += 1
        self._tried += 1
        if not self._any and self._tried >= _TRIES:
            raise RecordingError(
                self._subject,
                f"{self._tried} frames and no good one among them",
                "COBS frames of sattn_frame.h",
                "check the baud rate and what the firmware sends; for lines of text, format=lines",
            )

    def _take_names(self, body: bytes, rate_hz: float) -> None:
        names = [name.strip() for name in body.decode("utf-8", "replace").split(",")]
        channels = named_channels(names, self._contract, self._subject)
        if rate_hz:
            check_rate(rate_hz, "frame of names", self._contract, self._subject)
        columns = list(channels.columns)
        if self._columns != columns:
            if self._started and (self._columns or list(range(self._contract.modal))) != columns:
                self._restart()
            self._columns, self._notes = columns, channels.notes(self._subject)
        self._fields = len(names)

    def _take_samples(self, samples: np.ndarray, number: int, time_us: int, arrival_ns: int, items: list[Item]) -> None:
        count, channels = samples.shape
        if channels != self._fields:
            found = f"frames have {channels} channels"
            raise RecordingError(self._subject, found, f"{self._fields}", "check the firmware")
        ahead = (number - self._next) % _WRAP
        if self._started and ahead >= _HALF:
            self.counted["restarts"] += 1
            self._restart()
        if not self._started:
            self._next, self._time_us = number, time_us
            items.append(StreamStart(self._name, None, self._notes))
            self._started, self._notes = True, ()
        lost = (number - self._next) % _WRAP
        first = self._next + lost
        self._next = first + count
        self._time_us += (time_us - self._time_us) % _WRAP
        self._rate.add_block(self._time_us / 1e6, count, joined=not lost)
        stamps = self._time_us / 1e6 + np.arange(count) / self._contract.rate_hz
        values = samples if self._columns is None else samples[:, self._columns]
        values = np.ascontiguousarray(values, np.float32)
        finite = bool(np.isfinite(values).all())
        numbers = np.arange(first, first + count, dtype=np.int64)
        items.append(Chunk(values, arrival_ns, 0, stamps, finite, numbers))


if __name__ == "__main__":
    print(HEADER_FILE)  # noqa: T201 - what it is for
