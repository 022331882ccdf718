"""MQTT against a real mosquitto: acknowledgement, redelivery, numbers of senders, lost sessions."""

from __future__ import annotations

import numpy as np
import pytest

from sattn_runtime.overload import QueuedSource
from sattn_runtime.sources.base import Chunk, Signal, SourceOptions, StreamStart
from tests.sattn_runtime.sources.helpers_mqtt import TOPIC, chunks, firsts, let_go, message, numbers, quiet, take
from tests.sattn_runtime.sources.helpers_serial import wait_until

pytest.importorskip("paho.mqtt.client")


def test_numbers_times_and_rows(opened, publisher):
    source = opened()
    publisher.send(message(3, 2))
    publisher.send(message(5, 3))
    items = take(source, 5)
    assert (numbers(items), firsts(items)) == ([3, 4, 5, 6, 7], [3, 4, 5, 6, 7])
    stamps = np.concatenate([c.timestamp_s for c in chunks(items) if c.timestamp_s is not None])
    np.testing.assert_allclose(stamps, np.arange(3, 8) / 50, rtol=0, atol=1e-12)


def test_what_was_not_acknowledged_comes_again(opened, publisher):
    source = opened()
    for seq in range(6):
        publisher.send(message(seq))
    items = take(source, 6)
    for chunk in chunks(items)[:4]:
        source.acknowledge(chunk)
    let_go(source)
    publisher.send(message(6))
    publisher.flush()
    assert numbers(take(opened(), 3)) == [4, 5, 6]


def test_what_an_earlier_run_was_done_with_is_dropped_within_a_message_too(opened, publisher):
    source = opened()
    for seq in (0, 4, 8):
        publisher.send(message(seq, 4))
    take(source, 12)
    let_go(source)
    again = opened("?client=test", SourceOptions(None, 8, 4, after_sequence={TOPIC: 5}))
    items = take(again, 6)
    assert (numbers(items), firsts(items)) == ([6, 7, 8, 9, 10, 11], [6, 7, 8, 9, 10, 11])
    assert again.counters == {"duplicates": 1}


def part(broker, source) -> None:
    """Lets a source go, and waits until the broker has read what it said.

    A broker reads one packet of a connection at a time, and might take the next connection before them.
    """
    before = broker.partings
    source.close()
    wait_until("the broker has read it", lambda: broker.partings > before)


def test_what_is_drained_is_still_acknowledged(broker, opened, publisher):
    source = opened()
    for seq in range(5):
        publisher.send(message(seq))
    wait_until("it is there", lambda: len(source._held) == 5)
    source.close()
    while (item := source.read(0)) is not Signal.END:
        if isinstance(item, Chunk):
            source.acknowledge(item)
    part(broker, source)
    publisher.send(message(5))
    publisher.flush()
    assert numbers(take(opened(), 1)) == [5]


def test_what_a_thread_read_to_the_end_is_still_acknowledged(broker, opened, publisher):
    """With --queue the source is at its END long before the loop is done with what it gave."""
    source = opened()
    queued = QueuedSource(source, 1000, "oldest")
    for seq in range(5):
        publisher.send(message(seq))
    wait_until("it is there", lambda: len(source._held) == 5)
    queued.close()
    queued._thread.join(10)
    for chunk in chunks(take(queued, 5)):
        queued.acknowledge(chunk)
    part(broker, queued)
    publisher.send(message(5))
    publisher.flush()
    assert numbers(take(opened(), 1)) == [5]


def test_a_restarted_broker_gives_nothing_twice(broker, opened, publisher):
    source = opened()
    for seq in range(4):
        publisher.send(message(seq))
    before = take(source, 4)
    source.acknowledge(chunks(before)[0])
    publisher.flush()
    broker.stop()
    source.acknowledge(chunks(before)[1])  # nobody hears it
    broker.start()
    wait_until("it is back", lambda: source.counters.get("reconnects") == 1)
    publisher.send(message(4))
    assert numbers(take(source, 1)) == [4]
    wait_until("the rest came again", lambda: source.counters.get("duplicates") == 3)
    for chunk in chunks(before)[2:]:
        source.acknowledge(chunk)
    quiet(source)
    let_go(source)
    assert numbers(take(opened(), 1, 2.0)) == [4]  # so the others were acknowledged, on the new connection


def test_the_senders_own_repeats_are_dropped(opened, publisher):
    source = opened()
    for seq in (0, 1, 1, 0, 2):
        publisher.send(message(seq))
    items = take(source, 3)
    assert numbers(items) == [0, 1, 2]
    assert source.counters == {"duplicates": 2}
    for chunk in chunks(items):
        source.acknowledge(chunk)
    let_go(source)
    quiet(opened())  # the repeats were acknowledged with their first


def test_late_ones_are_given(opened, publisher):
    source = opened()
    for seq in (0, 2, 1, 3):
        publisher.send(message(seq))
    assert numbers(take(source, 4)) == [0, 2, 1, 3]
    assert source.counters == {}


def test_a_sender_that_counts_anew_is_a_new_stream(opened, publisher):
    source = opened()
    for seq in range(3):
        publisher.send(message(seq))
    publisher.send({"seq": 0, "t": 9.0, "samples": [[7, 7]]})
    items = take(source, 4)
    assert [type(i).__name__ for i in items] == ["StreamStart", *["Chunk"] * 3, "StreamStart", "Chunk"]
    assert source.counters == {"restarts": 1}


def test_without_numbers_it_says_at_least_once(broker, opened, publisher):
    source = opened()
    publisher.send(message(None))
    start, chunk = take(source, 1)
    assert isinstance(start, StreamStart)
    assert start.notes[-1].endswith("one may be taken twice after a lost connection (at least once)")
    assert isinstance(chunk, Chunk)
    assert chunk.sequence is None
    publisher.flush()
    broker.stop()
    broker.start()
    assert len(take(source, 1)) == 1  # and so it is


def test_a_session_that_is_lost_is_told(broker, opened, publisher):
    source = opened()
    publisher.send(message(None))
    take(source, 1)
    publisher.flush()
    broker.stop()
    broker.forget()
    broker.start()
    wait_until("it is back", lambda: source.counters.get("lost_sessions") == 1)
    publisher.send(message(None))
    items = take(source, 1)
    assert [type(i).__name__ for i in items] == ["StreamStart", "Chunk"]


def test_more_than_a_broker_usually_leaves_open(opened, publisher):
    """Mosquitto's own limit is 20; a window may need more messages than that before any is done with."""
    source = opened()
    for seq in range(300):
        publisher.send(message(seq))
    assert numbers(take(source, 300)) == list(range(300))


def test_an_old_retained_message_is_nobodys_sample(opened, publisher):
    publisher.send(message(9), retain=True)
    publisher.flush()
    source = opened()
    quiet(source)
    publisher.send(message(10))
    assert numbers(take(source, 1)) == [10]
