"""Replay of MCAP recordings: `mcap:drive.mcap?topic=/imu`.

The topic may be left out where only one in the file has samples. A channel's message encoding says what its messages
are:

- `json`: messages as `payload` says;
- `x-float32`: float32 little endian [samples, channels] and nothing else. The channel's metadata may have `channels`
  and `units` (with commas between) and `rate_hz`; without names columns are the contract's in its order.

Time stamps are `t` where messages have it; where they have neither `t` nor `seq`, the time at which a message was
published, which is that of its last sample. A file that was cut off is read as far as it goes, and the run says so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError, UsageError
from sattn_edge.recording import Recording
from sattn_edge.recording_base import check_length, check_rate, check_some_finite, listed
from sattn_runtime.sources.base import SourceOptions
from sattn_runtime.sources.checks import RateCheck
from sattn_runtime.sources.mcap_records import DAMAGED, McapRecords
from sattn_runtime.sources.optional import load_package
from sattn_runtime.sources.payload import Message, PayloadDecoder, PayloadError
from sattn_runtime.sources.replay import ReplaySource
from sattn_runtime.sources.uri import split_options

_JSON, _FLOATS = "json", "x-float32"


class _Topic:
    """One channel's messages, decoded."""

    def __init__(self, channel: Any, contract: Contract, subject: str) -> None:
        self.name: str = channel.topic
        self.encoding: str = channel.message_encoding
        self.bad = 0
        self.messages: list[tuple[Message, float]] = []  # with the time it was published, in seconds
        self.decoder = PayloadDecoder(contract, subject)
        metadata: Mapping[str, str] = channel.metadata
        self._names, self._units = (_words(metadata.get(key)) for key in ("channels", "units"))
        self._modal = contract.modal if self._names is None else len(self._names)
        if metadata.get("rate_hz"):
            check_rate(_rate(metadata["rate_hz"], subject), "rate_hz", contract, subject)

    def take(self, message: Any) -> None:
        """Adds a message, or counts it as bad."""
        try:
            decoded = self.decoder.decode(message.data) if self.encoding == _JSON else self._floats(message.data)
        except PayloadError:
            self.bad += 1
            return
        self.messages.append((decoded, (message.publish_time or message.log_time) / 1e9))

    def _floats(self, data: bytes) -> Message:
        row = 4 * self._modal
        if not data or len(data) % row:
            raise PayloadError(f"{len(data)} bytes for rows of {row}")
        table = np.frombuffer(data, "<f4").reshape(-1, self._modal)
        columns = self.decoder.columns(self._names, self._units, self._modal)
        return Message(np.ascontiguousarray(table if columns is None else table[:, columns], np.float32), None, None)


def _words(text: str | None) -> list[str] | None:
    return [word.strip() for word in text.split(",")] if text else None


