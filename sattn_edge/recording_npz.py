"""Recordings in an .npz: a single one, or a bundle of many one after another.

    signal       [samples, channels]: float32 or float64 in physical units, or integers with `scale`
    scale        [channels], physical value = integer * scale
    channels     [channels] names        units  [channels]        rate_hz (or fs)  a number
    label        [samples] names, or indices into class_names, else into the contract's labels, 255 = none
    class_names  [classes]               timestamp_s  [samples]   subject  a string or number

A bundle adds one entry per recording: `rec_start`, `rec_len` (in samples), `rec_name`, `rec_subject`. With
`encoding` = "delta" a recording is stored as first differences, undone with a cumulative sum that wraps as the
integers do. A single recording is read as a bundle of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.npz_checks import RATE_KEYS, check_file_rate, file_channels, file_class_names
from sattn_edge.npz_stream import Array, ArrayStream, NpzFile
from sattn_edge.recording_base import (
    ChannelMap,
    Recording,
    check_length,
    check_rate,
    check_some_finite,
    check_timestamps,
    label_notes,
    listed,
    map_labels,
    near,
    rate_of,
)


@dataclass(frozen=True, slots=True)
class _Part:
    """Where one recording lies in the file, in samples."""

    name: str
    subject: str | None
    start: int
    length: int


def read_npz(file: NpzFile, pick: str | None, contract: Contract) -> Iterator[Recording]:
    """Yields the recordings of an open file in the order they are stored, one in memory at a time.

    pick: only recordings of this name. Recordings shorter than a window are left out, with a note.

    Raises:
        RecordingError: whatever does not fit the contract, or is wrong with the file.
    """
    signal = _open_signal(file, contract)
    channels, notes = file_channels(file, signal.header.shape[1], contract)
    check_file_rate(file, contract)
    decoder = _Decoder(file, signal, channels, contract)
    parts, more = _select(_parts(file, signal.length), pick, file.subject, contract)
    notes += more + decoder.notes
    for part in parts:
        yield decoder.recording(part, notes)
        notes = ()
    decoder.finish()


def _open_signal(file: NpzFile, contract: Contract) -> ArrayStream:
    if "signal" not in file:
        windows = "it holds windows, not a recording" if "x" in file or "X" in file else ""
        raise RecordingError(
            file.subject,
            f"there is no 'signal' (it has {listed(file.keys)})",
            windows or "signal [samples, channels] in physical units",
        )
    signal = file.stream("signal")
    shape, dtype = signal.header.shape, signal.header.dtype
    if len(shape) != 2:
        raise RecordingError(file.subject, f"signal is {list(shape)}", "[samples, channels]")
    names = file.stream("channels").header.shape if "channels" in file else (contract.modal,)
    if (shape[0],) == names != (shape[1],):
        raise RecordingError(
            file.subject,
            f"signal is {list(shape)}",
            f"[samples, {shape[0]}]",
            "it looks transposed: save signal.T",
        )
    _check_dtype(file, dtype)
    return signal


def _check_dtype(file: NpzFile, dtype: np.dtype[np.generic]) -> None:
    scaled = "scale" in file
    if dtype.kind in "iu" and not scaled:
        raise RecordingError(
            file.subject,
            f"signal is {dtype} without 'scale'",
            "float32 in physical units, or integers with the scale of each channel",
            "multiply by the sensor's resolution, or add 'scale'",
        )
    if dtype.kind == "f" and scaled:
        raise RecordingError(
            file.subject,
            f"signal is {dtype} and there is a 'scale'",
            "a float signal is in physical units as it is",
            "multiply and leave 'scale' out",
        )
    if dtype.kind not in "iu" and dtype.newbyteorder("=") not in (np.float32, np.float64):
        raise RecordingError(file.subject, f"signal is {dtype}", "float32, float64 or integers with 'scale'")


def _parts(file: NpzFile, samples: int) -> list[_Part]:
    if "rec_start" not in file:
        subject = file.text("subject") or None if "subject" in file else None
        return [_Part(file.path.stem, subject, 0, samples)]
    start = _table(file, "rec_start")
    length = _table(file, "rec_len", len(start))
    names = _strings_table(file, "rec_name", len(start)) or tuple(str(i) for i in range(len(start)))
    subjects = _strings_table(file, "rec_subject", len(start)) or (None,) * len(start)
    _check_layout(start, length, names, samples, file.subject)
    # Streams go forwards only, so whatever the order of the tables is, the order of the samples counts.
    order = np.argsort(start, kind="stable").tolist()
    return [_Part(names[i], subjects[i], int(start[i]), int(length[i])) for i in order]


def _table(file: NpzFile, key: str, count: int | None = None) -> NDArray[np.int64]:
    if key not in file:
        raise RecordingError(file.subject, f"there is rec_start but no '{key}'", "both, one entry per recording")
    table = file.read(key)
    if table.dtype.kind not in "iu" or table.ndim != 1 or count not in (None, len(table)):
        raise RecordingError(
            f"{file.subject}, '{key}'",
            f"is {table.dtype} {list(table.shape)}",
            "whole numbers, one per recording",
        )
    return table.astype(np.int64)


def _strings_table(file: NpzFile, key: str, count: int) -> tuple[str, ...] | None:
    if key not in file:
        return None
    table = file.strings(key)
    if len(table) != count:
        raise RecordingError(file.subject, f"{key} has {len(table)} entries for {count} recordings", "one each")
    return table


def _check_layout(
    start: NDArray[np.int64], length: NDArray[np.int64], names: tuple[str, ...], samples: int, subject: str
) -> None:
    """Every recording lies inside the signal, and no two share samples."""
    for i, (a, n) in enumerate(zip(start.tolist(), length.tolist(), strict=True)):
        if a < 0 or n < 0 or a + n > samples:
            raise RecordingError(f"{subject}#{names[i]}", f"samples {a} to {a + n - 1}", f"the signal has {samples}")
    order = np.argsort(start, kind="stable")
    overlap = (start + length)[order][:-1] > start[order][1:]
    if overlap.any():
        at = int(np.argmax(overlap))
        one, other = names[int(order[at])], names[int(order[at + 1])]
        raise RecordingError(
            subject,
            f"recordings '{one}' and '{other}' overlap",
            "one after another",
            "correct rec_start, rec_len",
        )


def _select(
    parts: list[_Part], pick: str | None, subject: str, contract: Contract
) -> tuple[list[_Part], tuple[str, ...]]:
    """The wanted recordings that hold a window, and what to tell about those that don't."""
    if not parts:
        raise RecordingError(subject, "holds no recording", "at least one")
    names = [p.name for p in parts]
    if pick is not None and pick not in names:
        raise RecordingError(subject, f"there is no recording '{pick}'", near(pick, names) or f"it has {listed(names)}")
    wanted = [p for p in parts if pick in (None, p.name)]
    short = [p.name for p in wanted if p.length < contract.window]
    if len(short) == len(wanted):
        check_length(max(p.length for p in wanted), contract, _longest(wanted, subject))
    if not short:
        return wanted, ()
    kept = [p for p in wanted if p.length >= contract.window]
    told = f"{subject}: {len(short)} of {len(wanted)} recordings are shorter than a window "
    return kept, (f"{told}({contract.window} samples) and left out: {listed(short)}",)


