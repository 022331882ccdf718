"""Frames: numbering, damage, names, and the C header's place."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sattn_edge.errors import RecordingError
from sattn_runtime.sources.base import Chunk
from sattn_runtime.sources.frames import HEADER_FILE, FrameDecoder
from tests.helpers_run import run_code
from tests.sattn_runtime.sources.helpers_serial import (
    CONTRACT,
    frame,
    names_frame,
    numbers,
    sample_frame,
    starts,
    stuff,
    values,
)


@pytest.fixture
def frames() -> FrameDecoder:
    pytest.importorskip("cobs")
    return FrameDecoder(CONTRACT, "port", "port")


def ramp(n: int, first: int = 0) -> np.ndarray:
    return np.arange(2 * first, 2 * (first + n), dtype=np.float32).reshape(n, 2)


@given(st.binary(max_size=700) | st.builds(lambda n, b: bytes([b]) * n, st.integers(250, 520), st.integers(0, 1)))
def test_the_tests_own_coder_is_cobs(data):
    cobs = pytest.importorskip("cobs.cobs")
    assert cobs.decode(stuff(data)) == data
    assert 0 not in stuff(data)


def test_frames_of_many_samples(frames):
    items = frames.feed(sample_frame(ramp(3), 100, 5_000_000) + sample_frame(ramp(2, 3), 103, 5_060_000), 9)
    assert values(items) == ramp(5).tolist()
    assert numbers(items) == [100, 101, 102, 103, 104]
    stamps = [item.timestamp_s for item in items if isinstance(item, Chunk) and item.timestamp_s is not None]
    np.testing.assert_allclose(np.concatenate(stamps), 5 + np.arange(5) / 50, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_frames_may_come_in_pieces(frames, size):
    data = b"".join(sample_frame(ramp(5, first), first, 20_000 * first) for first in range(0, 50, 5))
    items = [item for at in range(0, len(data), size) for item in frames.feed(data[at : at + size], 0)]
    assert values(items) == ramp(50).tolist()
    assert frames.counted == {}


def test_what_waits_for_a_zero_is_not_copied_with_every_byte(frames):
    """Else a peer that sends none costs the square of what it sends. A buffer that grows is copied now and then."""
    frames.feed(b"\1" * 900_000, 0)
    copied = 0
    tracemalloc.start()
    try:
        for _ in range(200):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            frames.feed(b"\1" * 32, 0)
            copied += tracemalloc.get_traced_memory()[1] - before > 100_000
    finally:
        tracemalloc.stop()
    assert copied <= 2
    assert frames.feed(b"\0" + sample_frame(ramp(1), 7, 0), 0)
    assert frames.counted == {"partial_frames": 1}


def test_numbers_and_times_wrap(frames):
    top = 2**32
    items = frames.feed(sample_frame(ramp(2), top - 2, top - 40_000), 0) + frames.feed(sample_frame(ramp(1), 0, 0), 0)
    assert numbers(items) == [top - 2, top - 1, top]
    assert starts(items) == 1
    last = items[-1]
    assert isinstance(last, Chunk)
    assert last.timestamp_s is not None
    assert last.timestamp_s[0] == pytest.approx(top / 1e6)


def test_a_lost_frame_is_a_hole_in_the_numbers(frames):
    items = frames.feed(sample_frame(ramp(1), 7, 0) + sample_frame(ramp(1), 9, 40_000), 0)
    assert (numbers(items), starts(items)) == ([7, 9], 1)


def test_numbers_that_go_back_are_a_new_stream(frames):
    items = frames.feed(sample_frame(ramp(1), 7, 900_000) + sample_frame(ramp(1), 0, 100), 0)
    assert (numbers(items), starts(items)) == ([7, 0], 2)
    assert frames.counted == {"restarts": 1}


def flip(data: bytes, at: int) -> bytes:
    """One bit is wrong, and no zero comes of it."""
    return data[:at] + bytes([data[at] ^ (2 if data[at] != 2 else 4)]) + data[at + 1 :]


@pytest.mark.parametrize("at", range(2, 25))
def test_no_wrong_bit_gets_through(frames, at):
    good = sample_frame(np.float32([[1.5, -2.5]]), 7, 1)
    assert len(good) > 26
    items = frames.feed(good + flip(good, at) + good.replace(b"\0", b"", 1), 0)
    assert values(items)[0] == [1.5, -2.5]
    assert {tuple(row) for row in values(items)} == {(1.5, -2.5)}
    assert frames.counted["bad_frames"] == 1


def test_half_a_frame_at_the_beginning_is_no_bad_one(frames):
    good = sample_frame(ramp(1), 7, 1)
    frames.feed(good[9:] + good, 0)
    assert frames.counted == {"partial_frames": 1}


def test_names_order_the_channels(frames):
    items = frames.feed(names_frame("c1[g],x,c0", 50.0) + sample_frame(np.float32([[2, 9, 1]]), 0, 0), 0)
    assert values(items) == [[1, 2]]
    assert items[0].notes == ("port: not in the contract and ignored: x",)  # type: ignore[union-attr]


def test_names_that_come_late_and_say_otherwise_begin_a_new_stream(frames):
    data = sample_frame(ramp(1), 0, 0) + names_frame("c1,c0") + sample_frame(ramp(1), 1, 20_000)
    items = frames.feed(data + names_frame("c1,c0") + sample_frame(ramp(1), 2, 40_000), 0)
    assert values(items) == [[0, 1], [1, 0], [1, 0]]
    assert starts(items) == 2


WRONG = {
    "channels": (sample_frame(np.zeros((1, 3), np.float32), 0, 0), "port: frames have 3 channels; 2"),
    "names": (names_frame("c0,c2"), "port: channel 'c1' is missing"),
    "unit": (names_frame("c0[g],c1[V]"), "port: channel 'c1' is in V; the contract says g"),
    "rate": (names_frame("c0,c1", 100.0), "port: sampled at 100 Hz .by its frame of names"),
    "stamps": (
        b"".join(sample_frame(ramp(5), 5 * i, 50_000 * i) for i in range(12)),
        "port: sampled at 100 Hz .by its time stamps",
    ),
    "noise": (b"\x05abcd\0" * 52, "port: 50 frames and no good one among them"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_frame_can_get_wrong(frames, case):
    data, text = WRONG[case]
    with pytest.raises(RecordingError, match=text) as caught:
        frames.feed(data, 0)
    assert caught.value.exit_code == 3


def test_the_right_rate_is_the_control(frames):
    assert len(values(frames.feed(b"".join(sample_frame(ramp(5), 5 * i, 100_000 * i) for i in range(12)), 0))) == 60


def test_a_frame_of_another_kind_is_bad(frames):
    frames.feed(frame(9, 2, 1, 0, bytes(4), bytes(8)) + frame(1, 2, 2, 0, bytes(4), bytes(8)), 0)
    assert frames.counted == {"bad_frames": 2}


def test_the_header_is_where_the_module_says():
    assert run_code("import runpy; runpy.run_module('sattn_runtime.sources.frames', run_name='__main__')") == (
        f"{HEADER_FILE}\n"
    )
    assert HEADER_FILE.read_text().startswith("/* Frames for")


def test_names_hold_on_over_a_cable_that_was_out(frames):
    frames.feed(names_frame("c1,x,c0") + sample_frame(np.float32([[2, 9, 1]]), 0, 0), 0)
    frames.reset()
    items = frames.feed(sample_frame(np.float32([[4, 9, 3]]), 1, 20_000), 0)
    assert (values(items), starts(items)) == ([[3, 4]], 1)
