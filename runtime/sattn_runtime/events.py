"""What happens in a stream beside its windows: gaps, and everything else that a person should hear of.

| kind | says |
|---|---|
| duplicate, late | so many samples were dropped: they had come already, or their gap had been declared |
| reordered | so many samples came behind later ones and were put in their place |
| jitter | the stamps are not those of single samples; holes shorter than `seconds` can't be told |
| no_time | so many stamps were none (NaN, infinite); they were taken from those around them |
| frozen, frozen_over | the source's clock stands still, since `count` samples; it goes on, after so many |
| drift, drift_over | the period that stamps show is off by `value` ppm, and is near the contract's again |
| overload | so many samples were dropped by a full queue |
| input_bad, input_good | what is wrong with `channel`, and that it is over |
| state_start, state_end | a label began to hold, and ended |
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

# Those whose `seconds` are the time of `sample` in the stream.
STATES = ("state_start", "state_end")
# What a run has not fetched yet, and what `gaps` remembers: a month of a bad link must not fill the memory.
_MOST = 4096


@dataclass(frozen=True, slots=True)
class Gap:
    """A hole in the stream: it lies before `sample` and cost `dropped` waiting samples.

    seconds: from the last sample before it to the first behind it, None where nothing tells; below 0 where the clock
        was set back.
    missing: how many samples lie in it, None where nothing tells.
    cause: gap; restart, where the source began to count anew; overload, where a full queue dropped them; clock, where
        the source's clock was set, or jumped without samples missing.
    filled: so many were made up, and windows go on across it.
    sequence: the source's own number of the first sample behind it, where it numbers them.
    """

    sample: int
    seconds: float | None
    dropped: int
    missing: int | None = None
    cause: str = "gap"
    filled: int = 0
    sequence: int | None = None


@dataclass(slots=True)
class Event:
    """Something that happened at `sample`. The fields that a kind does not use are None; see the module."""

    kind: str
    sample: int = 0
    count: int | None = None
    seconds: float | None = None
    value: float | None = None
    channel: str | None = None
    label: str | None = None
    detail: str | None = None


News = Gap | Event


class EventLog:
    """Counts of everything by kind, the last gaps, and the news that nobody has fetched yet."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.gaps: deque[Gap] = deque(maxlen=_MOST)
        self.missing = 0  # samples, over all gaps of known length
        self._news: deque[News] = deque(maxlen=_MOST)

    def add(self, news: News) -> None:
        """Counts it and keeps it for `fetch`."""
        self._news.append(news)
        if isinstance(news, Gap):
            self.counts["gap"] += 1
            if news.cause != "gap":
                self.counts[f"gap_{news.cause}"] += 1
            self.missing += news.missing or 0
            self.gaps.append(news)
        else:
            self.counts[news.kind] += 1

    @property
    def waiting(self) -> bool:
        """Whether there is anything to fetch."""
        return bool(self._news)

    def fetch(self) -> list[News]:
        """What happened since the last call, in its order."""
        found = list(self._news)
        self._news.clear()
        return found