def _longest(parts: list[_Part], subject: str) -> str:
    return subject if len(parts) == 1 else f"{subject}, the longest of {len(parts)} recordings"


class _Decoder:
    """Turns parts of a file into recordings: decodes, scales, picks the channels, maps the labels."""

    def __init__(self, file: NpzFile, signal: ArrayStream, channels: ChannelMap, contract: Contract) -> None:
        self._subject, self._contract, self._signal = file.subject, contract, signal
        self._columns = list(channels.columns)
        self._delta = _is_delta(file, signal)
        self._scale = _scale(file, signal.header.shape[1])
        self._label = _per_sample(file, "label", signal.length)
        self._stamps = _per_sample(file, "timestamp_s", signal.length)
        self._rate_stated = any(key in file for key in RATE_KEYS)
        self._class_names = file_class_names(file) if self._label else None
        self.notes = label_notes(self._class_names or (), contract, file.subject)
        self._bundle = "rec_start" in file

    def recording(self, part: _Part, notes: tuple[str, ...]) -> Recording:
        """Reads one part; parts come in the order they are stored."""
        subject = f"{self._subject}#{part.name}" if self._bundle else self._subject
        samples = self._physical(part)
        if self._scale is None:
            check_some_finite(samples, self._contract, subject)
        labels = self._labels(part, subject)
        stamps = self._timestamps(part, subject)
        return Recording(part.name, samples, labels, stamps, part.subject, notes)

    def finish(self) -> None:
        """Reads what is left of each stream, so that every checksum is checked."""
        for stream in (self._signal, self._label, self._stamps):
            if stream is not None:
                stream.finish()

    def _physical(self, part: _Part) -> NDArray[np.float32]:
        raw = self._signal.rows(part.start, part.start + part.length)
        if self._delta:
            # The differences wrapped around when they were taken, and so must their sum.
            np.cumsum(raw, axis=0, dtype=raw.dtype, out=raw)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which is found as such
            picked = raw[:, self._columns].astype(np.float32, copy=False)
            if self._scale is not None:
                picked *= self._scale[self._columns]
        return np.ascontiguousarray(picked)

    def _labels(self, part: _Part, subject: str) -> NDArray[np.int16] | None:
        if self._label is None:
            return None
        values = self._label.rows(part.start, part.start + part.length)
        return map_labels(values, self._class_names, self._contract, subject)

    def _timestamps(self, part: _Part, subject: str) -> NDArray[np.float64] | None:
        if self._stamps is None:
            return None
        values = self._stamps.rows(part.start, part.start + part.length)
        stamps = check_timestamps(values, part.length, subject)
        if not self._rate_stated and len(stamps) > 1:
            check_rate(rate_of(stamps), "timestamp_s", self._contract, subject)
        return stamps


