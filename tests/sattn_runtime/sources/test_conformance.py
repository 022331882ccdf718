"""One suite for every source, each against its real peer: what the runtime relies on, whoever wrote it.

A new source is a new entry in `helpers_peers.PEERS`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.errors import RecordingError
from sattn_runtime.sources.base import Chunk, Item, Signal, Source, SourceOptions, StreamStart
from sattn_runtime.sources.live import LiveSource
from tests.helpers_data import ROOT
from tests.sattn_runtime.sources import plugin_udp
from tests.sattn_runtime.sources.helpers_peers import PEERS, Peer
from tests.sattn_runtime.sources.helpers_serial import wait_until

OPTIONS = SourceOptions(None, 16, 8, reconnect_s=5.0)
N = 120
PARTS = (1, 2, 30, 7, 80)
ENDLESS = [name for name, peer in PEERS.items() if peer.endless]
LIVE = [name for name, peer in PEERS.items() if not peer.beforehand]


def odd_numbers() -> np.ndarray:
    """float32 [N, 2]: any finite bits, the smallest and the largest, both zeros."""
    bits = np.random.default_rng(11).integers(0, 2**32, 8 * N, dtype=np.uint64).astype(np.uint32)
    drawn = bits.view(np.float32)
    special = np.float32([0.0, -0.0, 1e-45, -3.4028235e38, 0.1, 1 / 3])
    return np.concatenate([special, drawn[np.isfinite(drawn)]])[: 2 * N].reshape(N, 2)


SIGNAL = odd_numbers()


@pytest.fixture
def peer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Peer]:
    made = PEERS[request.param](tmp_path)
    yield made
    made.close()


every = pytest.mark.parametrize("peer", PEERS, indirect=True)
live = pytest.mark.parametrize("peer", LIVE, indirect=True)
endless = pytest.mark.parametrize("peer", ENDLESS, indirect=True)


def send_all(peer: Peer) -> list[tuple[int, int]]:
    """Sends SIGNAL in parts; (samples sent by then, time before the part was sent)."""
    sent, told = 0, []
    for count in PARTS:
        before_ns = time.monotonic_ns()
        peer.send(sent, SIGNAL[sent : sent + count])
        sent += count
        told.append((sent, before_ns))
    assert sent == N
    return told


def opened(peer: Peer, options: SourceOptions = OPTIONS) -> Source:
    """A source with SIGNAL on its way."""
    if peer.beforehand:
        peer.send(0, SIGNAL)
        return peer.open(options)
    source = peer.open(options)
    send_all(peer)
    return source


def wait_for_all(source: Source) -> None:
    """Until SIGNAL has arrived, and waits for whoever reads."""
    assert isinstance(source, LiveSource)
    wait_until("it is there", lambda: source._items._samples == N)


def chunks(items: list[Item]) -> list[Chunk]:
    return [item for item in items if isinstance(item, Chunk)]


def take(source: Source, count: int = N, wait_s: float = 10.0) -> list[Item]:
    """Everything but NOTHING, until so many samples came."""
    found: list[Item] = []
    deadline = time.monotonic() + wait_s
    while sum(len(chunk.samples) for chunk in chunks(found)) < count and time.monotonic() < deadline:
        item = source.read(0.2)
        if item is Signal.END:
            break
        if item is not Signal.NOTHING:
            found.append(item)
    return found


def rest(source: Source) -> list[Item]:
    """What a closed source still gives."""
    found: list[Item] = []
    while (item := source.read(0)) is not Signal.END:
        assert item is not Signal.NOTHING
        found.append(item)
    return found


def end(source: Source) -> None:
    source.close()
    rest(source)
    source.close()


def values(items: list[Item]) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in chunks(items)])


@every
def test_samples_bit_for_bit_in_order_and_by_name(peer):
    source = opened(peer)
    items = take(source)
    end(source)
    assert isinstance(items[0], StreamStart)
    assert sum(isinstance(item, StreamStart) for item in items) == 1
    for chunk in chunks(items):
        assert (chunk.samples.dtype, chunk.samples.ndim) == (np.float32, 2)
        assert len(chunk.samples)
    np.testing.assert_array_equal(values(items).view(np.uint32), np.ascontiguousarray(SIGNAL).view(np.uint32))


@every
def test_stamps_and_numbers_where_it_has_them(peer):
    source = opened(peer)
    items = take(source)
    end(source)
    for known, stamped, dtype in ((peer.stamped, "timestamp_s", np.float64), (peer.numbered, "sequence", np.int64)):
        found = [getattr(chunk, stamped) for chunk in chunks(items)]
        assert all((one is not None) == known for one in found)
        assert {one.dtype for one in found if known} <= {np.dtype(dtype)}
    if peer.stamped:
        stamps = np.concatenate([chunk.timestamp_s for chunk in chunks(items) if chunk.timestamp_s is not None])
        np.testing.assert_allclose(stamps, peer.stamps(0, N), rtol=0, atol=1e-3)
    if peer.numbered:
        numbers = np.concatenate([chunk.sequence for chunk in chunks(items) if chunk.sequence is not None])
        np.testing.assert_array_equal(numbers, np.arange(N))


@live
def test_arrivals_are_between_sending_and_reading_and_never_go_back(peer):
    source = peer.open(OPTIONS)
    told = send_all(peer)
    wait_for_all(source)  # the loop is busy; arrivals must not wait for it
    busy_until_ns = time.monotonic_ns()
    items = take(source)
    end(source)
    assert source.paced
    arrivals = [chunk.arrival_ns for chunk in chunks(items)]
    assert None not in arrivals
    assert arrivals == sorted(a for a in arrivals if a is not None)
    taken = 0
    for chunk, arrival_ns in zip(chunks(items), arrivals, strict=True):
        taken += len(chunk.samples)
        sent_ns = next(before_ns for sent, before_ns in told if sent >= taken)
        assert arrival_ns is not None
        assert sent_ns <= arrival_ns <= busy_until_ns
        assert chunk.period_ns >= 0


@live
def test_silence_is_nothing_within_the_time_given(peer):
    source = peer.open(OPTIONS)
    peer.send(0, SIGNAL[:1])
    take(source, 1)
    began = time.monotonic()
    assert [source.read(0.05) for _ in range(3)] == [Signal.NOTHING] * 3
    assert 0.14 < time.monotonic() - began < 2.0
    peer.send(1, SIGNAL[1:2])  # and it goes on
    assert len(values(take(source, 1))) == 1
    end(source)


@live
def test_a_silent_source_closes_at_once(peer):
    source = peer.open(OPTIONS)
    began = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - began < 1.5
    assert chunks(rest(source)) == []


@endless
def test_close_wakes_a_read(peer):
    source = peer.open(OPTIONS)
    peer.send(0, SIGNAL[:1])
    take(source, 1)
    found: list[Item] = []
    reader = threading.Thread(target=lambda: found.append(source.read(5.0)))
    reader.start()
    time.sleep(0.1)
    began = time.monotonic()
    source.close()
    reader.join(10)
    assert time.monotonic() - began < 2.0
    assert found == [Signal.END]
    source.close()


@live
def test_what_came_before_the_close_is_given(peer):
    source = opened(peer)
    wait_for_all(source)
    source.close()
    items = rest(source)
    assert len(values(items)) == N
    assert isinstance(items[0], StreamStart)
    source.close()


@every
def test_the_end_comes_once_and_stays(peer):
    source = opened(peer)
    take(source)
    if peer.endless:
        source.close()
    else:
        peer.finish()
    deadline = time.monotonic() + 5
    while source.read(0.1) is not Signal.END:
        assert time.monotonic() < deadline
    assert [source.read(0.01) for _ in range(3)] == [Signal.END] * 3
    source.close()


@every
def test_it_may_be_closed_early_and_twice(peer):
    source = opened(peer)
    source.close()
    source.close()


def held() -> tuple[int, int]:
    """Descriptors and threads of this process, those of libraries too."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208 - counted, not used


