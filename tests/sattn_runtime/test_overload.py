from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import RecordingError, UsageError
from sattn_runtime import Stream
from sattn_runtime.overload import Lost, OverloadQueue, QueuedSource
from sattn_runtime.sources.base import Chunk, Item, Signal, StreamStart
from sattn_runtime.testing import FakeEngine, ListSource
from tests.helpers_data import make_contract
from tests.helpers_run import Cli
from tests.sattn_runtime.helpers_numbered import numbered

WINDOW = 8


def chunk_of(first: int, count: int) -> Chunk:
    numbers = np.arange(first, first + count, dtype=np.float32)
    return Chunk(np.stack([numbers, -numbers], axis=1), None)


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=60),
    limit=st.integers(1, 30),
    policy=st.sampled_from(["oldest", "newest"]),
)
def test_every_sample_is_taken_or_counted_and_no_window_is_glued(steps, limit, policy):
    queue, sent, taken = OverloadQueue(limit, policy), 0, []
    engine = FakeEngine(make_contract(window=WINDOW, hop=3), record=True)
    stream = Stream(engine)

    def take() -> None:
        item = queue.get(0)
        if isinstance(item, Lost):
            stream.lost(item.samples)
        elif isinstance(item, Chunk):
            list(stream.process(item))
            taken.extend(item.samples[:, 0].tolist())

    for put, count in steps:
        if put:
            queue.put(chunk_of(sent, count))
            sent += count
        else:
            take()
    for _ in range(len(steps) + 1):
        take()
    assert len(taken) + queue.dropped == sent == stream.samples["in"]
    assert stream.samples["overload"] == queue.dropped
    assert sum(v for k, v in stream.samples.items() if k != "in") == sent
    for window in engine.windows:
        assert (np.diff(window[:, 0]) == 1).all()
    # What is missing among the samples taken is told as gaps of just that length; what was lost last is not yet one.
    holes = [int(b - a - 1) for a, b in zip([-1.0, *taken], taken, strict=False) if b - a != 1]
    assert [gap.missing for gap in stream.gaps] == holes
    assert {gap.cause for gap in stream.gaps} <= {"overload"}


def fill(policy: str, chunks: int, limit: int = 10) -> list:
    queue = OverloadQueue(limit, policy)
    for at in range(chunks):
        queue.put(chunk_of(5 * at, 5))
    found = [queue.get(0) for _ in range(5)]
    return [f if not isinstance(f, Chunk) else int(f.samples[0, 0]) for f in found if f is not Signal.NOTHING]


def test_the_oldest_are_dropped_or_the_newest():
    assert fill("oldest", 4) == [Lost(10), 10, 15]
    assert fill("newest", 4) == [0, 5, Lost(10)]
    assert fill("oldest", 2) == fill("newest", 2) == [0, 5]
    assert fill("oldest", 2, limit=1) == [Lost(5), 5]


def test_starts_of_streams_are_never_dropped():
    queue = OverloadQueue(5, "oldest")
    for name in "ab":
        queue.put(StreamStart(name))
        queue.put(chunk_of(0, 5))
    queue.put(Signal.END)
    kinds = [type(queue.get(0)).__name__ for _ in range(5)]
    assert kinds == ["StreamStart", "Lost", "StreamStart", "Chunk", "Signal"]


def test_an_error_comes_in_its_place():
    source = QueuedSource(
        ListSource([StreamStart("s"), chunk_of(0, 5), RecordingError("line 7", "is torn")]), 50, "oldest"
    )
    assert isinstance(source.read(5), StreamStart)
    assert isinstance(source.read(5), Chunk)
    with pytest.raises(RecordingError, match="line 7: is torn"):
        source.read(5)
    assert source.read(5) is Signal.END
    assert source.read(5) is Signal.END


class Flood:
    """A source that never waits, until told to end."""

    paced = True

    def __init__(self, chunks: int) -> None:
        self.sent, self._chunks = 0, chunks
        self.over = threading.Event()

    def read(self, timeout_s: float):
        if self.sent == 0:
            self.sent = 1
            return StreamStart("flood")
        if self.sent > self._chunks:
            self.over.set()
            return Signal.END
        self.sent += 1
        return chunk_of(10 * (self.sent - 2), 10)

    def close(self) -> None:
        self._chunks = 0


@pytest.mark.parametrize("policy", ["oldest", "newest"])
def test_a_slow_consumer_loses_what_is_counted_and_recovers(policy):
    flood = Flood(200)
    source = QueuedSource(flood, 100, policy)
    stream = Stream(FakeEngine(make_contract(window=WINDOW, hop=WINDOW)))
    assert isinstance(source.read(5), StreamStart)
    assert flood.over.wait(10)  # all of it has come before anything is taken
    got = lost = 0
    while (item := source.read(5)) is not Signal.END:
        if isinstance(item, Lost):
            stream.lost(item.samples)
            lost += item.samples
        elif isinstance(item, Chunk):
            list(stream.process(item))
            got += len(item.samples)
    assert got + lost == 2000
    assert lost == source.queue.dropped == stream.overload
    assert got == 100 == source.queue.most
    assert stream.windows == 100 // WINDOW
    assert stream.log.counts["overload"] >= 1


def test_a_closed_source_ends_its_thread():
    flood = Flood(10**9)
    source = QueuedSource(flood, 20, "oldest")
    source.close()
    until = time.monotonic() + 10
    while source.read(0.1) is not Signal.END:
        assert time.monotonic() < until
    source._thread.join(10)
    assert not source._thread.is_alive()


@pytest.mark.parametrize(
    ("args", "text"),
    [((0, "oldest"), "--queue: got 0"), ((5, "odlest"), "--overload: got 'odlest'; did you mean 'oldest'")],
)
def test_what_can_not_be_is_refused(args, text):
    with pytest.raises(UsageError, match=text):
        OverloadQueue(*args)


def test_on_the_command_line(capfd, monkeypatch, tmp_path):
    from tests.helpers_model import save_model

    cli = Cli(capfd, monkeypatch)
    model = save_model(tmp_path)
    np.savez(tmp_path / "r.npz", signal=np.zeros((200, 2), np.float32), channels=["c0", "c1"])
    source = f"replay:{tmp_path / 'r.npz'}"
    done = cli("sattn-run", model, source, "--speed", "20", "--queue", "500", "--json")
    assert done.code == 0
    assert done.json["samples"]["in"] == 200
    wrong = cli("sattn-run", model, source, "--queue", "0")
    assert (wrong.code, "--queue: got 0" in wrong.err) == (2, True)


def test_what_a_full_queue_drops_is_acknowledged():
    """It was the user's wish to lose it: it must not come again."""

    class Source(ListSource):
        def __init__(self, items: list[Item | Exception]) -> None:
            super().__init__(items)
            self.done: list[int] = []
            self.counters = {"bad_lines": 2}

        def acknowledge(self, chunk: Chunk) -> None:
            assert chunk.sequence is not None
            self.done.append(int(chunk.sequence[0]))

    source = Source([StreamStart("imu"), *(numbered(10 * i, 10) for i in range(6))])
    queued = QueuedSource(source, 20, "oldest")
    while queued.queue.dropped < 40:
        pass
    assert source.done == [0, 10, 20, 30]
    assert queued.counters == {"bad_lines": 2}
    assert callable(queued.acknowledge)
    assert not hasattr(QueuedSource(ListSource([]), 20, "oldest"), "acknowledge")
