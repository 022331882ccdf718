"""Going on behind what a journal already holds: `--resume`.

A source that can be read again (a replay) is read from its beginning, so that smoothing and gaps are what they were,
and lines that are in the journal are not written again. A live source can't. Where it numbers its samples, windows go
on at the very sample that the next one would have begun with: what its peer kept is taken from there, and what it did
not keep is a gap of known length. Where it does not, windows are numbered on from the journal's last one, and a line of
type `gap` with `seconds` null says that nobody knows what was missed.

A journal may be a gigabyte in ten files, and who restarts is waited for. So the newest file is read first, and the
others only where it does not hold the position of a live stream. It does where a run that went on from all that was
before it has a window there: its numbers are above all others, and the head it repeats in every file says that it went
on. What can be read again is held against the whole journal. Reading hears a stop.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sattn_edge.errors import JournalError, UsageError
from sattn_runtime.decision import Decision
from sattn_runtime.events import STATES, Event, Gap, News

GOES_ON = "resumed_behind_window"  # in a `start`: the stream does not begin anew, but where the run before it ended
# What has to be the same for windows to be those that the journal speaks of.
SAME = ("source", "graph_digest", "precision", "window_samples", "hop_samples", "rate_hz", "labels", "smooth")


_LINES = 4096  # read between two looks at whether to stop

_About = tuple[str, str | None, str | None]  # kind, channel and label of an event


class StoppedReadingError(Exception):
    """A stop was asked for while a journal was read: nothing is known that could be gone on from."""


@dataclass(frozen=True)
class Shift:
    """What to add to the numbers of a stream that goes on from another."""

    windows: int = 0
    samples: int = 0
    seconds: float = 0.0

    def decision(self, decision: Decision) -> None:
        """Renumbers a decision."""
        decision.window += self.windows
        decision.first_sample += self.samples
        decision.last_sample += self.samples
        if decision.attention is not None:
            peak_sample = decision.attention.peak_sample + self.samples
            decision.attention = dataclasses.replace(decision.attention, peak_sample=peak_sample)

    def news(self, news: News) -> News:
        """The same at its number in the journal."""
        found = dataclasses.replace(news, sample=news.sample + self.samples)
        if isinstance(found, Event) and found.kind in STATES and found.seconds is not None:
            found.seconds += self.seconds
        return found


class _Line(msgspec.Struct):
    type: str
    stream: str = ""
    window: int = -1
    first_sample: int = -1
    last_sample: int = -1
    sample: Any = -1
    sequence: int | None = None
    filled: int = 0
    kind: str = ""
    channel: str | None = None
    label: str | None = None


@dataclass
class Position:
    """How far a journal has got with one stream; -1 is not at all.

    events: the sample of the last event of each kind, channel and label. head: what the stream's last `start` said.
    next_sequence: the source's own number of the first sample that is still of use, None where it has none;
    next_sample is its number in the journal, next_used how many samples from there on are in a window already,
    next_skip how far behind it the next window begins.
    window is the highest number that any run gave; run_window, gap_sample and events are those of the stream's last
    run, since one before it that began anew may have had other windows of the same numbers.
    goes_on: that run says that it went on from all before it. certain: it has a window too, so that for a live stream
    nothing before what was read matters.
    """

    window: int = -1
    last_sample: int = -1
    gap_sample: int = -1
    events: dict[_About, int] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    next_sequence: int | None = None
    next_sample: int = 0
    next_used: int = 0
    next_skip: int = 0
    run_window: int = -1
    goes_on: bool = False
    certain: bool = False

    def has(self, news: News) -> bool:
        """Whether the journal has a line of it, of a source that was read again."""
        if isinstance(news, Gap):
            return news.sample <= self.gap_sample
        return news.sample <= self.events.get((news.kind, news.channel, news.label), -1)

    def go_on_behind(self, window: _Line) -> None:
        """The next window is the one behind this."""
        size, hop = (self.head.get(key) for key in ("window_samples", "hop_samples"))
        if window.sequence is None or not isinstance(size, int) or not isinstance(hop, int):
            self.next_sequence = None
            return
        step = min(hop, size)
        self.next_sequence, self.next_sample = window.sequence + step, window.first_sample + step
        self.next_used, self.next_skip = size - step, hop - step

    def shift(self, rate_hz: float) -> Shift:
        """What a live stream's own numbers need to go on from here."""
        samples = self.last_sample + 1 if self.next_sequence is None else self.next_sample
        return Shift(self.window + 1, samples, samples / rate_hz)

    def check(self, stream: str, head: dict[str, Any]) -> None:
        """Raises UsageError where another run than this one wrote the stream."""
        for key in SAME:
            there, here = self.head.get(key), head.get(key)
            here = list(here) if isinstance(here, tuple) else here  # as JSON gives it back
            if there is not None and there != here:
                raise UsageError(
                    f"--resume, stream '{stream}'",
                    f"the journal has {key} = {there}",
                    f"this run has {here}",
                    "give the options of the run before, or a new journal",
                )


