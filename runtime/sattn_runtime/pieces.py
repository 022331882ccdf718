"""What the sample clock makes of a chunk: pieces of consecutive samples, breaks between them, and events."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sattn_runtime.events import Event


@dataclass(slots=True, eq=False)
class Piece:
    """Samples float32 [n, modal] without a hole; `arrival_ns` and `period_ns` as in a chunk, of these samples.

    at: where they begin in the chunk at hand; None for samples of earlier ones, which were held back.
    number: the source's own of the first, where it numbers them.
    """

    samples: NDArray[np.float32]
    arrival_ns: int | None
    period_ns: int
    finite: bool
    at: int | None = None
    number: int | None = None


@dataclass(slots=True)
class Break:
    """What lies before the next piece did not come; the fields as in `events.Gap`."""

    seconds: float | None
    missing: int | None
    cause: str = "gap"


Step = Piece | Break | Event


@dataclass(slots=True, eq=False)
class Numbered:
    """A chunk's samples on the sample clock.

    numbers: int64 [n].
    breaks: index of a sample -> what lies before it and is no matter of numbers.
    derived: the numbers come from time stamps.
    before_s: the stamp of the sample before the chunk.
    ordered: the numbers are known to rise one by one.
    """

    numbers: NDArray[np.int64]
    breaks: dict[int, Break] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    derived: bool = False
    before_s: float | None = None
    ordered: bool = False
