"""Recordings as text: a header line of channel names, then one line a sample.

    timestamp_s,acc_x,acc_y,acc_z,label
    0.00,0.01,-0.02,0.98,walking
    0.02,0.02,-0.02,0.99,

`timestamp_s` (seconds) and `label` (a class name or nothing) are optional, other columns are ignored. Blank
lines and lines that start with # are skipped. An empty cell is NaN: a sample that was not measured.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.recording_base import (
    NO_LABEL,
    Recording,
    check_length,
    check_rate,
    check_some_finite,
    check_timestamps,
    label_notes,
    map_channels,
    rate_of,
)

_TIMESTAMP, _LABEL = "timestamp_s", "label"


class CsvRow(NamedTuple):
    """One sample: values in physical units and the contract's channel order."""

    values: list[float]
    timestamp_s: float | None
    label: str | None


class CsvRows:
    """Parses the lines of one CSV source, file or pipe. Made from the header line.

    Raises:
        RecordingError: a channel is missing or stands twice, or the line is no header.
    """

    def __init__(self, header: str, contract: Contract, subject: str, line_number: int = 1) -> None:
        self.subject = subject
        names = [name.strip() for name in self._split(header.lstrip("\ufeff"), line_number)]
        self._check_header(names, header, contract, line_number)
        channels = map_channels(names, contract, subject)
        self._fields, self._columns = len(names), channels.columns
        self._names = contract.channel_names
        self._stamp = self._optional(names, _TIMESTAMP)
        self._label = self._optional(names, _LABEL)
        own = (self._stamp, self._label)
        self.ignored = tuple(n for n in channels.ignored if n not in [names[i] for i in own if i is not None])

    @property
    def has_timestamps(self) -> bool:
        """Whether rows have a time stamp."""
        return self._stamp is not None

    @property
    def has_labels(self) -> bool:
        """Whether rows have a label."""
        return self._label is not None

    def parse_row(self, line: str, line_number: int) -> CsvRow:
        """One line that `is_data`, as a sample.

        Raises:
            RecordingError: another number of fields than the header's, or a cell that is no number.
        """
        line = line.rstrip("\r\n")
        cells = line.split(",") if '"' not in line else self._split(line, line_number)
        if len(cells) != self._fields:
            raise self._error(line_number, f"{len(cells)} fields", f"the header has {self._fields}")
        try:
            if "_" in line:  # float() would take 1_000
                raise ValueError
            values = [float(cells[c]) for c in self._columns]
        except ValueError:
            named = zip(self._names, self._columns, strict=True)
            values = [self._number(cells[c], name, line_number) for name, c in named]
        stamp = None if self._stamp is None else self._seconds(cells[self._stamp], line_number)
        return CsvRow(values, stamp, None if self._label is None else cells[self._label].strip())

    def _optional(self, names: list[str], name: str) -> int | None:
        """The column of an optional name; a channel of that name in the contract comes first."""
        if name in self._names or name not in names:
            return None
        if names.count(name) > 1:
            raise RecordingError(self.subject, f"column '{name}' stands {names.count(name)} times", "once")
        return names.index(name)

    def _seconds(self, cell: str, line_number: int) -> float:
        seconds = self._number(cell, _TIMESTAMP, line_number)
        if not math.isfinite(seconds):
            raise self._error(line_number, f"{_TIMESTAMP} is '{cell.strip()}'", "finite seconds")
        return seconds

    def _number(self, cell: str, name: str, line_number: int) -> float:
        if not cell.strip():
            return math.nan
        try:
            if "_" in cell:
                raise ValueError(cell)
            return float(cell)
        except ValueError as error:
            raise self._error(line_number, f"{name} is '{cell.strip()}'", "a number, or nothing") from error

    def _split(self, line: str, line_number: int) -> list[str]:
        try:
            rows = list(csv.reader([line.rstrip("\r\n")], strict=True, skipinitialspace=True))
        except csv.Error as error:
            raise self._error(line_number, f"is not CSV ({error})", "fields between commas") from error
        return rows[0] if rows else []

    def _check_header(self, names: list[str], header: str, contract: Contract, line_number: int) -> None:
        if all(_is_number(name) for name in names):
            raise self._error(
                line_number,
                "holds numbers, not names",
                f"the first line names the columns: {','.join(contract.channel_names)}",
                "add it (numpy.savetxt writes it with header=... and comments='')",
            )
        other = next((s for s in (";", "\t") if s in header), None)
        if len(names) == 1 and other:
            raise self._error(line_number, f"is separated by {other!r}", "commas", "save it with commas")

    def _error(self, line_number: int, found: str, allowed: str = "", todo: str = "") -> RecordingError:
        return RecordingError(f"{self.subject}, line {line_number}", found, allowed, todo)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def is_data(line: str) -> bool:
    """Whether a line is neither blank nor a # comment."""
    start = line.lstrip("\ufeff \t\r\n")[:1]
    return bool(start) and start != "#"


class _Columns:
    """The samples so far, in 4 bytes a value instead of a Python object."""

    def __init__(self, contract: Contract) -> None:
        self.samples, self.stamps, self.labels = array("f"), array("d"), array("h")
        self.unknown: dict[str, None] = {}
        self._index = {label: i for i, label in enumerate(contract.labels)}

    def add(self, row: CsvRow) -> None:
        self.samples.extend(row.values)
        if row.timestamp_s is not None:
            self.stamps.append(row.timestamp_s)
        if row.label is not None:
            index = self._index.get(row.label, NO_LABEL)
            self.labels.append(index)
            if index == NO_LABEL:
                self.unknown[row.label] = None


def read_csv(path: Path, contract: Contract) -> Recording:
    """Reads a whole CSV file as one recording, named after the file.

    Raises:
        RecordingError: not text, a wrong line (named by its number), or a check of the contract.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            rows, columns = _parse(file, contract, str(path))
    except UnicodeDecodeError as error:
        raise RecordingError(str(path), f"is not UTF-8 text ({error})", "CSV in UTF-8") from error
    except OSError as error:
        raise RecordingError(str(path), f"can't be read ({error.strerror})") from error
    return _finish(rows, columns, path, contract)


def _parse(lines: Iterable[str], contract: Contract, subject: str) -> tuple[CsvRows, _Columns]:
    rows: CsvRows | None = None
    columns = _Columns(contract)
    for number, line in enumerate(lines, start=1):
        if not is_data(line):
            continue
        if rows is None:
            rows = CsvRows(line, contract, subject, number)
        else:
            columns.add(rows.parse_row(line, number))
    if rows is None:
        raise RecordingError(subject, "is empty", "a header line of channel names, then one line a sample")
    return rows, columns


def _finish(rows: CsvRows, columns: _Columns, path: Path, contract: Contract) -> Recording:
    subject = str(path)
    samples = np.array(columns.samples, np.float32).reshape(-1, contract.modal)
    check_length(len(samples), contract, subject)
    check_some_finite(samples, contract, subject)
    stamps = None
    if rows.has_timestamps:
        stamps = check_timestamps(np.array(columns.stamps), len(samples), subject)
        if len(stamps) > 1:
            check_rate(rate_of(stamps), "timestamp_s", contract, subject)
    labels = np.array(columns.labels, np.int16) if rows.has_labels else None
    notes = label_notes(tuple(columns.unknown), contract, subject)
    if rows.ignored:
        notes = (f"{subject}: not in the contract and ignored: {', '.join(rows.ignored)}", *notes)
    return Recording(path.stem, samples, labels, stamps, None, notes)
