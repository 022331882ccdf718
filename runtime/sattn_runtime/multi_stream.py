"""Several streams that share an engine, for programs of one's own; `sattn-run` does so with several sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from sattn_edge.engine import Engine
from sattn_runtime.batch import Batch, BatchedStream, fastest_batch
from sattn_runtime.decision import Decision
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stream import Stream
from sattn_runtime.stream_options import StreamOptions


class MultiStream:
    """Streams by name, on one engine, in one thread. No window waits for a chunk that has not come.

    Args:
        engine: shared by all of them.
        hop, options, statistics: as for each `Stream`.
        batch: at most so many windows in one inference; measured on this machine if None.
    """

    def __init__(
        self,
        engine: Engine,
        hop: int | None = None,
        options: StreamOptions | None = None,
        statistics: Mapping[str, Any] | None = None,
        batch: int | None = None,
    ) -> None:
        self._batch = Batch(engine, fastest_batch(engine) if batch is None else batch)
        self.batch = self._batch.size
        self.streams: dict[str, Stream] = {}
        self._hop, self._options, self._statistics = hop, options or StreamOptions(), statistics
        self._decided: list[tuple[str, Decision]] = []

    def process(self, chunks: Iterable[tuple[str, Chunk]]) -> list[tuple[str, Decision]]:
        """Takes chunks by the name of their stream, a new one with its first; returns what they complete.

        Raises:
            UsageError: a chunk of another shape. Those before it are taken, and decided with the next call.
        """
        for name, chunk in chunks:
            for _ in self._stream(name).process(chunk):
                raise RuntimeError("a batched stream decided on its own")
        return self._decide()

    def _stream(self, name: str) -> Stream:
        if name not in self.streams:
            deliver = partial(self._take, name)
            self.streams[name] = BatchedStream(self._batch, self._hop, self._options, self._statistics, deliver)
        return self.streams[name]

    def _take(self, name: str, decision: Decision) -> None:
        self._decided.append((name, decision))

    def _decide(self) -> list[tuple[str, Decision]]:
        self._batch.run()
        decided, self._decided = self._decided, []
        return decided

    def finish(self) -> list[tuple[str, Decision]]:
        """All streams end."""
        for stream in self.streams.values():
            for _ in stream.finish():
                raise RuntimeError("a batched stream decided on its own")
        return self._decide()
