"""What live sources share: a thread that reads the peer, and a bounded queue between it and the loop.

A source is a subclass with one method, run in a thread of its own:

    class MySource(LiveSource):
        def _read_peer(self) -> None:
            while self.wait_readable(self._socket):
                data = self._socket.recv(65536)
                self.give(Chunk(decode(data), monotonic_ns()))

Whatever that method raises is raised again by `read`, behind everything that came before it.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Mapping
from typing import Protocol

from sattn_runtime.sources.base import Chunk, Item, Signal, StreamStart

MOST_SAMPLES = 1 << 18  # on their way to the loop; 5 s of 50 kHz, and 9 MB of nine channels
_JOIN_S = 1.0


class HasFileno(Protocol):
    """A socket, a port, a file."""

    def fileno(self) -> int:
        """Its descriptor."""


class ItemQueue:
    """Items from one thread to another, bounded by the samples in it.

    Full, it lets the giver wait, or with `drop` loses the oldest chunks: how many samples that were is counted, and
    a StreamStart stands in their place, so that no window spans the hole.
    """

    def __init__(self, most_samples: int | None, *, drop: bool) -> None:
        self.dropped_samples = 0
        self._most, self._drop = most_samples, drop
        self._items: deque[Item | Exception] = deque()
        self._samples = 0
        self._hole = 0
        self._start: StreamStart | None = None  # the stream that the oldest chunk belongs to
        self._stopped = False
        self._changed = threading.Condition()

    def put(self, item: Item | Exception) -> None:
        """Takes an item. What was in hand when the queue is stopped is taken too, over the bound."""
        with self._changed:
            if isinstance(item, Chunk):
                self._make_room(len(item.samples))
                self._samples += len(item.samples)
            self._items.append(item)
            self._changed.notify_all()

    def _make_room(self, count: int) -> None:
        while self._most is not None and self._samples and self._samples + count > self._most and not self._stopped:
            if self._drop:
                self._lose_oldest()
            else:
                self._changed.wait()

    def _lose_oldest(self) -> None:
        item = self._items.popleft()
        if isinstance(item, StreamStart):
            self._start, self._hole = item, 0
        elif isinstance(item, Chunk):
            self._samples -= len(item.samples)
            self.dropped_samples += len(item.samples)
            self._hole += len(item.samples)

    def get(self, timeout_s: float) -> Item | Exception | None:
        """The oldest item; None where none came in time."""
        with self._changed:
            if not self._items:
                self._changed.wait_for(lambda: self._items, timeout_s)
            if not self._items:
                return None
            if self._hole and self._start is not None and not isinstance(self._items[0], StreamStart):
                return self._hole_marker(self._start)
            item = self._items.popleft()
            self._hole = 0
            if isinstance(item, Chunk):
                self._samples -= len(item.samples)
                self._changed.notify_all()
            elif isinstance(item, StreamStart):
                self._start = item
            return item

    def _hole_marker(self, start: StreamStart) -> StreamStart:
        note = f"{start.name}: {self._hole} samples came faster than they were taken and were dropped; a new stream"
        self._hole = 0
        return StreamStart(start.name, None, (note,))

    def stop(self) -> None:
        """Nobody waits for room any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class LiveSource(ABC):
    """A source with a peer. A subclass sets itself up, then calls `start`."""

    paced = True

    def __init__(self, name: str, *, most_samples: int | None = MOST_SAMPLES, drop: bool = False) -> None:
        self.name = name
        self.counted: Counter[str] = Counter()
        self._items = ItemQueue(most_samples, drop=drop)
        self._stopping = threading.Event()
        self._ended = self._read_last = False
        self._wake: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None

    @abstractmethod
    def _read_peer(self) -> None:
        """The thread: reads the peer until it ends or `stopping`, and calls `give`."""

    @property
    def stopping(self) -> bool:
        """Whether the source is closed."""
        return self._stopping.is_set()

    @property
    def counters(self) -> Mapping[str, int]:
        """What was met so far."""
        dropped = self._items.dropped_samples
        return {**self.counted, "dropped_samples": dropped} if dropped else dict(self.counted)

    def start(self) -> None:
        """Starts the thread."""
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name=f"sattn-{self.name}", daemon=True)
        self._thread.start()

    def give(self, item: Item | Exception) -> None:
        """Hands an item over to the loop."""
        self._items.put(item)

    def pause(self, seconds: float) -> bool:
        """Waits in the thread; False if the source was closed meanwhile."""
        return not self._stopping.wait(seconds)

    def wait_readable(self, what: HasFileno | int) -> bool:
        """Waits in the thread until there is something to read, or to learn; False once the source is closed.

        What lies ready when it is closed came before: it may be read, once.
        """
        if self._wake is None:
            raise RuntimeError("a source waits before it is started")
        poll = select.poll()
        poll.register(what, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll()]
        if not self.stopping:
            return True
        last, self._read_last = not self._read_last, True
        return last and any(descriptor != self._wake[0] for descriptor in ready)

    def _run(self) -> None:
        try:
            self._read_peer()
        except Exception as error:  # noqa: BLE001 - raised again by `read`; nobody else would hear of it
            self.give(error)
        self.give(Signal.END)

    def read(self, timeout_s: float) -> Item:
        """The next item, or NOTHING. Raises what the thread met, after all that came before it."""
        if self._ended:
            return Signal.END
        item = self._items.get(0 if self.stopping else timeout_s)
        if item is None:
            self._ended = self.stopping
            return Signal.END if self.stopping else Signal.NOTHING
        if isinstance(item, Exception):
            raise item
        self._ended = item is Signal.END
        return item

    def close(self) -> None:
        """Ends the thread and waits for it. What it had read by then is still given."""
        self._stopping.set()
        self._items.stop()
        if self._wake is None:
            return
        with contextlib.suppress(OSError):  # full means that it was woken before
            os.write(self._wake[1], b"\0")
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():  # it still waits at the pipe; closing that would hand it another's descriptor
                return
        for descriptor in self._wake:
            os.close(descriptor)
        self._wake = None
