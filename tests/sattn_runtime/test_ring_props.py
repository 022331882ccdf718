from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import UsageError
from sattn_runtime import Ring

Signal = np.ndarray
sizes = st.integers(1, 12)
chunkings = st.lists(st.integers(0, 40), max_size=12)


def signal_of(n: int, modal: int) -> Signal:
    """Every value its own, so that no wrong window can look right."""
    return np.arange(n * modal, dtype=np.float32).reshape(n, modal)


def naive(signal: Signal, window: int, hop: int, start: int = 0) -> list[int]:
    """First samples of the windows, as a slice loop finds them."""
    found = []
    while start + window <= len(signal):
        found.append(start)
        start += hop
    return found


def in_naive(starts: list[int], window: int) -> int:
    """How many samples are in at least one of these windows."""
    return len({i for a in starts for i in range(a, a + window)})


@settings(deadline=None, max_examples=200)
@given(window=sizes, hop=st.integers(1, 30), modal=st.integers(1, 4), chunks=chunkings)
def test_any_chopping_gives_the_windows_of_a_slice_loop(window, hop, modal, chunks):
    signal, ring = signal_of(sum(chunks), modal), Ring(window, hop, modal)
    found, at = [], 0
    for size in chunks:
        for first, view in ring.feed(signal[at : at + size]):
            found.append(first)
            assert view.dtype == np.float32
            assert view.tobytes() == signal[first : first + window].tobytes()
            assert view.flags.c_contiguous
            assert np.shares_memory(view, ring._buffer)
        at += size
    assert found == naive(signal, window, hop)
    assert ring.samples == len(signal)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), window=sizes, hop=st.integers(1, 30), chunks=chunkings)
def test_every_sample_is_accounted_for_at_every_moment(data, window, hop, chunks):
    ring = Ring(window, hop, 1)
    stretch, begin, fed, used, dropped = 0, 0, 0, 0, 0
    for size in chunks:
        if data.draw(st.booleans(), label="restart"):
            before = ring.waiting
            assert ring.restart() == before
            used += in_naive(naive(signal_of(stretch, 1), window, hop), window)
            dropped += before
            stretch, begin = 0, fed
            assert ring.waiting == 0
        for first, view in ring.feed(signal_of(fed + size, 1)[fed:]):
            assert (first - begin) % hop == 0
            assert view[0, 0] == first
            assert ring.samples == ring.in_windows + ring.skipped + ring.dropped + ring.waiting
        fed += size
        stretch += size
        assert ring.samples == fed
        assert ring.dropped == dropped
        assert ring.in_windows == used + in_naive(naive(signal_of(stretch, 1), window, hop), window)
        assert min(ring.in_windows, ring.skipped, ring.dropped, ring.waiting) >= 0
        assert fed == ring.in_windows + ring.skipped + ring.dropped + ring.waiting


@settings(deadline=None, max_examples=100)
@given(window=sizes, hop=st.integers(1, 30), first=st.integers(0, 60), second=st.integers(0, 60))
def test_a_restart_begins_anew_at_the_next_sample(window, hop, first, second):
    signal, ring = signal_of(first + second, 2), Ring(window, hop, 2)
    list(ring.feed(signal[:first]))
    ring.restart()
    starts = []
    for start, view in ring.feed(signal[first:]):
        starts.append(start)
        np.testing.assert_array_equal(view, signal[start : start + window])
    assert starts == naive(signal, window, hop, first)


def test_the_loop_tells_a_window_that_is_off_by_one():
    """The control of the tests above."""
    signal, ring = signal_of(40, 1), Ring(8, 4, 1)
    views = {first: view.copy() for first, view in ring.feed(signal)}
    assert list(views) == naive(signal, 8, 4) != naive(signal, 8, 5)
    assert all(view.tobytes() != signal[a + 1 : a + 9].tobytes() for a, view in views.items())


def test_the_buffer_is_some_windows_long_however_much_comes():
    ring = Ring(100, 7, 6)
    size = ring._buffer.nbytes
    assert size == 100 * 9 * 6 * 4
    taken = sum(1 for _ in ring.feed(np.zeros((50_000, 6), np.float32)))
    assert taken == (50_000 - 100) // 7 + 1
    assert ring._buffer.nbytes == size


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((0, 1, 1), "window: got 0; 1 or more"),
        ((1, 0, 1), "hop: got 0; 1 or more"),
        ((1, 1, -2), "channels: got -2; 1 or more"),
    ],
)
def test_sizes_below_one_are_refused(sizes, text):
    with pytest.raises(UsageError, match=text):
        Ring(*sizes)