class Positions:
    """The position of each stream in a journal and its rotated files, of which no more are read than are asked for.

    All is read before anything is written. `stopped` is asked meanwhile.

    Raises (wherever it reads):
        JournalError: a file can't be read, or has a line that is none of a journal's.
        StoppedReadingError: a stop was asked for.
    """

    def __init__(self, path: str | None, stopped: Callable[[], bool] = lambda: False) -> None:
        self._files = [] if path is None else journal_files(path)
        self._stopped = stopped
        self._read = 0  # how many of the files, the newest
        self._found: dict[str, Position] = {}

    @property
    def whole(self) -> bool:
        """Whether all there is was read."""
        return self._read == len(self._files)

    def read_newest(self) -> None:
        """The file that was written last."""
        self._read_files(1)

    def read_whole(self) -> dict[str, Position]:
        """All of them, and of all streams."""
        self._read_files(len(self._files))
        return self._found

    def need(self, name: str) -> None:
        """Reads as far back as a live stream of this name needs. The newest file may be new, and hardly begun."""
        for count in (1, 2, len(self._files)):
            if not self._certain(name):
                self._read_files(count)

    def _certain(self, name: str) -> bool:
        return self.whole or (name in self._found and self._found[name].certain)

    def get(self, name: str, *, again: bool = False) -> Position | None:
        """Where the stream is; None where the journal does not know it. `again`: its source is read again.

        Raises RuntimeError where that was not read, and now it is too late to.
        """
        if not (self.whole if again else self._certain(name)):
            raise RuntimeError(f"the journal was not read for the stream '{name}'")
        return self._found.get(name)

    def put(self, name: str, position: Position) -> None:
        """What this run has written goes on from there."""
        self._found[name] = dataclasses.replace(position, certain=True)

    def _read_files(self, count: int) -> None:
        """The newest so many, in their order."""
        count = min(count, len(self._files))
        if count > self._read:
            self._found = self._fold(self._files[-count:])
            self._read = count

    def _fold(self, files: list[str]) -> dict[str, Position]:
        decode = msgspec.json.Decoder(_Line).decode
        positions: dict[str, Position] = {}
        for name in files:
            number = 1
            try:
                for text in _whole_lines(name):
                    _take(positions, decode(text), text)
                    number += 1
                    if not number % _LINES and self._stopped():
                        raise StoppedReadingError
            except OSError as error:
                raise JournalError(f"journal '{name}'", f"can't be read ({error.strerror})") from error
            except msgspec.DecodeError as error:
                raise JournalError(
                    f"journal '{name}', line {number}", f"is no line of a journal ({error})", todo="start a new journal"
                ) from error
        return positions


class AfterSequence(Mapping[str, int]):
    """By stream the source's number of the last sample that no window to come needs; names without the prefix."""

    def __init__(self, positions: Positions, prefix: str) -> None:
        self._positions, self._prefix = positions, prefix

    def __getitem__(self, name: str) -> int:
        self._positions.need(self._prefix + name)
        at = self._positions.get(self._prefix + name)
        if at is None or at.next_sequence is None:
            raise KeyError(name)
        return at.next_sequence - 1

    def __iter__(self) -> Iterator[str]:
        known, prefix = self._positions.read_whole(), self._prefix
        names = [name for name, at in known.items() if name.startswith(prefix) and at.next_sequence is not None]
        return iter([name.removeprefix(prefix) for name in names])

    def __len__(self) -> int:
        return len(list(iter(self)))


def read_positions(path: str) -> dict[str, Position]:
    """The position of each stream in a journal and its rotated files; nothing where there is no journal.

    Raises:
        JournalError: a file can't be read, or has a line that is none of a journal's.
    """
    return Positions(path).read_whole()


def journal_files(path: str) -> list[str]:
    """A journal's files that are there, oldest first. A kill while rotating leaves at most one number free."""
    found = [path] if os.path.exists(path) else []  # noqa: PTH110
    free = 0
    for number in itertools.count(1):
        if os.path.exists(f"{path}.{number}"):  # noqa: PTH110
            found.append(f"{path}.{number}")
        else:
            free += 1
            if free == 2:
                break
    return found[::-1]


def _whole_lines(name: str) -> Iterator[bytes]:
    """All but a torn last line."""
    with open(name, "rb") as file:  # noqa: PTH123 - a name like the user's
        yield from (text for text in file if text.endswith(b"\n"))


def _take(positions: dict[str, Position], line: _Line, text: bytes) -> None:
    position = positions.setdefault(line.stream, Position())
    if line.type == "window":
        position.run_window = max(position.run_window, line.window)
        if line.window > position.window:
            position.window, position.last_sample = line.window, line.last_sample
        position.go_on_behind(line)
        position.certain = position.certain or position.goes_on
    elif line.type == "start" or line.kind == "rotated":
        position.head = msgspec.json.decode(text)
        position.goes_on = GOES_ON in position.head
        position.certain = position.certain and position.goes_on
        if line.type == "start" and GOES_ON not in position.head:
            position.run_window = position.gap_sample = -1
            position.events.clear()
    elif isinstance(line.sample, int):
        if line.type == "gap":
            position.gap_sample = max(position.gap_sample, line.sample)
            if not line.filled:
                position.next_sequence, position.next_sample = line.sequence, line.sample
                position.next_used = position.next_skip = 0
        elif line.type == "event":
            about = line.kind, line.channel, line.label
            position.events[about] = max(position.events.get(about, -1), line.sample)