def _is_delta(file: NpzFile, signal: ArrayStream) -> bool:
    encoding = file.text("encoding") if "encoding" in file else "plain"
    if encoding not in ("plain", "delta"):
        raise RecordingError(file.subject, f"encoding is '{encoding}'", "plain or delta")
    if encoding == "delta" and signal.header.dtype.kind not in "iu":
        raise RecordingError(
            file.subject, f"encoding is delta, signal is {signal.header.dtype}", "integers with 'scale'"
        )
    return encoding == "delta"


def _scale(file: NpzFile, count: int) -> NDArray[np.float32] | None:
    if "scale" not in file:
        return None
    scale: Array = file.read("scale")
    if scale.dtype.kind not in "iuf" or scale.shape != (count,):
        raise RecordingError(
            f"{file.subject}, 'scale'",
            f"is {scale.dtype} {list(scale.shape)}",
            f"{count} numbers, one per channel",
        )
    scale = scale.astype(np.float32)
    if not (np.isfinite(scale) & (scale != 0)).all():
        raise RecordingError(f"{file.subject}, 'scale'", f"is {scale.tolist()}", "finite and not 0")
    return scale


def _per_sample(file: NpzFile, key: str, samples: int) -> ArrayStream | None:
    if key not in file:
        return None
    stream = file.stream(key)
    if stream.header.shape != (samples,):
        raise RecordingError(
            file.subject,
            f"{key} is {list(stream.header.shape)}, signal has {samples} samples",
            "one entry per sample",
        )
    return stream
