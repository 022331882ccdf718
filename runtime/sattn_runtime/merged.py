"""Several sources read at once: a thread each, and one place where the loop waits for all of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from sattn_runtime.overload import Lost, QueuedSource
from sattn_runtime.sources.base import Item, Signal, Source

_POLL_S = 0.05
_JOIN_S = 0.5
# Items of one source that may wait here: a replay at full speed must not be read into memory, and a live source drops
# by its own rule once the loop is so far behind.
_MOST_REPLAYED, _MOST_LIVE = 4, 4096
_AT_ONCE = 64  # items for one turn of the loop, so that a stop is seen in between


class MergedSources:
    """Items of all sources, each with the number of its source, in the order they came."""

    def __init__(self, sources: Sequence[Source | QueuedSource]) -> None:
        self._sources = sources
        self._items: deque[tuple[int, Item | Lost | Exception]] = deque()
        self._waiting = [0] * len(sources)
        self._left = len(sources)
        self._closing = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._read_all, args=(number,), name=f"sattn-lane-{number}", daemon=True)
            for number in range(len(sources))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ended(self) -> bool:
        """Whether every source is at its end, and all of it was read."""
        return not self._left and not self._items

    def read(self, timeout_s: float) -> list[tuple[int, Item | Lost]]:
        """What came, at most some items of it; nothing where nothing came in time.

        Raises:
            What a source raised, once all that came before it was read.
        """
        with self._changed:
            if not self._items and self._left:
                self._changed.wait(timeout_s)
            found: list[tuple[int, Item | Lost]] = []
            while self._items and len(found) < _AT_ONCE:
                number, item = self._items[0]
                if isinstance(item, Exception):
                    if found:
                        break
                    self._items.popleft()
                    raise item
                self._items.popleft()
                self._waiting[number] -= 1
                found.append((number, item))
            self._changed.notify_all()
            return found

    def close(self) -> None:
        """Closes all sources; what they have by then is still given."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for source in self._sources:
            source.close()

    def join(self) -> None:
        """Waits for the threads, which end once their sources are closed and read out."""
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _read_all(self, number: int) -> None:
        """The thread of one source."""
        source = self._sources[number]
        most = _MOST_LIVE if source.paced else _MOST_REPLAYED
        try:
            while (item := source.read(_POLL_S)) is not Signal.END:
                if item is not Signal.NOTHING:
                    self._put(number, item, most)
        except Exception as error:  # noqa: BLE001 - raised again by `read`; nobody else would hear of it
            self._put(number, error, None)
        with self._changed:
            self._left -= 1
            self._changed.notify_all()

    def _put(self, number: int, item: Item | Lost | Exception, most: int | None) -> None:
        with self._changed:
            while most is not None and self._waiting[number] >= most and not self._closing:
                self._changed.wait()
            self._items.append((number, item))
            self._waiting[number] += 1
            self._changed.notify_all()
