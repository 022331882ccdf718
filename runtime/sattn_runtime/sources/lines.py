"""Lines of text as firmware prints them: a line a sample, numbers between commas or tabs.

    acc_x[g],acc_y[g],seq       a header, optional: names in any order, a unit in brackets where it is known
    0.01,-0.02,1207
    0.02,-0.02,1208

Without a header the numbers are the contract's channels in its order. `timestamp_s` (seconds) and `seq` (the sample's
number) are taken where a header names them. Whoever opens a port comes in the middle of a line, and half a number
looks like a whole one: the first line is left out, unless it is a header with all of the contract's channels. A
header that comes again means that the firmware started again: a new stream. Blank lines and lines that start with #
are skipped, other lines that are no sample are counted and left out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.recording_base import LATEST_S
from sattn_runtime.sources.base import Chunk, Item, StreamStart
from sattn_runtime.sources.checks import RateCheck, named_channels, split_unit

_LONGEST_LINE = 1 << 16  # bytes; noise has no ends of lines
_TRIES = 50  # lines without one sample, and it is told
_OWN = ("timestamp_s", "seq")
_MOST_NUMBER = 1 << 53  # beyond, a float64 is no count


@dataclass(frozen=True)
class _Layout:
    """Which field is what: `columns` are the contract's channels in its order."""

    fields: int
    columns: tuple[int, ...]
    stamp: int | None = None
    number: int | None = None


class LineDecoder:
    """Bytes to items. `reset` where the port was away."""

    def __init__(self, contract: Contract, subject: str, name: str) -> None:
        self._contract, self._subject, self._name = contract, subject, name
        self.counted: Counter[str] = Counter()
        self._plain = _Layout(contract.modal, tuple(range(contract.modal)))
        self._tried, self._any = 0, False
        self._nearly: list[str] | None = None  # a header with some of the contract's channels
        self._layout = self._plain
        self.reset()

    def reset(self) -> None:
        """Forgets the stream: the next sample begins a new one.

        The header holds on: firmware with a supply of its own prints none because its cable was out.
        """
        self._rest, self._whole, self._started = b"", False, False
        self._rate = RateCheck(self._contract, self._subject)

    def feed(self, data: bytes, arrival_ns: int) -> list[Item]:
        """What these bytes complete.

        Raises:
            RecordingError: a header that lacks a channel or has another unit, a wrong rate, or no sample at all.
        """
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        items: list[Item] = []
        rows: list[list[float]] = []
        for line in lines:
            names = self._header(line)
            if names is not None:
                items += self._chunk(rows, arrival_ns)
                rows = []
                items.append(self._begin(names))
            elif self._whole:
                self._take(line.strip(), rows)
            else:
                self.counted["partial_lines"] += 1
            self._whole = True
        if len(self._rest) > _LONGEST_LINE:
            self._rest, self._whole = b"", False
            self._bad(b"a line without end")
        return items + self._chunk(rows, arrival_ns)

    def _header(self, line: bytes) -> list[str] | None:
        """The names on this line if it is a header: words, and all of the contract's channels among them."""
        if not any(65 <= byte <= 122 for byte in line):  # no letter: the usual line, and quickly told
            return None
        text = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        cells = [cell.strip() for cell in text.split("\t" if "\t" in text else ",")]
        plain = {split_unit(cell, self._contract)[0] for cell in cells}
        if plain.issuperset(self._contract.channel_names):
            return cells
        if not self._started and plain.intersection(self._contract.channel_names):
            self._nearly = cells
        return None

    def _begin(self, names: list[str]) -> StreamStart:
        if self._started:
            self.counted["restarts"] += 1
        channels = named_channels(names, self._contract, self._subject)
        own = [names.index(n) if n in names and n not in self._contract.channel_names else None for n in _OWN]
        self._layout = _Layout(len(names), channels.columns, *own)
        self._rate = RateCheck(self._contract, self._subject)
        self._started = True
        notes = () if set(channels.ignored) <= set(_OWN) else channels.notes(self._subject)
        return StreamStart(self._name, None, notes)

    def _take(self, line: bytes, rows: list[list[float]]) -> None:
        """Adds the numbers of a line that is a sample."""
        if not line or line.startswith(b"#"):
            return
        try:
            if b"_" in line:  # float() would take 1_000
                raise ValueError
            row = [float(cell) for cell in line.split(b"\t" if b"\t" in line else b",")]
        except ValueError:
            self._bad(line)
            return
        if not self._fits(row):
            self._bad(line)
            return
        self._any = True
        rows.append(row)

    def _fits(self, row: list[float]) -> bool:
        """Whether it has a number for each field, and its time and its number can be such."""
        layout = self._layout
        if len(row) != layout.fields:
            return False
        if layout.stamp is not None and not abs(row[layout.stamp]) < LATEST_S:  # also refuses NaN
            return False
        return layout.number is None or (row[layout.number].is_integer() and abs(row[layout.number]) < _MOST_NUMBER)

    def _bad(self, line: bytes) -> None:
        self.counted["bad_lines"] += 1
        self._tried += 1
        if not self._any and self._tried >= _TRIES:
            if self._nearly is not None:
                named_channels(self._nearly, self._contract, self._subject)  # raises, and names what is missing
            shown = line[:60].decode("ascii", "replace")
            raise RecordingError(
                self._subject,
                f"{self._tried} lines and no sample among them, the last one {shown!r}",
                f"{self._layout.fields} numbers a line, or a header: {','.join(self._contract.channel_names)}",
                "check the baud rate and what the firmware prints",
            )

    def _chunk(self, rows: list[list[float]], arrival_ns: int) -> list[Item]:
        if not rows:
            return []
        start: list[Item] = [] if self._started else [StreamStart(self._name)]
        self._started = True
        layout = self._layout
        table = np.asarray(rows, np.float64)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and is dealt with as such
            samples = np.ascontiguousarray(table[:, layout.columns], np.float32)
        stamps = None if layout.stamp is None else np.ascontiguousarray(table[:, layout.stamp])
        numbers = None if layout.number is None else table[:, layout.number].astype(np.int64)
        if stamps is not None:
            self._rate.add(stamps)
        finite = bool(np.isfinite(samples).all())
        return [*start, Chunk(samples, arrival_ns, 0, stamps, finite, numbers)]
