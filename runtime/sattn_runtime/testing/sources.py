"""A source without a sensor."""

from __future__ import annotations

from collections.abc import Iterable

from sattn_runtime.sources.base import Item, Signal


class ListSource:
    """A source that gives the items of a list, then END for ever. An exception in the list is raised."""

    def __init__(self, items: Iterable[Item | Exception], *, paced: bool = False) -> None:
        self._items = iter(items)
        self.paced = paced
        self.closed = False

    def read(self, timeout_s: float) -> Item:  # noqa: ARG002 - the contract of sources; nothing here is waited for
        """The next item, at once."""
        item = next(self._items, Signal.END)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Remembers that it was closed."""
        self.closed = True
