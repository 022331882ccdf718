"""The thread and the queue that live sources share: full queues, errors, ends."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import numpy as np
import pytest

from sattn_edge.errors import RecordingError, UsageError
from sattn_runtime.sources.base import Chunk, Item, Signal, StreamStart
from sattn_runtime.sources.live import ItemQueue, LiveSource
from sattn_runtime.sources.uri import parse_options, split_options, whole_number


def chunk(first: int, count: int) -> Chunk:
    return Chunk(np.arange(first, first + count, dtype=np.float32)[:, None], 0)


def drained(queue: ItemQueue) -> list[str | list[float]]:
    """Chunks as their values, starts as their names and notes."""
    found: list[str | list[float]] = []
    while (item := queue.get(0)) is not None:
        if isinstance(item, Chunk):
            found.append(item.samples[:, 0].tolist())
        elif isinstance(item, StreamStart):
            found.append(" ".join([item.name, *item.notes]))
        else:
            found.append(repr(item))
    return found


HOLE = "a: {} samples came faster than they were taken and were dropped; a new stream"


def test_the_oldest_are_dropped_and_a_new_stream_stands_in_their_place():
    queue = ItemQueue(10, drop=True)
    queue.put(StreamStart("a"))
    for first in range(0, 16, 4):
        queue.put(chunk(first, 4))
    assert drained(queue) == ["a " + HOLE.format(8), [8, 9, 10, 11], [12, 13, 14, 15]]
    assert queue.dropped_samples == 8


def test_the_stream_is_known_though_its_start_was_taken_long_before():
    queue = ItemQueue(4, drop=True)
    queue.put(StreamStart("a"))
    queue.put(chunk(0, 2))
    queue.get(0)
    queue.get(0)
    queue.put(chunk(2, 3))
    queue.put(chunk(5, 3))
    assert drained(queue) == ["a " + HOLE.format(3), [5, 6, 7]]
    queue.put(chunk(8, 2))
    assert drained(queue) == [[8, 9]]  # once


def test_a_stream_that_begins_behind_the_hole_needs_no_other_mark():
    queue = ItemQueue(4, drop=True)
    for item in (StreamStart("a"), chunk(0, 3), StreamStart("b"), chunk(3, 4)):
        queue.put(item)
    assert drained(queue) == ["b", [3, 4, 5, 6]]
    assert queue.dropped_samples == 3


def test_one_chunk_larger_than_the_queue_is_taken():
    queue = ItemQueue(4, drop=True)
    queue.put(StreamStart("a"))
    queue.put(chunk(0, 9))
    assert drained(queue) == ["a", [float(i) for i in range(9)]]


def test_without_dropping_the_giver_waits():
    queue, given = ItemQueue(4, drop=False), []

    def give() -> None:
        for first in (0, 3, 6):
            queue.put(chunk(first, 3))
            given.append(first)

    giver = threading.Thread(target=give)
    giver.start()
    time.sleep(0.1)
    assert given == [0]
    assert isinstance(queue.get(1), Chunk)
    time.sleep(0.1)
    assert given == [0, 3]
    queue.stop()  # and what is in hand is taken too
    giver.join(5)
    assert given == [0, 3, 6]
    assert drained(queue) == [[3, 4, 5], [6, 7, 8]]
    assert queue.dropped_samples == 0


class PipeSource(LiveSource):
    """A byte a sample; `x` is an error."""

    def __init__(self) -> None:
        super().__init__("pipe")
        self.read_end, self.write_end = os.pipe()
        self.start()

    def _read_peer(self) -> None:
        self.give(StreamStart(self.name))
        while self.wait_readable(self.read_end):
            data = os.read(self.read_end, 100)
            if b"x" in data:
                raise RecordingError("pipe", "has an x")
            self.give(Chunk(np.frombuffer(data, np.uint8).astype(np.float32)[:, None], 0))


@pytest.fixture
def source():
    made = PipeSource()
    yield made
    made.close()
    os.close(made.read_end)
    os.close(made.write_end)


def test_an_error_comes_behind_what_came_before_it_and_then_the_end(source):
    os.write(source.write_end, b"ab")
    items: list[Item] = [source.read(1), source.read(1)]
    os.write(source.write_end, b"x")
    with pytest.raises(RecordingError, match="pipe: has an x"):
        source.read(1)
    assert [type(item) for item in items] == [StreamStart, Chunk]
    assert [source.read(1), source.read(0)] == [Signal.END] * 2


def test_what_lay_in_the_pipe_when_it_was_closed_came_before(source):
    source.read(1)
    for _ in range(20):  # the thread may or may not have seen it
        os.write(source.write_end, b"a")
    source.close()
    count = 0
    while (item := source.read(0)) is not Signal.END:
        assert isinstance(item, Chunk)
        count += len(item.samples)
    assert count == 20


def test_a_source_that_never_stops_sending_still_closes(source):
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            with contextlib.suppress(BlockingIOError):  # full, once nobody reads any more
                os.write(source.write_end, b"a")

    os.set_blocking(source.write_end, False)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    time.sleep(0.1)
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 1.0
    stop.set()
    sender.join(5)
    assert not [t for t in threading.enumerate() if t.name == "sattn-pipe"]


# ------------------------------------------------------------------ options of a URI


def test_options_have_defaults_and_may_hold_anything():
    known = {"a": "1", "b": "2"}
    assert split_options("/dev/x?b=3%26+4", known, "s") == ("/dev/x", {"a": "1", "b": "3&+4"})
    assert parse_options("", known, "s") == known


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "", "11", "٣"])
def test_a_number_out_of_bounds(text):
    with pytest.raises(UsageError, match=r"s: n is '.*'; a whole number from 0 to 10"):
        whole_number(text, "n", "s", 0, 10)
    assert whole_number("10", "n", "s", 0, 10) == 10
