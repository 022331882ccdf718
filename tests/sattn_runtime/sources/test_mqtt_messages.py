"""MQTT messages that are bad, or not what the contract says, over a real mosquitto."""

from __future__ import annotations

import pytest

from sattn_edge.errors import RecordingError
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Signal
from tests.helpers_data import make_contract
from tests.sattn_runtime.sources.helpers_mqtt import OPTIONS, chunks, let_go, message, numbers, quiet, take

pytest.importorskip("paho.mqtt.client")

WRONG = {
    "channels": ({"samples": [[1, 2, 3]]}, "messages have 3 channels without names; 2, as the contract: c0, c1"),
    "names": ({"samples": [[1, 2]], "channels": ["c0", "cl"]}, "channel 'c1' is missing; it has c0, cl"),
    "units": ({"samples": [[1, 2]], "channels": ["c0", "c1"], "units": ["g", "V"]}, "channel 'c1' is in V"),
    "units alone": ({"samples": [[1, 2]], "units": ["g", "V"]}, "channel 'c1' is in V"),
    "rate": ({"samples": [[1, 2]], "rate_hz": 100}, r"sampled at 100 Hz \(by its rate_hz\)"),
}


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
