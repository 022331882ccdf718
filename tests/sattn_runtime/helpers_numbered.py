"""A source whose samples are numbered, run again and again on one journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions, StreamStart
from sattn_runtime.stop import Stop
from tests.helpers_engine import BACKEND
from tests.helpers_kill import KilledError
from tests.helpers_run import lines_of

WINDOW, HOP = 16, 4


def numbered(first: int, count: int) -> Chunk:
    return Chunk(np.ones((count, 2), np.float32), None, sequence=np.arange(first, first + count))


class Peer:
    """Keeps messages of some samples each until they are acknowledged, as a broker does."""

    def __init__(self, sizes: list[int], lost: set[int]) -> None:
        self.messages: dict[int, Chunk] = {}
        first = 0
        for i, size in enumerate(sizes):
            numbers = np.arange(first, first + size)
            values = np.stack([numbers % 7, numbers % 5], axis=1).astype(np.float32)
            if i not in lost:
                self.messages[first] = Chunk(values, None, sequence=numbers)
            first += size

    def open(self, options: SourceOptions, life: int | None) -> PeerSource:
        return PeerSource(self, options.after_sequence.get("imu"), life)


class PeerSource:
    """One connection: all that is not acknowledged, from the oldest on. Dies after `life` calls."""

    paced = True
    only_stream = "imu"

    def __init__(self, peer: Peer, after: int | None, life: int | None) -> None:
        self._peer, self._life = peer, life
        self._items: list[Item] = [StreamStart("imu")]
        self._first: dict[int, int] = {}
        for first, chunk in sorted(peer.messages.items()):
            assert chunk.sequence is not None
            skip = 0 if after is None else min(len(chunk.samples), max(0, after + 1 - first))
            if skip == len(chunk.samples):
                continue
            given = Chunk(chunk.samples[skip:], None, sequence=chunk.sequence[skip:])
            self._items.append(given)
            self._first[id(given)] = first

    def _live(self) -> None:
        if self._life is not None:
            self._life -= 1
            if self._life < 0:
                raise KilledError

    def read(self, timeout_s: float) -> Item:
        self._live()
        return self._items.pop(0) if self._items else Signal.END

    def acknowledge(self, chunk: Chunk) -> None:
        self._live()
        del self._peer.messages[self._first[id(chunk)]]

    def close(self) -> None:
        """Nothing to let go of."""


class Lives:
    """Runs on one peer, one behind the other."""

    def __init__(self, model: Path, journal: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self._options = RunOptions(str(model), "peer:", backend=BACKEND, journal=str(journal), resume=True, **options)
        self._peer, self._monkeypatch = peer, monkeypatch

    def run(self, life: int | None) -> RunResult | None:
        opened = lambda _uri, _contract, options: self._peer.open(options, life)  # noqa: E731
        self._monkeypatch.setattr("sattn_runtime.run.open_source", opened)
        try:
            return run(self._options, tell=lambda _: None, stop=Stop())
        except KilledError:
            return None


def content(journal: Path) -> list[dict[str, Any]]:
    """What was decided, without what differs from run to run."""
    return [
        {k: v for k, v in row.items() if k != "latency_us"}
        for row in lines_of(journal)
        if row["type"] in ("window", "gap")
    ]
