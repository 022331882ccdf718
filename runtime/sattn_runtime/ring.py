"""From chunks of samples to windows, without copying a window.

Samples are written once into a linear buffer several windows long; a window is a view of it. When the buffer is
full the samples still needed move to its front, once in many windows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sattn_edge.errors import UsageError

# The buffer is this many windows or hops long, so that what is moved stays small beside what is written.
_ROOM = 8


class Ring:
    """Cuts a stream into windows of `window` samples, one every `hop` samples (hop may exceed the window).

    Counts at every moment: samples in = in windows or waiting for one (`kept`) + skipped between windows
    (hop > window) + dropped by a restart.
    """

    def __init__(self, window: int, hop: int, modal: int) -> None:
        for name, value in (("window", window), ("hop", hop), ("channels", modal)):
            if value < 1:
                raise UsageError(name, f"got {value}", "1 or more")
        self.window, self.hop, self.modal = window, hop, modal
        self._buffer = np.zeros((window + _ROOM * max(window, min(hop, window)), modal), np.float32)
        self._room = len(self._buffer)
        self.samples = 0
        self.skipped = 0
        self.dropped = 0
        self._start(0)

    def _start(self, at: int) -> None:
        """Lets the first window begin at sample `at`, the next one to come."""
        self._end = 0  # rows of the buffer in use
        self._next = at  # the sample at which the next window begins
        self._used = at  # samples below this one are in a window that was given out

    @property
    def needed_from(self) -> int:
        """Samples before this one are in windows, and no window to come needs them."""
        return min(self._next, self._used)

    @property
    def begun(self) -> NDArray[np.float32]:
        """What there is of the window to come: a view [n, modal] that holds until samples are taken."""
        return self._buffer[self._end - max(0, self.samples - self._next) : self._end]

    def go_on(self, used: int, skip: int) -> None:
        """Goes on from an earlier ring: the first samples were in a window already, or lie between two of them."""
        self._used, self._next = used, skip

    @property
    def waiting(self) -> int:
        """Samples that are in no window yet but may be."""
        return max(0, self.samples - max(self._used, self._next))

    @property
    def in_windows(self) -> int:
        """Samples that were in at least one window."""
        return self.samples - self.skipped - self.dropped - self.waiting

    def feed(self, samples: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Takes `[n, modal]`, yields (first sample, view `[window, modal]`) of every window that completes.

        A view holds until the next step of the iteration. Samples behind a window are taken in only when the
        iteration goes on, so exhaust it.
        """
        given, taken = len(samples), 0
        while taken < given:
            missing = self._next + self.window - self.samples  # until the next window is whole
            take = given - taken
            if missing > self.window:
                skip = min(missing - self.window, take)
                taken += skip
                self.samples += skip
                self.skipped += skip
                continue
            if missing < take:
                take = missing
            self._write(samples if take == given else samples[taken : taken + take], take)
            taken += take
            if take == missing:
                yield self._next, self._buffer[self._end - self.window : self._end]
                self._used = self._next + self.window
                self._next += self.hop

    def _write(self, rows: NDArray[np.float32], count: int) -> None:
        end = self._end + count
        if end > self._room:
            keep = min(self._end, self.window)
            self._buffer[:keep] = self._buffer[self._end - keep : self._end]
            self._end, end = keep, keep + count
        self._buffer[self._end : end] = rows
        self._end = end
        self.samples += count

    def restart(self) -> int:
        """Forgets what is waiting: the next window begins at the next sample. Returns how many were dropped."""
        dropped = self.waiting
        self.dropped += dropped
        self._start(self.samples)
        return dropped
