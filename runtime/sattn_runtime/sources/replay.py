"""Replay of recordings: `replay:rec.npz`, `replay:bundle.npz#NAME`, `replay:rec.csv`.

At a speed, samples come when their sensor would have sent them: the schedule is fixed when a recording starts, so a
loop that falls behind finds its samples waiting, and their wait is counted. Without a speed there is no schedule.
Gaps in `timestamp_s` are handed on but not waited out.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from time import monotonic_ns, sleep

import numpy as np

from sattn_edge.contract import Contract
from sattn_edge.recording import Recording, open_recordings
from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions, StreamStart

_NS = 1_000_000_000
_LONGEST_NS = 1 << 50  # 13 days from sample to sample: nobody waits for it, and sums of it are still exact
# At full speed a chunk is this many samples, or this many hops if that is less: few calls, and still little to
# wait for when asked to stop, since a chunk that was read is decided first.
_CHUNK = 1024
_CHUNK_HOPS = 32


class ReplaySource:
    """Recordings as streams, one behind the other."""

    rereadable = True

    def __init__(self, recordings: Iterator[Recording], rate_hz: float, options: SourceOptions) -> None:
        self._items = self._all(recordings)
        self._options = options
        self._period_ns = round(min(_NS / rate_hz / options.speed, _LONGEST_NS)) if options.speed else 0
        self._ahead: Item | None = None

    @property
    def paced(self) -> bool:
        """Whether samples come on a schedule."""
        return self._options.speed is not None

    def read(self, timeout_s: float) -> Item:
        """The next item once it is due; NOTHING where that is more than `timeout_s` away."""
        item = self._ahead if self._ahead is not None else next(self._items, Signal.END)
        self._ahead = None
        if isinstance(item, Chunk) and item.arrival_ns is not None:
            wait_ns = item.arrival_ns - monotonic_ns()
            if wait_ns > timeout_s * _NS:
                self._ahead = item
                sleep(timeout_s)
                return Signal.NOTHING
            if wait_ns > 0:
                sleep(wait_ns / _NS)
        return item

    def close(self) -> None:
        """Closes the recordings' file. What was not due has not arrived."""
        self._items.close()
        self._ahead = None

    def _all(self, recordings: Iterator[Recording]) -> Generator[Item, None, None]:
        for recording in recordings:
            yield StreamStart(recording.name, recording.labels, recording.notes)
            yield from self._chunks(recording, monotonic_ns())

    def _chunks(self, recording: Recording, start_ns: int) -> Iterator[Chunk]:
        """Paced chunks end where windows end, as if every sample were taken when it came."""
        samples, stamps, numbers = recording.samples, recording.timestamp_s, recording.sequence
        window, hop = self._options.window, self._options.hop
        most = min(_CHUNK, _CHUNK_HOPS * hop)
        size, first = (hop, (window - 1) % hop + 1) if self.paced else (most, most)
        begin, end = 0, min(first, len(samples))
        finite = bool(np.isfinite(samples).all())
        while begin < len(samples):
            stamp = None if stamps is None else stamps[begin:end]
            due_ns = start_ns + end * self._period_ns if self.paced else None
            number = None if numbers is None else numbers[begin:end]
            yield Chunk(samples[begin:end], due_ns, self._period_ns, stamp, finite, number)
            begin, end = end, min(end + size, len(samples))


def open_source(rest: str, contract: Contract, options: SourceOptions) -> ReplaySource:
    """Opens PATH or PATH#NAME. The first recording is read, and its errors raised, at the first `read`."""
    return ReplaySource(open_recordings(rest, contract), contract.rate_hz, options)
