"""Which numbered messages were taken before: what a broker gives again must not be counted twice."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What a message is."""

    NEW = "never seen"
    AGAIN = "taken before"
    RESTART = "of a numbering that began anew"


_STRAGGLERS = 256  # what a sender may give again by itself: most libraries have 20 messages on their way


class Numbering:
    """Remembers the messages taken last, by number and checksum.

    Args:
        memory: how many; more than a peer may give again.
        after: number of the last sample that an earlier run was done with.

    1. The same number and the same bytes: `AGAIN`.
    2. At or before `after`: `AGAIN`, where the broker says that it gave it before. Where it does not say so, only by
       up to 256 messages, and as long as fewer were taken since: a sender that counts from the start again while nobody
       reads looks the same.
    3. Other bytes under a known number, or a number older than what is remembered: a sender that counts from the start
       again, `RESTART`.
    4. Everything else is `NEW`, what comes late too.
    """

    def __init__(self, memory: int, after: int | None = None) -> None:
        self._memory, self._after = memory, after
        self._seen: dict[tuple[int, int], None] = {}  # of every numbering
        self._present: dict[int, None] = {}  # of the present one
        self._forgotten = -1

    def judge(self, seq: int, count: int, checksum: int, *, repeated: bool = False) -> Verdict:
        """What this message of `count` samples is; it is remembered. `repeated`: the broker gave it before."""
        if (seq, checksum) in self._seen:
            return Verdict.AGAIN
        old = self._after is not None and seq + count - 1 <= self._after
        reach = self._memory if repeated else min(self._memory, _STRAGGLERS)
        if old and self._after is not None and seq >= self._after - reach * count:
            self._see(seq, checksum)
            return Verdict.AGAIN
        restarted = old or seq in self._present or seq <= self._forgotten
        if restarted:
            self._present, self._forgotten, self._after = {}, -1, None
        self._remember(seq, checksum)
        return Verdict.RESTART if restarted else Verdict.NEW

    def already_done(self, seq: int) -> int:
        """How many samples at the beginning of a new message an earlier run was done with."""
        return 0 if self._after is None else max(0, self._after - seq + 1)

    def _remember(self, seq: int, checksum: int) -> None:
        self._see(seq, checksum)
        self._present[seq] = None
        if self._after is not None and len(self._present) > min(self._memory, _STRAGGLERS):
            self._forgotten, self._after = max(self._forgotten, self._after), None
        if len(self._present) > self._memory:
            oldest = next(iter(self._present))
            del self._present[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def _see(self, seq: int, checksum: int) -> None:
        self._seen[seq, checksum] = None
        if len(self._seen) > self._memory:
            del self._seen[next(iter(self._seen))]
