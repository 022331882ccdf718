"""Tells a source which of its chunks are done with, where its peer keeps them until then."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sattn_runtime.sources.base import Chunk

# More than this many wait for no window: after a kill one that spans more chunks is not given again whole.
_MOST_HELD = 8192


class Acknowledger:
    """Chunks that are decided on and not acknowledged, oldest first.

    What a window to come needs stays with the peer until that window is in the journal: after a kill it is given again
    from there.
    """

    def __init__(self, acknowledge: Callable[[Chunk], None]) -> None:
        self._acknowledge = acknowledge
        self._held: deque[tuple[int, Chunk]] = deque()  # each with the number of samples up to its end

    def took(self, chunk: Chunk, end: int, needed_from: int, *, written: bool) -> None:
        """A chunk was decided on. `end`: samples of the stream up to its end; those from `needed_from` on stay.

        `written`: whether the journal takes lines; while it does not, nothing is done with.
        """
        held = self._held
        held.append((end, chunk))
        while held and (len(held) > _MOST_HELD or (written and held[0][0] <= needed_from)):
            self._acknowledge(held.popleft()[1])

    def stream_ended(self) -> None:
        """No window will need what is left of a stream."""
        while self._held:
            self._acknowledge(self._held.popleft()[1])