@every
def test_no_thread_and_no_descriptor_is_left(peer):
    if peer.beforehand:
        peer.send(0, SIGNAL)
    before = (10**9, 10**9)
    for cycle in range(3):
        source = peer.open(OPTIONS)
        if not peer.beforehand:
            peer.send(N * cycle, SIGNAL[:1])
        take(source, 1)
        end(source)
        del source
        if isinstance(peer, PEERS["stdin"]):
            peer.close()  # its pipe is the peer's own, and there is a new one each time
        deadline = time.monotonic() + 5
        while any(now > then for now, then in zip(held(), before, strict=True)) and time.monotonic() < deadline:
            time.sleep(0.02)
        after = held()
        if cycle:  # what a library keeps for good it takes in the first
            assert after <= before or all(now <= then for now, then in zip(after, before, strict=True))
        before = after
        assert not [t.name for t in threading.enumerate() if t.name.startswith("sattn-")]
    if isinstance(peer, PEERS["stdin"]):
        peer.open(OPTIONS).close()


def fails(peer: Peer) -> RecordingError:
    """The error it ends with, from opening or from reading, and then END."""
    source: Source | None = None
    try:
        source = opened(peer)
        take(source, N + 1, 3.0)
    except RecordingError as error:
        if source is not None:
            assert source.read(1) is Signal.END
            end(source)
        return error
    pytest.fail("nothing was refused")


NAMED = pytest.mark.parametrize("peer", [n for n, p in PEERS.items() if p.named], indirect=True)
RATED = pytest.mark.parametrize("peer", [n for n, p in PEERS.items() if p.rated], indirect=True)
# A CSV header has no units.
WITH_UNITS = [n for n, p in PEERS.items() if p.named and "csv" not in n and n != "stdin"]


@NAMED
def test_a_channel_is_missing(peer):
    peer.names = ["c1", "cO"]
    error = fails(peer)
    assert "channel 'c0' is missing" in str(error)
    assert error.exit_code == 3


@pytest.mark.parametrize("peer", WITH_UNITS, indirect=True)
def test_another_unit(peer):
    peer.units = ["deg/s", "g"]
    error = fails(peer)
    assert "channel 'c1' is in deg/s; the contract says rad/s" in str(error)
    assert error.exit_code == 3


@RATED
def test_another_rate(peer):
    peer.rate_hz = 100.0
    error = fails(peer)
    assert "sampled at 100 Hz" in str(error)
    assert error.exit_code == 3


def test_a_source_of_somebody_else_takes_under_40_lines():
    assert len(Path(plugin_udp.__file__).read_text().splitlines()) < 40
    assert issubclass(plugin_udp.UdpSource, LiveSource)


def test_the_page_shows_that_very_source():
    page = (ROOT / "docs" / "sources.md").read_text()
    code = Path(plugin_udp.__file__).read_text()
    assert code[code.index("class UdpSource") :].strip() in page
