"""CSV rows on stdin: a header line of channel names, then a line a sample, as long as the pipe is open.

A thread of its own reads the pipe, so that rows get their arrival time when they arrive and not when the loop
has time for them.
"""

from __future__ import annotations

import os
import sys
from time import monotonic_ns

import numpy as np

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError, UsageError
from sattn_edge.recording_base import check_rate, check_timestamps, listed, rate_of
from sattn_edge.recording_csv import CsvRows, is_data
from sattn_runtime.sources.base import Chunk, SourceOptions, StreamStart
from sattn_runtime.sources.live import LiveSource

_SUBJECT = "stdin"
_READ_BYTES = 1 << 16
_RATE_AFTER = 50  # rows before the rate is judged
_LONGEST_LINE = 1 << 20  # bytes; a pipe of something else must not fill the memory


class StdinSource(LiveSource):
    """One stream of CSV rows from a file descriptor. Where the loop is slow the pipe fills, and nothing is lost."""

    def __init__(self, descriptor: int, contract: Contract) -> None:
        super().__init__(_SUBJECT)
        self.only_stream = _SUBJECT
        self._contract = contract
        self._descriptor = descriptor
        self._rows: CsvRows | None = None
        self._line = 0
        self._rest = b""
        self._early: list[float] | None = []
        self.start()

    def _read_peer(self) -> None:
        try:
            self._read_lines()
        except OSError as error:
            raise RecordingError(_SUBJECT, f"can't be read ({error.strerror})", "a pipe or a file") from error
        if self._rows is None and not self.stopping:
            raise RecordingError(_SUBJECT, "ended before a header line", "CSV with a header of channel names")

    def _read_lines(self) -> None:
        while self.wait_readable(self._descriptor):
            data = os.read(self._descriptor, _READ_BYTES)
            arrival_ns = monotonic_ns()
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop() if data else b""
            self._take(lines, arrival_ns)
            if not data:
                return
            if len(self._rest) > _LONGEST_LINE:
                where = f"{_SUBJECT}, line {self._line + 1}"
                raise RecordingError(where, f"is longer than {_LONGEST_LINE:,} bytes", "a line a sample")

    def _take(self, lines: list[bytes], arrival_ns: int) -> None:
        """Queues the rows of these lines; those before a bad one are queued before its error is raised."""
        values: list[list[float]] = []
        stamps: list[float] = []
        try:
            for line in lines:
                self._line += 1
                self._take_line(_text(line, self._line), values, stamps)
        finally:
            if values:
                times = np.asarray(stamps, np.float64) if stamps else None
                samples = np.asarray(values, np.float32)
                self.give(Chunk(samples, arrival_ns, 0, times, bool(np.isfinite(samples).all())))
        self._check_rate(stamps)

    def _take_line(self, line: str, values: list[list[float]], stamps: list[float]) -> None:
        if not is_data(line):
            return
        if self._rows is None:
            self._rows = CsvRows(line, self._contract, _SUBJECT, self._line)
            ignored = self._rows.ignored
            notes = (f"{_SUBJECT}: not in the contract and ignored: {listed(ignored)}",) if ignored else ()
            self.give(StreamStart(_SUBJECT, None, notes))
            return
        row = self._rows.parse_row(line, self._line)
        values.append(row.values)
        if row.timestamp_s is not None:
            stamps.append(row.timestamp_s)

    def _check_rate(self, stamps: list[float]) -> None:
        """Once, on the first rows that are enough to tell."""
        if self._early is None or not stamps:
            return
        self._early += stamps
        if len(self._early) >= _RATE_AFTER:
            early = check_timestamps(np.asarray(self._early, np.float64), len(self._early), _SUBJECT)
            self._early = None
            check_rate(rate_of(early), "timestamp_s", self._contract, _SUBJECT)


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordingError(f"{_SUBJECT}, line {number}", "is not UTF-8 text", "CSV in UTF-8") from error


def open_source(rest: str, contract: Contract, options: SourceOptions) -> StdinSource:  # noqa: ARG001 - the contract of sources
    """Opens stdin. Raises UsageError where something is named behind the colon, or stdin is closed."""
    if rest:
        raise UsageError(f"source 'stdin:{rest}'", f"names '{rest}'", "stdin: or -", f"for a file, replay:{rest}")
    if sys.stdin is None:
        raise UsageError("source 'stdin:'", "stdin is closed", todo="give it a pipe or a file")
    return StdinSource(sys.stdin.fileno(), contract)