def _rate(text: str, subject: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RecordingError(subject, f"rate_hz is '{text}'", "a number, in Hz") from error


def _read(path: Path, topic: str, contract: Contract) -> Iterator[Recording]:
    """The one recording of a topic."""
    records = McapRecords(path)
    topics, others = _topics(records, topic, contract, str(path))
    found = _chosen(topics, others, topic, str(path))
    subject = f"{path}, topic {found.name}"
    messages = [message for message, _ in found.messages]
    samples = np.concatenate([message.samples for message in messages])
    check_length(len(samples), contract, subject)
    check_some_finite(samples, contract, subject)
    notes = [*found.decoder.notes]
    if records.cut_off:
        notes.append(f"{path}: was cut off; {len(messages):,} messages are whole, and read")
    if found.bad:
        notes.append(f"{subject}: {found.bad:,} messages hold no samples and were left out")
    stamps, numbers = _stamps(found, contract, subject), _numbers(messages)
    yield Recording(found.name, samples, None, stamps, None, tuple(notes), numbers)


def _topics(records: McapRecords, topic: str, contract: Contract, subject: str) -> tuple[list[_Topic], dict[str, str]]:
    """The topics that may be meant, with their messages; and the others, each with how it is encoded."""
    package = load_package("mcap.records", "mcap", subject)
    streams = load_package("mcap.data_stream", "mcap", subject)
    exceptions = load_package("mcap.exceptions", "mcap", subject)
    found: dict[str, _Topic] = {}
    by_id: dict[int, _Topic] = {}
    others: dict[str, str] = {}
    for record in records:
        stream = streams.ReadDataStream(BytesIO(record.data))
        try:
            channel = package.Channel.read(stream) if record.is_channel else None
            message = package.Message.read(stream, len(record.data)) if record.is_message else None
        except (ValueError, struct.error, exceptions.McapError) as error:
            raise RecordingError(subject, f"has a damaged record ({error!r})", todo=DAMAGED) from error
        if channel is not None:
            if channel.message_encoding in (_JSON, _FLOATS) and topic in ("", channel.topic):
                # A topic may have several channels: a recorder that started again gives it another.
                where = f"{subject}, topic {channel.topic}"
                by_id[channel.id] = found.setdefault(channel.topic, _Topic(channel, contract, where))
            else:
                others[channel.topic] = channel.message_encoding
        elif message is not None and message.channel_id in by_id:
            by_id[message.channel_id].take(message)
    return list(found.values()), others


def _chosen(topics: list[_Topic], others: Mapping[str, str], topic: str, subject: str) -> _Topic:
    full = [found for found in topics if found.messages]
    if len(full) > 1:
        names = listed([found.name for found in full])
        raise RecordingError(subject, f"{len(full)} topics have samples: {names}", "one", "name it with ?topic=NAME")
    if not full:
        what = f"topic '{topic}' has no samples" if topic else "no topic has samples"
        bad = sum(found.bad for found in topics)
        there = [
            f"{name} is encoded as '{encoding}'" for name, encoding in others.items() if name == topic or not topic
        ]
        seen = f" ({bad:,} messages hold none)" if bad else f" ({listed(there)})" if there else ""
        todo = f"other topics: {listed(list(others))}" if topic and topic not in others and others else ""
        raise RecordingError(subject, what + seen, f"messages encoded as {_JSON} or {_FLOATS}", todo)
    return full[0]


def _stamps(topic: _Topic, contract: Contract, subject: str) -> NDArray[np.float64] | None:
    """The times of all samples in seconds, where they have one; their rate is checked."""
    rate, parts = RateCheck(contract, subject, "messages"), []
    following: int | None = None
    timed = all(message.time_s is not None for message, _ in topic.messages)
    for message, published_s in topic.messages:
        count = len(message.samples)
        first_s = message.time_s if timed else published_s - (count - 1) / contract.rate_hz
        if first_s is None or (not timed and message.seq is not None):
            return None
        rate.add_block(first_s, count, joined=message.seq == following)
        following = None if message.seq is None else message.seq + count
        parts.append(first_s + np.arange(count) / contract.rate_hz)
    return np.concatenate(parts)


def _numbers(messages: list[Message]) -> NDArray[np.int64] | None:
    parts = [message.numbers() for message in messages]
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def open_source(rest: str, contract: Contract, options: SourceOptions) -> ReplaySource:
    """Opens PATH?topic=NAME. It is read, and its errors raised, at the first `read`.

    Raises:
        UsageError: no path, or an unknown option.
        RecordingError: no such file.
        UnavailableError: the package mcap is missing.
    """
    subject = f"source 'mcap:{rest}'"
    place, given = split_options(rest, {"topic": ""}, subject)
    if not place:
        raise UsageError(subject, "names no file", "mcap:FILE?topic=NAME")
    path = Path(place)
    if not path.is_file():
        raise RecordingError(place, "is a folder" if path.is_dir() else "does not exist", "an MCAP file")
    load_package("mcap", "mcap", subject)
    return ReplaySource(_read(path, given["topic"], contract), contract.rate_hz, options)
