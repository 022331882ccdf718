"""What both adapters share: the thread they belong to, and the list of what is to be given back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable

from sattn_edge.errors import UsageError
from sattn_runtime.cuda.errors import CudaError

Release = Callable[[], None]


class Owned:
    """Keeps, for everything that was made, how it is given back; in the order it was made."""

    def __init__(self) -> None:
        self._thread = threading.current_thread()
        self._live: dict[tuple[str, Hashable], Release] = {}
        self._closed = False

    def check_thread(self) -> None:
        """Raises UsageError in another thread than the one that opened the adapter, and after `close`."""
        here = threading.current_thread()
        if here is not self._thread:
            found = f"used by thread {here.name}; belongs to thread {self._thread.name}"
            raise UsageError("CUDA context", found, "open one engine in each thread")
        if self._closed:
            raise UsageError("CUDA context", "used after it was closed", "open a new one")

    def close(self) -> None:
        """Gives everything still allocated back, the last that was made first. A second time does nothing.

        An error of one thing is no reason to keep the others. None is raised: after a fault of the device every call
        fails, and whoever closes then wants to hear of the fault; what is left goes with the process.
        """
        if self._closed:
            return
        self.check_thread()
        with contextlib.suppress(CudaError):
            self._quiet()
        for key in reversed(self._live):
            with contextlib.suppress(CudaError):
                self._live[key]()
        self._live.clear()
        self._closed = True
        self._leave()

    def _quiet(self) -> None:
        """Waits until nothing runs any more that uses what is about to be given back."""

    def _leave(self) -> None:
        """Leaves the context, after everything else."""

    def _keep(self, kind: str, handle: Hashable, release: Release) -> None:
        self._live[kind, handle] = release

    def _handles(self, kind: str) -> list[Hashable]:
        return [handle for each, handle in self._live if each == kind]

    def _release(self, kind: str, handle: Hashable) -> None:
        """Gives one thing back.

        Raises:
            UsageError: in another thread.
            ValueError: it is not ours, or was given back already.
        """
        self.check_thread()
        release = self._live.pop((kind, handle), None)
        if release is None:
            raise ValueError(f"{kind} {handle} is not of this adapter, or was given back")
        release()


def version_text(number: int) -> str:
    """`12.6` for 12060, as CUDA counts."""
    return f"{number // 1000}.{number % 1000 // 10}"
