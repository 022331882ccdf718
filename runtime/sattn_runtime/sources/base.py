"""What a source is: it is read for items until it ends, then closed.

    StreamStart, Chunk, Chunk, ..., StreamStart, Chunk, ..., END

A new StreamStart means a new stream: nothing before it shares a window with anything after it.

A source may offer more than it must, and the run loop looks for it by name: `counters` (`Counting`), what it met and
dealt with; `acknowledge` (`Acknowledging`), called for what is done with for good; `patience_s`, for how long it makes
sense to wait for a sample whose number is missing, because its peer loses none on the way; `only_stream`, the name of
every stream that it will ever give, so that `--resume` need not read all of a journal for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class StreamStart:
    """A stream begins. `labels` int16 [n] are known only for recordings; `notes` are for the person, said once."""

    name: str
    labels: NDArray[np.int16] | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)  # not frozen: the hot path makes one, and that would cost it several times as much
class Chunk:
    """Consecutive samples float32 [n, modal] in physical units, in the contract's channel order.

    arrival_ns: monotonic time at which the last sample arrived, stamped by the reader's own thread or scheduled;
        None in a replay at full speed, where nothing arrives.
    period_ns: how much earlier each sample before it arrived; 0 where they all came at once.
    timestamp_s: the source's own clock for each sample, float64 [n], where it has one.
    sequence: the source's own number of each sample, int64 [n], where it numbers them; a hole in it is a loss.
    finite: the source has looked, and no value is NaN or Inf; otherwise the stream looks.
    """

    samples: NDArray[np.float32]
    arrival_ns: int | None
    period_ns: int = 0
    timestamp_s: NDArray[np.float64] | None = None
    finite: bool = False
    sequence: NDArray[np.int64] | None = None


class Signal(Enum):
    """What a read gives that is no data."""

    NOTHING = "nothing came within the time given"
    END = "there will be no more"


Item = StreamStart | Chunk | Literal[Signal.NOTHING, Signal.END]


@dataclass(frozen=True)
class SourceOptions:
    """What the run tells its source.

    speed: pace of a replay, 1.0 is real time, None as fast as it can be read.
    window, hop: in samples, so that a replay can hand over exactly what completes the next window.
    reconnect_s: how long a peer that went away may stay away before the source is lost.
    after_sequence: by stream the number of the last sample that an earlier run was done with; a source that is given
        samples again, by their numbers, drops those up to it.
    """

    speed: float | None
    window: int
    hop: int
    reconnect_s: float = 30.0
    after_sequence: Mapping[str, int] = field(default_factory=dict)


class Source(Protocol):
    """Something that gives samples.

    A source that gives the same again when it is opened again, as a file does, has `rereadable` True; others need
    not have it.
    """

    @property
    def paced(self) -> bool:
        """Whether arrival times mean anything: false for a replay at full speed."""

    def read(self, timeout_s: float) -> Item:
        """The next item; waits no longer than `timeout_s`.

        Raises:
            RecordingError: what came can't be used.
            SourceLostError: the peer was away for longer than `reconnect_s`.
        """

    def close(self) -> None:
        """Takes nothing more from its peer and lets go of files, ports and threads.

        What has arrived by then is still given by `read`, without waiting, and then END. A source that acknowledges
        keeps what it needs for that until it is closed a second time, which comes after the last acknowledgement.
        """


class Counting(Protocol):
    """A source that says what it met."""

    @property
    def counters(self) -> Mapping[str, int]:
        """How often each thing happened so far: `bad_lines`, `duplicates`, `dropped_samples`, `reconnects`, ..."""


class Acknowledging(Protocol):
    """A source whose peer keeps what was not acknowledged, and gives it again."""

    def acknowledge(self, chunk: Chunk) -> None:
        """Says that this chunk is done with: every decision its samples take part in is in the journal."""
