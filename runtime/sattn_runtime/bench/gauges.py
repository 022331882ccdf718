"""What changes on a device while a benchmark runs: the files that tell it, read by a thread of their own.

The files are opened once and read by `pread`, which lets go of Python's lock; what they said is kept as bytes and
understood when the run is over. So a reading holds the measured thread up for some microseconds at most.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic_ns
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from sattn_runtime.doctor.tree import Tree

INTERVAL_S = 0.25
_MOST_BYTES = 256


@dataclass(frozen=True)
class Gauge:
    """A file that holds one number. kind: `cpu`, `gpu` (MHz), `temperature` (C), `volt`, `ampere`, `watt`, `cooling`.

    scale: what its number is multiplied with.
    """

    kind: str
    name: str
    path: str
    scale: float


@dataclass(eq=False)
class Track:
    """What the gauges said: at_ns int64 [n] monotonic, values float64 [n, gauges], NaN where nothing was told."""

    gauges: tuple[Gauge, ...] = ()
    at_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    values: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def of_kind(self, kind: str) -> dict[str, NDArray[np.float64]]:
        """Name -> values [n] of the gauges of a kind that ever told anything."""
        columns = {g.name: self.values[:, i] for i, g in enumerate(self.gauges) if g.kind == kind}
        return {name: column for name, column in columns.items() if np.isfinite(column).any()}


class Sampler:
    """Reads gauges every `interval_s` in a thread, as a context manager; a sample at the start and one at the end.

    Args:
        tree: where the files lie.
        gauges: what to read. A file that can't be opened tells nothing.
    """

    def __init__(self, tree: Tree, gauges: Sequence[Gauge], interval_s: float = INTERVAL_S) -> None:
        self._gauges = tuple(gauges)
        self._handles = [_open(tree, gauge.path) for gauge in gauges]
        self._interval_s = interval_s
        self._rows: list[tuple[int, list[bytes]]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sattn-bench-gauges", daemon=True)

    def __enter__(self) -> Sampler:
        self._sample()
        if any(handle is not None for handle in self._handles):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        self._sample()
        for handle in self._handles:
            if handle is not None:
                os.close(handle)

    def _run(self) -> None:
        while not self._end.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        self._rows.append((monotonic_ns(), [_read(handle) for handle in self._handles]))

    def track(self) -> Track:
        """Everything that was read so far."""
        rows = list(self._rows)
        at_ns = np.array([at for at, _ in rows], np.int64)
        values = [[_number(text) * g.scale for text, g in zip(said, self._gauges, strict=True)] for _, said in rows]
        return Track(self._gauges, at_ns, np.array(values, np.float64).reshape(len(rows), len(self._gauges)))


def _open(tree: Tree, path: str) -> int | None:
    """A handle on a regular file, None where there is none. It does not block: a pipe would be waited for."""
    try:
        handle = os.open(tree.host_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    return None


def _read(handle: int | None) -> bytes:
    """What a file says now; nothing where it can't tell at the moment, as a sensor of a part that is off."""
    if handle is not None:
        with contextlib.suppress(OSError):
            return os.pread(handle, _MOST_BYTES, 0)
    return b""


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
