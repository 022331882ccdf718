"""MQTT against a real mosquitto: acknowledgement, redelivery, restarts of either side."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import RecordingError, SourceLostError, UnavailableError
from sattn_runtime.overload import QueuedSource
from sattn_runtime.sources import mqtt, open_source
from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions, StreamStart
from tests.helpers_data import make_contract
from tests.sattn_runtime.sources.helpers_mqtt import TOPIC, Broker, Publisher, SlowBroker
from tests.sattn_runtime.sources.helpers_serial import wait_until

pytest.importorskip("paho.mqtt.client")

CONTRACT = make_contract(("c0", "c1"), rate_hz=50.0, units=("g", "g"))
OPTIONS = SourceOptions(None, 8, 4, reconnect_s=10.0)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker")
    yield made
    made.stop()


@pytest.fixture
def publisher(broker: Broker) -> Iterator[Publisher]:
    made = Publisher(broker)
    yield made
    made.close()


@pytest.fixture
def opened(broker: Broker) -> Iterator[Callable[..., Any]]:
    sources: list[Any] = []

    def open_(query: str = "?client=test", options: SourceOptions = OPTIONS) -> Any:
        sources.append(open_source(broker.uri(query), CONTRACT, options))
        return sources[-1]

    yield open_
    for source in sources:
        source.close()
        source.close()


def message(seq: int | None, rows: int = 1) -> dict[str, Any]:
    first = 0 if seq is None else seq
    samples = [[first + i, -(first + i)] for i in range(rows)]
    return {"samples": samples} if seq is None else {"seq": seq, "t": seq / 50, "samples": samples}


def take(source: Any, samples: int, wait_s: float = 10.0) -> list[Item]:
    """Items until so many samples came, or no more do."""
    found: list[Item] = []
    deadline = time.monotonic() + wait_s
    while sum(len(i.samples) for i in found if isinstance(i, Chunk)) < samples and time.monotonic() < deadline:
        item = source.read(0.1)
        if item is Signal.END:
            break
        if item is not Signal.NOTHING:
            found.append(item)
    return found


def quiet(source: Any) -> None:
    assert source.read(0.5) is Signal.NOTHING


def chunks(items: list[Item]) -> list[Chunk]:
    return [item for item in items if isinstance(item, Chunk)]


def numbers(items: list[Item]) -> list[int]:
    return [int(n) for chunk in chunks(items) if chunk.sequence is not None for n in chunk.sequence]


def firsts(items: list[Item]) -> list[float]:
    return [float(v) for chunk in chunks(items) for v in chunk.samples[:, 0]]


def let_go(source: Any) -> None:
    """Ends a source as a kill would: nothing of what it holds is acknowledged."""
    source.close()
    source.close()


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


def test_bad_messages_are_counted_and_do_not_come_again(opened, publisher):
    source = opened()
    for bad in (
        "no json",
        '{"samples": []}',
        '{"samples": [[1, 2], [3]]}',
        '{"seq": -1, "samples": [[1, 2]]}',
        b"SAT1x",
        '{"x": ' + "[" * 100_000 + "]" * 100_000 + ', "samples": [[1, 2]]}',
        *(payload for payload, _ in WRONG.values()),
    ):
        publisher.send(bad)
    publisher.send(message(0))
    items = take(source, 1)
    assert numbers(items) == [0]
    assert source.counters == {"bad_messages": 6 + len(WRONG)}
    source.acknowledge(chunks(items)[0])
    let_go(source)
    quiet(opened())


def test_nothing_but_bad_messages(opened, publisher):
    source = opened()
    for _ in range(20):
        publisher.send("{}")
    with pytest.raises(
        RecordingError, match=r'20 messages and no good one among them, the last: .*; JSON with "samples"'
    ):
        take(source, 1)
    assert source.read(1) is Signal.END


WRONG = {
    "channels": ({"samples": [[1, 2, 3]]}, "messages have 3 channels without names; 2, as the contract: c0, c1"),
    "names": ({"samples": [[1, 2]], "channels": ["c0", "cl"]}, "channel 'c1' is missing; it has c0, cl"),
    "units": ({"samples": [[1, 2]], "channels": ["c0", "c1"], "units": ["g", "V"]}, "channel 'c1' is in V"),
    "units alone": ({"samples": [[1, 2]], "units": ["g", "V"]}, "channel 'c1' is in V"),
    "rate": ({"samples": [[1, 2]], "rate_hz": 100}, r"sampled at 100 Hz \(by its rate_hz\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_the_contract(opened, publisher, case):
    payload, text = WRONG[case]
    source = opened()
    for _ in range(20):
        publisher.send(payload)
    with pytest.raises(RecordingError, match=text) as caught:
        take(source, 1)
    assert caught.value.exit_code == 3
    assert source.read(1) is Signal.END


def test_a_rate_that_the_times_show(opened, publisher):
    source = opened()
    for i in range(12):
        publisher.send({"seq": 5 * i, "t": i * 0.05, "samples": [[0, 0]] * 5})
    with pytest.raises(RecordingError, match=r"sampled at 100 Hz \(by its t\)"):
        take(source, 60)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_t_that_never_increases_is_no_time(opened, publisher, rows):
    """A run that it ended would find the same message first when it is started again, and so would the next one."""
    source = opened()
    for seq in range(0, 100, rows):
        publisher.send({"seq": seq, "t": 7.0, "samples": [[seq + i, 0] for i in range(rows)]})
    items = chunks(take(source, 100))
    assert numbers(items) == list(range(100))  # all of them are of use, by their numbers
    useless = [chunk for chunk in items if chunk.timestamp_s is None]
    assert items[-len(useless) :] == useless
    assert source.counters == {"useless_times": len(useless)}
    # A block tells of its rate when the next one comes.
    assert (len(items) - len(useless)) * rows == 50


def test_a_rate_that_the_times_show_keeps_everything(opened, publisher):
    """It ends the run, and one with the right --resample takes all of it."""
    source = opened()
    for i in range(12):
        publisher.send({"seq": 5 * i, "t": i * 0.05, "samples": [[i, 0]] * 5})
    with pytest.raises(RecordingError, match=r"sampled at 100 Hz \(by its t\)"):
        take(source, 60)
    let_go(source)
    contract = make_contract(("c0", "c1"), rate_hz=100.0, units=("g", "g"))
    again = open_source(source._subject + "?client=test", contract, OPTIONS)
    try:
        assert numbers(take(again, 60)) == list(range(60))
    finally:
        let_go(again)


# ------------------------------------------------------------------ the broker itself


def test_a_broker_that_stays_away(broker, opened):
    source = opened("?client=test", SourceOptions(None, 8, 4, reconnect_s=0.3))
    quiet(source)
    broker.stop()
    text = (
        rf"mqtt://127.0.0.1:{broker.port}/site/imu: the connection was lost and did not come back; --reconnect-s 0\.3"
    )
    with pytest.raises(SourceLostError, match=text) as caught:
        take(source, 1)
    assert caught.value.exit_code == 8
    assert source.read(1) is Signal.END


def test_a_second_reader_of_the_same_name(opened):
    """Mosquitto 2.0.11 does not say why; each takes the session from the other, until one gives up."""
    options = SourceOptions(None, 8, 4, reconnect_s=2.0)
    first, second = opened("?client=test", options), opened("?client=test", options)
    failed: list[SourceLostError] = []
    deadline = time.monotonic() + 20
    while not failed and time.monotonic() < deadline:
        for source in (first, second):
            try:
                source.read(0.05)
            except SourceLostError as error:
                failed.append(error)
    (error,) = failed[:1]
    assert "the session 'test' is taken away, by another reader of that name it seems; one reader" in str(error)
    assert "?client=NAME" in str(error)


def test_a_broker_that_is_restarted_again_and_again(broker, opened, publisher):
    """No connection holds for long, as if another reader took the session; but it is not away for --reconnect-s."""
    source = opened("?client=test", SourceOptions(None, 8, 4, reconnect_s=600.0))
    for seq in range(6):
        publisher.send(message(seq))
        assert numbers(take(source, 1)) == [seq]
        publisher.flush()
        broker.stop()
        broker.start()
        wait_until("it is back", lambda at=seq: source.counters.get("reconnects") == at + 1)


def test_a_broker_that_says_that_the_session_was_taken(opened):
    source = opened()
    source._on_disconnect(None, None, None, SimpleNamespace(value=142), None)
    with pytest.raises(SourceLostError, match="the session 'test' is taken away"):
        source.read(1)


def test_nobody_there():
    with pytest.raises(
        UnavailableError, match=r"mqtt://127.0.0.1:1/t: can't be reached .*; a broker of MQTT 5"
    ) as caught:
        open_source("mqtt://127.0.0.1:1/t", CONTRACT, OPTIONS)
    assert caught.value.exit_code == 6


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[SlowBroker]:
    monkeypatch.setattr(mqtt, "_CONNECT_S", 0.1)
    made = SlowBroker(**getattr(request, "param", {}))
    yield made
    made.stop()


def test_a_broker_that_is_slow_to_answer_is_waited_for(slow, monkeypatch):
    """As one that has just been started, on a machine that has too."""
    source = open_source(slow.uri(), CONTRACT, OPTIONS)  # comes back, so that a stop is heard
    assert source.read(0.3) is Signal.NOTHING
    assert not source._ready.is_set()
    slow.answer()
    wait_until("it answers", lambda: source._ready.is_set())
    assert source.read(0.3) is Signal.NOTHING
    assert source.counters == {}
    let_go(source)


def test_a_broker_that_never_answers(slow):
    source = open_source(slow.uri(), CONTRACT, SourceOptions(None, 8, 4, reconnect_s=0.4))
    text = (
        rf"{slow.port}/site/imu: gave no answer within 0\.4 s \(--reconnect-s\); a broker of MQTT 5; see that it runs"
    )
    with pytest.raises(UnavailableError, match=text) as caught:
        take(source, 1)
    assert caught.value.exit_code == 6
    assert source.read(1) is Signal.END
    let_go(source)


REFUSES = r"refuses \(Not authorized\); a broker of MQTT 5"
PATIENT = SourceOptions(None, 8, 4, reconnect_s=600.0)


@pytest.mark.parametrize("slow", [{"refuse": True}], indirect=True)
def test_a_broker_that_refuses_is_not_asked_again(slow, monkeypatch):
    monkeypatch.setattr(mqtt, "_CONNECT_S", 30.0)
    slow.answer()
    with pytest.raises(UnavailableError, match=REFUSES):
        open_source(slow.uri(), CONTRACT, PATIENT)


@pytest.mark.parametrize("slow", [{"refuse": True}], indirect=True)
def test_a_broker_that_refuses_late_is_not_asked_again(slow):
    source = open_source(slow.uri(), CONTRACT, PATIENT)
    slow.answer()
    with pytest.raises(UnavailableError, match=REFUSES):
        take(source, 1, 20)
    let_go(source)


def test_a_broker_that_wants_a_password(tmp_path, monkeypatch):
    maker = shutil.which("mosquitto_passwd")
    if maker is None:
        pytest.skip("needs mosquitto_passwd")
    subprocess.run([maker, "-b", "-c", tmp_path / "users", "bob", "secret"], check=True, timeout=20)
    (tmp_path / "users").chmod(0o600)
    broker = Broker(tmp_path / "broker", f"password_file {tmp_path / 'users'}", anonymous=False)
    try:
        with pytest.raises(UnavailableError, match=r"refuses \(Not authorized\)"):
            open_source(broker.uri(), CONTRACT, OPTIONS)
        monkeypatch.setitem(os.environ, "SATTN_MQTT_PASSWORD", "secret")
        source = open_source(broker.uri().replace("//", "//bob@"), CONTRACT, OPTIONS)
        quiet(source)
        source.close()
    finally:
        broker.stop()
