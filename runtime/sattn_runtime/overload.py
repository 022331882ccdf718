"""A bounded queue between a source and the loop, for loops that can't always keep up.

A thread reads the source; what the loop has not taken waits here, up to a number of samples. Beyond it the oldest or
the newest chunks are dropped, whole ones, their samples counted, and `Lost` stands where they would have been: the
stream breaks there and is never glued. A source whose peer can wait (a file, a pipe) is better left without.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sattn_edge.errors import UsageError, did_you_mean
from sattn_runtime.sources.base import Chunk, Item, Signal, Source

OLDEST, NEWEST = OVERLOAD_POLICIES = ("oldest", "newest")
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Lost:
    """So many samples were dropped here."""

    samples: int


def check_queue(samples: int, policy: str) -> None:
    """Raises UsageError for what can't be."""
    if samples < 1:
        raise UsageError("--queue", f"got {samples}", "a number of samples, 1 or more")
    if policy not in OVERLOAD_POLICIES:
        raise UsageError("--overload", f"got '{policy}'", did_you_mean(policy, OVERLOAD_POLICIES))


class OverloadQueue:
    """Items in order, at most `samples` samples of them. Safe between two threads.

    One chunk is always taken, however long. Starts of streams, signals and errors are never dropped.
    """

    def __init__(self, samples: int, policy: str, on_drop: Callable[[Chunk], None] | None = None) -> None:
        check_queue(samples, policy)
        self._on_drop = on_drop or (lambda _: None)
        self.dropped = 0
        self.most = 0  # the most samples that ever waited
        self._limit, self._policy = samples, policy
        self._items: deque[Item | Lost | Exception] = deque()
        self._waiting = 0
        self._changed = threading.Condition()

    def put(self, item: Item | Exception) -> None:
        """Takes an item, and makes room for it or drops it."""
        with self._changed:
            if isinstance(item, Chunk):
                self._put_chunk(item)
            else:
                self._items.append(item)
            self._changed.notify()

    def _put_chunk(self, chunk: Chunk) -> None:
        count = len(chunk.samples)
        if self._policy == NEWEST and self._waiting and self._waiting + count > self._limit:
            self._lose_last(count)
            self._on_drop(chunk)
            return
        while self._waiting and self._waiting + count > self._limit:
            self._drop_oldest()
        self._items.append(chunk)
        self._waiting += count
        self.most = max(self.most, self._waiting)

    def _lose_last(self, count: int) -> None:
        self.dropped += count
        last = self._items[-1]
        if isinstance(last, Lost):
            self._items[-1] = Lost(last.samples + count)
        else:
            self._items.append(Lost(count))

    def _drop_oldest(self) -> None:
        """The first chunk becomes a loss, or part of the one before or behind it."""
        items = self._items
        at = next(i for i, item in enumerate(items) if isinstance(item, Chunk))
        chunk = items[at]
        assert isinstance(chunk, Chunk)  # noqa: S101 - that is what was looked for
        self._on_drop(chunk)
        count = len(chunk.samples)
        self._waiting -= count
        self.dropped += count
        before = items[at - 1] if at else None
        if isinstance(before, Lost):
            items[at - 1] = Lost(before.samples + count)
            del items[at]
        else:
            items[at] = Lost(count)

    def get(self, timeout_s: float) -> Item | Lost:
        """The next item, or NOTHING. Raises what the source raised, in its place."""
        with self._changed:
            if not self._items:
                self._changed.wait(timeout_s)
            if not self._items:
                return Signal.NOTHING
            item = self._items.popleft()
            if isinstance(item, Chunk):
                self._waiting -= len(item.samples)
        if isinstance(item, Exception):
            raise item
        return item


class QueuedSource:
    """A source read by a thread of its own through an `OverloadQueue`."""

    def __init__(self, source: Source, samples: int, policy: str) -> None:
        acknowledge: Callable[[Chunk], None] | None = getattr(source, "acknowledge", None)
        if acknowledge is not None:
            self.acknowledge = acknowledge
        # What was dropped by the user's wish must not come again.
        self.queue = OverloadQueue(samples, policy, acknowledge)
        self._source = source
        self._ended = False
        self._thread = threading.Thread(target=self._read_all, name="sattn-queue", daemon=True)
        self._thread.start()

    @property
    def paced(self) -> bool:
        """Whether the source's arrival times mean anything."""
        return self._source.paced

    @property
    def patience_s(self) -> float:
        """That of the source."""
        return float(getattr(self._source, "patience_s", 0.0))

    @property
    def only_stream(self) -> str | None:
        """That of the source."""
        found: str | None = getattr(self._source, "only_stream", None)
        return found

    @property
    def counters(self) -> Mapping[str, int]:
        """Those of the source."""
        found: Mapping[str, int] = getattr(self._source, "counters", {})
        return found

    def read(self, timeout_s: float) -> Item | Lost:
        """The next item, or NOTHING; errors of the source in their place, after all before them."""
        if self._ended:
            return Signal.END
        item = self.queue.get(timeout_s)
        self._ended = item is Signal.END
        return item

    def close(self) -> None:
        """Closes the source; what it has by then is still given."""
        self._source.close()

    def _read_all(self) -> None:
        """The thread. Whatever ends it is handed over: nobody else would hear of it."""
        item: Item | None = None
        try:
            while item is not Signal.END:
                item = self._source.read(_POLL_S)
                if item is not Signal.NOTHING:
                    self.queue.put(item)
        except Exception as error:  # noqa: BLE001 - raised again by `read`
            self.queue.put(error)
            self.queue.put(Signal.END)
