"""What a source is: it is read for items until it ends, then closed.

    StreamStart, Chunk, Chunk, ..., StreamStart, Chunk, ..., END

A new StreamStart means a new stream: nothing before it shares a window with anything after it.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    finite: the source has looked, and no value is NaN or Inf; otherwise the stream looks.
    """

    samples: NDArray[np.float32]
    arrival_ns: int | None
    period_ns: int = 0
    timestamp_s: NDArray[np.float64] | None = None
    finite: bool = False


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
    """

    speed: float | None
    window: int
    hop: int


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
        """

    def close(self) -> None:
        """Takes nothing more from its peer and lets go of files, ports and threads.

        What has arrived by then is still given by `read`, without waiting, and then END.
        """
