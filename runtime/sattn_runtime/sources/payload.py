"""Messages that carry samples, over MQTT and in MCAP files: JSON, or a compact binary form of the same.

    {"seq": 1200, "t": 24.0, "samples": [[0.01, -0.02], [0.02, -0.02]]}

`samples` is needed: a row a sample, in physical units; null is a value that was not measured. `seq` numbers samples: it
is that of the first row, so that this message is followed by 1202. `t` is the time of the first row in seconds; the
others lie one period of the contract apart. `channels` (names of the columns), `units` and `rate_hz` may be there in
any message and are checked; without names columns are the contract's in its order. Other keys are ignored.

Binary, little endian: `SAT1`, channels uint16, samples uint16, seq int64 (-1: none), t float64 (NaN: none), then
float32 [samples, channels] in the contract's order.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.recording_base import LATEST_S, check_rate, check_units, map_channels

_MAGIC = b"SAT1"
_HEAD = struct.Struct("<4sHHqd")
_MOST_SEQ = 1 << 62


class PayloadError(ValueError):
    """One message that is none: its source counts it, and goes on."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """Samples float32 [n, modal] in the contract's order, n >= 1; number and time of the first one, if known."""

    samples: NDArray[np.float32]
    seq: int | None
    time_s: float | None

    def numbers(self) -> NDArray[np.int64] | None:
        """The number of each sample, int64 [n]."""
        return None if self.seq is None else np.arange(self.seq, self.seq + len(self.samples), dtype=np.int64)

    def stamps(self, rate_hz: float) -> NDArray[np.float64] | None:
        """The time of each sample in seconds, float64 [n]."""
        return None if self.time_s is None else self.time_s + np.arange(len(self.samples)) / rate_hz


class _Json(msgspec.Struct, gc=False):
    samples: list[list[float | None]]
    seq: int | None = None
    t: float | None = None
    channels: list[str] | None = None
    units: list[str] | None = None
    rate_hz: float | None = None


class PayloadDecoder:
    """Bytes to messages, checked against the contract."""

    def __init__(self, contract: Contract, subject: str) -> None:
        self._contract, self._subject = contract, subject
        self._json = msgspec.json.Decoder(_Json)
        self._columns: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}
        self.notes: tuple[str, ...] = ()

    def decode(self, data: bytes) -> Message:
        """One message.

        Raises:
            PayloadError: it is no message.
            RecordingError: it names other channels or units, another rate, or has another number of channels.
        """
        return self._binary(data) if data.startswith(_MAGIC) else self._text(data)

    def _binary(self, data: bytes) -> Message:
        if len(data) < _HEAD.size:
            raise PayloadError(f"{len(data)} bytes, too short for its head")
        _, channels, count, seq, time_s = _HEAD.unpack_from(data)
        if not count or not channels or len(data) != _HEAD.size + 4 * count * channels:
            raise PayloadError(f"{len(data)} bytes for {count} samples of {channels} channels")
        self._check_channels(channels)
        samples = np.frombuffer(data, "<f4", offset=_HEAD.size).reshape(count, channels)
        return self._message(samples.astype(np.float32), seq if seq >= 0 else None, time_s)

    def _text(self, data: bytes) -> Message:
        try:
            found = self._json.decode(data)
            table = np.array(found.samples, np.float64)  # None becomes NaN, rows of several lengths a ValueError
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise PayloadError(str(error)) from error
        if table.ndim != 2 or not table.size:
            raise PayloadError("no samples")
        if found.seq is not None and found.seq < 0:
            raise PayloadError(f"seq is {found.seq}")
        if found.rate_hz is not None:
            check_rate(found.rate_hz, "rate_hz", self._contract, self._subject)
        columns = self.columns(found.channels, found.units, table.shape[1])
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and is dealt with as such
            samples = np.ascontiguousarray(table if columns is None else table[:, columns], np.float32)
        return self._message(samples, found.seq, found.t)

    def _message(self, samples: NDArray[np.float32], seq: int | None, time_s: float | None) -> Message:
        if seq is not None and seq > _MOST_SEQ:
            raise PayloadError(f"seq is {seq}")
        if time_s is None or math.isnan(time_s):
            return Message(samples, seq, None)
        if not abs(time_s) < LATEST_S:
            raise PayloadError(f"t is {time_s:g}, no seconds")
        return Message(samples, seq, time_s)

    def columns(self, channels: Sequence[str] | None, units: Sequence[str] | None, width: int) -> list[int] | None:
        """Where the contract's channels are among `width` columns; None where they are in its order.

        Raises:
            PayloadError: another number of names than columns.
            RecordingError: names or units that do not fit, or another number of columns without names.
        """
        if channels is None:
            self._check_channels(width)
            if units is None:
                return None
            channels = self._contract.channel_names
        if len(channels) != width or (units is not None and len(units) != width):
            raise PayloadError(f"{width} columns for {len(channels)} names")
        key = tuple(channels), tuple(units or [""] * width)
        if key not in self._columns:
            found = map_channels(channels, self._contract, self._subject)
            check_units(key[1], found, self._contract, self._subject)
            self._columns = {key: list(found.columns)}  # one is enough: names seldom change
            self.notes = found.notes(self._subject)
        return self._columns[key]

    def _check_channels(self, channels: int) -> None:
        modal = self._contract.modal
        if channels != modal:
            names = ", ".join(self._contract.channel_names)
            raise RecordingError(
                self._subject,
                f"messages have {channels} channels without names",
                f"{modal}, as the contract: {names}",
                "send these, or name them in `channels`",
            )


def encode_binary(samples: NDArray[np.float32], seq: int | None = None, time_s: float | None = None) -> bytes:
    """Samples [n, channels] as one compact message, for those who send from Python."""
    count, channels = samples.shape
    number, time = -1 if seq is None else seq, math.nan if time_s is None else time_s
    return _HEAD.pack(_MAGIC, channels, count, number, time) + samples.astype("<f4").tobytes()
