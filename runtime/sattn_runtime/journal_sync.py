"""Getting the journal onto the disk for good, at a stated interval and apart from the loop.

`fsync` waits for the medium, on an SD card for a second and more. So a thread does it: what a power cut can take is
what was written in the last `interval_s`, and no decision waits for the card. An interval of 0 syncs after every write,
on the writer's own thread, for those who would rather wait.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

# A stopping run may not hang on a slow card; the service manager kills after 2 s.
_CLOSE_S = 0.5


class Syncer:
    """Syncs one descriptor while it is in use, and the ones it is handed for good.

    `error` is what the last sync failed with, for the loop to tell; the thread tells nobody.
    """

    def __init__(self, descriptor: int, folder: Path, interval_s: float) -> None:
        self.interval_s = interval_s
        self.error: OSError | None = None
        self._descriptor, self._folder = descriptor, folder
        self._dirty = False
        self._retired: list[int] = []
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        if interval_s > 0:
            self._thread = threading.Thread(target=self._run, name="sattn-sync", daemon=True)
            self._thread.start()

    def wrote(self) -> None:
        """Something was written: the hot path's part of it."""
        self._dirty = True
        if self._thread is None:
            self._sync()

    def replace(self, descriptor: int) -> None:
        """Goes on with another file; the one before is synced and closed when its turn comes."""
        # No lock: the loop must not wait for a sync. The new one is in its place before the old one can be closed.
        before, self._descriptor = self._descriptor, descriptor
        self._retired.append(before)
        self.wrote()

    def close(self) -> bool:
        """The last sync; closes every descriptor. False where the disk took too long and was left to itself."""
        self._dirty = True
        self._ending.set()
        if self._thread is None:
            self._sync()
        else:
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                return False  # the kernel has the data; only a power cut could still take them
        os.close(self._descriptor)
        return True

    def _run(self) -> None:
        while not self._ending.wait(self.interval_s):
            self._sync()
        self._sync()

    def _sync(self) -> None:
        """Only ever on one thread, which alone closes what was retired."""
        retired = self._retired[:]
        del self._retired[: len(retired)]
        for descriptor in retired:
            self._sync_one(descriptor)
            os.close(descriptor)
        if retired:
            self._sync_folder()
        if self._dirty:
            self._dirty = False  # before the sync: a write during it counts for the next one
            self._sync_one(self._descriptor)

    def _sync_one(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError as error:
            self.error = error

    def _sync_folder(self) -> None:
        """Makes a rename itself durable. Some file systems can't, and then nobody can."""
        with contextlib.suppress(OSError):
            handle = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
