"""Going on behind what a journal already holds: `--resume`.

A source that can be read again (a replay) is read from its beginning, so that smoothing and gaps are what they were,
and lines that are in the journal are not written again. A live source can't: its windows are numbered on from the
journal's last one, and a line of type `gap` with `seconds` null says that nobody knows what was missed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sattn_edge.errors import JournalError, UsageError

GOES_ON = "resumed_behind_window"  # in a `start`: the stream does not begin anew, but where the run before it ended
# What has to be the same for windows to be those that the journal speaks of.
SAME = ("source", "graph_digest", "precision", "window_samples", "hop_samples", "rate_hz", "labels", "smooth")


@dataclass
class Position:
    """How far a journal has got with one stream; -1 is not at all.

    events: for each kind of event the sample of the last one. head: what the stream's last `start` said.
    window is the highest number that any run gave; run_window, gap_sample and events are those of the stream's last
    run, since one before it that began anew may have had other windows of the same numbers.
    """

    window: int = -1
    last_sample: int = -1
    gap_sample: int = -1
    events: dict[str, int] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    run_window: int = -1

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


class _Line(msgspec.Struct):
    type: str
    stream: str = ""
    window: int = -1
    last_sample: int = -1
    sample: Any = -1
    event: str = ""


def read_positions(path: str) -> dict[str, Position]:
    """The position of each stream in a journal and its rotated files; nothing where there is no journal.

    Raises:
        JournalError: a file can't be read, or has a line that is none of a journal's.
    """
    decode = msgspec.json.Decoder(_Line).decode
    positions: dict[str, Position] = {}
    for name in journal_files(path):
        number = 1
        try:
            for text in _whole_lines(name):
                _take(positions, decode(text), text)
                number += 1
        except OSError as error:
            raise JournalError(f"journal '{name}'", f"can't be read ({error.strerror})") from error
        except msgspec.DecodeError as error:
            raise JournalError(
                f"journal '{name}', line {number}", f"is no line of a journal ({error})", todo="start a new journal"
            ) from error
    return positions


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
    elif line.type == "start" or line.event == "rotated":
        position.head = msgspec.json.decode(text)
        if line.type == "start" and GOES_ON not in position.head:
            position.run_window = position.gap_sample = -1
            position.events.clear()
    elif isinstance(line.sample, int):
        if line.type == "gap":
            position.gap_sample = max(position.gap_sample, line.sample)
        elif line.type == "event":
            position.events[line.event] = max(position.events.get(line.event, -1), line.sample)
