"""LSL with an outlet in another process: gaps, senders that go and come back, what does not fit."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import RecordingError, SourceLostError, UnavailableError, UsageError
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions, StreamStart
from tests.helpers_data import make_contract
from tests.sattn_runtime.sources.helpers_lsl import Outlet

pylsl = pytest.importorskip("pylsl", exc_type=(ImportError, RuntimeError))
from sattn_runtime.sources.lsl import Clock

CONTRACT = make_contract(("c0", "c1"), rate_hz=50.0, units=("g", "g"))
_count = itertools.count()


@pytest.fixture
def outlet() -> Iterator[Callable[..., Outlet]]:
    made: list[Outlet] = []

    def make(name: str = "", **what: Any) -> Outlet:
        made.append(Outlet(name or f"lsl-{os.getpid()}-{next(_count)}", **what))
        return made[-1]

    yield make
    for one in made:
        one.close()


def opened(name: str, reconnect_s: float = 15.0) -> Any:
    return open_source(f"lsl:name={name}", CONTRACT, SourceOptions(None, 8, 4, reconnect_s))


def take(source: Any, samples: int, wait_s: float = 10.0) -> list[Item]:
    found: list[Item] = []
    deadline = time.monotonic() + wait_s
    while sum(len(i.samples) for i in found if isinstance(i, Chunk)) < samples and time.monotonic() < deadline:
        item = source.read(0.1)
        if item is not Signal.NOTHING:
            found.append(item)
    return found


def values(items: list[Item]) -> list[list[float]]:
    return [row for item in items if isinstance(item, Chunk) for row in item.samples.tolist()]


def stamps(items: list[Item]) -> np.ndarray:
    return np.concatenate([i.timestamp_s for i in items if isinstance(i, Chunk) and i.timestamp_s is not None])


def test_a_gap_is_ours_to_find(outlet):
    one = outlet()
    source = opened(one.name)
    now = time.monotonic()
    times = now + np.array([0, 1, 2, 6, 7, 9, 10.4]) / 50
    one.push([[0, i] for i in range(7)], times.tolist())
    items = take(source, 7)
    source.close()
    assert [row[0] for row in values(items)] == list(range(7))
    np.testing.assert_allclose(np.diff(stamps(items)), np.diff(times), rtol=0, atol=1e-6)
    assert source.counters == {"gaps": 2, "missed_samples": 4}


def test_stamps_are_on_this_machines_clock(outlet):
    one = outlet()
    source = opened(one.name)
    before = time.monotonic()
    one.push([[1, 2]], [0.0])  # the library stamps it
    (stamp,) = stamps(take(source, 1))
    assert before - 0.01 < stamp < time.monotonic() + 0.01
    source.close()


def test_a_sender_that_comes_back_is_a_new_stream(outlet):
    one = outlet()
    source = opened(one.name)
    one.push([[1, 2]], [time.monotonic()])
    before = take(source, 1)
    one.close()
    assert source.read(0.5) is Signal.NOTHING
    again = outlet(one.name, labels=["c0", "c1"])  # and it has its channels the other way round
    deadline = time.monotonic() + 15
    while source.counters.get("reconnects") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again.push([[3, 4]], [time.monotonic()])
    after = take(source, 1)
    source.close()
    assert (values(before), values(after)) == ([[2, 1]], [[3, 4]])
    assert isinstance(after[0], StreamStart)


def test_a_sender_that_stays_away(outlet):
    one = outlet()
    source = opened(one.name, reconnect_s=0.5)
    one.push([[1, 2]], [time.monotonic()])
    take(source, 1)
    one.close()
    text = rf"lsl stream '{one.name}': was lost and did not come back; --reconnect-s 0\.5"
    with pytest.raises(SourceLostError, match=text) as caught:
        take(source, 1, 20)
    assert caught.value.exit_code == 8
    assert source.read(1) is Signal.END
    source.close()


def test_no_labels_and_no_rate(outlet):
    one = outlet(labels=[], channels=["", ""], rate_hz=0.0)
    source = opened(one.name)
    one.push([[1, 2]], [time.monotonic()])
    start, chunk = take(source, 1)
    source.close()
    assert values([chunk]) == [[1, 2]]
    assert isinstance(start, StreamStart)
    assert start.notes == (f"lsl stream '{one.name}': says nothing of its rate; the contract's is taken for it",)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "rate": ({"rate_hz": 100.0}, "sampled at 100 Hz .by its nominal rate"),
    "units": ({"units": ["g", "V"]}, "channel 'c0' is in V; the contract says g"),
    "names": ({"labels": ["c1", "cO"]}, "channel 'c0' is missing"),
    "channels": ({"labels": [], "channels": ["", "", ""]}, "has 3 channels without labels; 2, or labels"),
    "text": ({"format": 3}, "has text; numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_the_contract(outlet, case):
    what, text = WRONG[case]
    with pytest.raises(RecordingError, match=text):
        opened(outlet(**what).name)


def test_whole_numbers_are_samples_too(outlet):
    one = outlet(format=5)
    source = opened(one.name)
    one.push([[-5, 7]], [time.monotonic()])
    assert values(take(source, 1)) == [[7, -5]]
    source.close()


def test_nobody_there(monkeypatch):
    monkeypatch.setattr("sattn_runtime.sources.lsl._FIND_S", 0.3)
    with pytest.raises(UnavailableError, match=r"lsl:name='nobody': no stream answered within 0\.3 s") as caught:
        opened("nobody")
    assert caught.value.exit_code == 6


def failing(error: str) -> Callable[..., float]:
    def time_correction(*_: object) -> float:
        raise getattr(pylsl.util, error)("says the library")

    return time_correction


@pytest.mark.parametrize("error", ["LostError", "TimeoutError"])
def test_a_sender_that_goes_while_it_is_connected_to(outlet, monkeypatch, error):
    one = outlet()
    monkeypatch.setattr(pylsl.StreamInlet, "time_correction", failing(error))
    text = rf"lsl stream '{one.name}': answered, and could not be read \(says the library\)"
    with pytest.raises(UnavailableError, match=text) as caught:
        opened(one.name)
    assert caught.value.exit_code == 6


def test_no_sample_is_lost_with_a_measurement_of_the_clock(outlet, monkeypatch):
    one = outlet()
    source = opened(one.name)
    monkeypatch.setattr(Clock, "due", lambda *_: True)
    monkeypatch.setattr(pylsl.StreamInlet, "time_correction", failing("TimeoutError"))
    one.push([[1, 2], [3, 4]], [time.monotonic(), time.monotonic() + 0.02])
    items = take(source, 2)
    source.close()
    assert values(items) == [[2, 1], [4, 3]]
    assert source.counters == {}


def test_a_value_beyond_float32_is_infinite(outlet):
    one = outlet(format=2)  # float64
    source = opened(one.name)
    one.push([[1e300, 2]], [time.monotonic()])
    assert values(take(source, 1)) == [[2, np.inf]]
    source.close()


REFUSED = {
    "": "says not which stream; lsl:name=IMU",
    "nane=x": "unknown option 'nane'; did you mean 'name'",
    "IMU": "'IMU' is no list of options",
    "name=it's": "has a quote in it's",
}


@pytest.mark.parametrize("rest", REFUSED)
def test_what_is_refused(rest):
    with pytest.raises(UsageError, match=REFUSED[rest]):
        open_source(f"lsl:{rest}", CONTRACT, SourceOptions(None, 8, 4))


def test_no_correction_of_the_clock_looks_like_a_gap():
    clock = Clock(1.0, 0.0)
    assert (clock.due(4.9), clock.due(5.0)) == (False, True)
    clock.follow(2.0, 5.0)
    assert clock.offset_s == pytest.approx(1.005)
    clock.follow(1.0051, 10.0)
    assert clock.offset_s == pytest.approx(1.0051)  # and a small one is taken whole
    clock.follow(-3.0, 20.0)
    assert clock.offset_s == pytest.approx(0.9951)
