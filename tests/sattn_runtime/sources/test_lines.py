"""Lines of text: headers, bad lines, cuts anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sattn_edge.errors import RecordingError
from sattn_runtime.sources.base import Chunk, StreamStart
from sattn_runtime.sources.lines import LineDecoder
from tests.sattn_runtime.sources.helpers_serial import CONTRACT, numbers, starts, values


@pytest.fixture
def lines() -> LineDecoder:
    return LineDecoder(CONTRACT, "port", "port")


def test_the_first_line_is_left_out_for_it_may_be_half(lines):
    items = lines.feed(b"3.5,1\n2,3\n4,5\n", 7)
    assert isinstance(items[0], StreamStart)
    assert values(items) == [[2, 3], [4, 5]]
    assert lines.counted == {"partial_lines": 1}
    assert [item.arrival_ns for item in items if isinstance(item, Chunk)] == [7]


def test_a_header_orders_the_columns_wherever_it_comes(lines):
    items = lines.feed(b"c1[g]\tnote\tc0 (g)\n2\t9\t1\n", 0)
    assert values(items) == [[1, 2]]
    assert items[0].notes == ("port: not in the contract and ignored: note",)  # type: ignore[union-attr]
    assert not lines.counted


def test_a_header_again_is_a_new_stream(lines):
    items = lines.feed(b"c0,c1\n1,2\n3,4\nboot v1.2\nc1,c0\n6,5\n", 0)
    assert [type(item).__name__ for item in items] == ["StreamStart", "Chunk", "StreamStart", "Chunk"]
    assert values(items) == [[1, 2], [3, 4], [5, 6]]
    assert lines.counted == {"bad_lines": 1, "restarts": 1}


def test_stamps_and_numbers_by_name(lines):
    items = lines.feed(b"seq,c0,timestamp_s,c1\n41,1,0.5,2\n42,3,0.52,4\n", 0)
    (chunk,) = (item for item in items if isinstance(item, Chunk))
    assert chunk.sequence is not None
    assert chunk.timestamp_s is not None
    assert (chunk.sequence.tolist(), chunk.timestamp_s.tolist()) == ([41, 42], [0.5, 0.52])
    assert chunk.sequence.dtype == np.int64


BAD_LINES = (b"1", b"1,2,3", b"x,1", b"1_0,2", b"1,", b"\xff\xfe,1", b"1;2")


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_line_is_counted_and_left_out(lines, bad):
    items = lines.feed(b"c0,c1\n1,2\n" + bad + b"\n# remark\n\n3,4\r\n", 0)
    assert values(items) == [[1, 2], [3, 4]]
    assert lines.counted == {"bad_lines": 1}


def test_nothing_but_noise_is_told(lines):
    with pytest.raises(RecordingError, match=r"port: 50 lines and no sample among them, the last one '1;2'; 2 numbers"):
        lines.feed(b"1;2\n" * 51, 0)


def test_noise_after_a_sample_is_only_counted(lines):
    lines.feed(b"c0,c1\n1,2\n" + b"1;2\n" * 500, 0)
    assert lines.counted == {"bad_lines": 500}


def test_a_unit_that_is_not_the_contracts(lines):
    with pytest.raises(RecordingError, match="port: channel 'c1' is in m/s2; the contract says g"):
        lines.feed(b"c0[g],c1[m/s2]\n", 0)


def test_a_header_that_lacks_a_channel(lines):
    with pytest.raises(RecordingError, match="port: channel 'c1' is missing; it has c0, cl, x"):
        lines.feed(b"c0,cl,x\n" + b"1,2,3\n" * 50, 0)


def test_a_rate_that_is_not_the_contracts(lines):
    text = "c0,c1,timestamp_s\n" + "".join(f"0,0,{i / 100}\n" for i in range(60))
    with pytest.raises(RecordingError, match=r"port: sampled at 100 Hz \(by its timestamp_s\)"):
        lines.feed(text.encode(), 0)
    LineDecoder(CONTRACT, "port", "port").feed(text.replace("timestamp_s", "other").encode(), 0)  # the control


@given(data=st.data())
def test_lines_may_be_cut_anywhere(data):
    text = b"9,9\n1,2\n3.25,-4e2\r\n\n#x\n5,nan\n"
    decoder, at, items = LineDecoder(CONTRACT, "port", "port"), 0, []
    while at < len(text):
        size = data.draw(st.integers(1, 9))
        items += decoder.feed(text[at : at + size], 0)
        at += size
    np.testing.assert_array_equal(values(items), [[1, 2], [3.25, -400], [5, np.nan]])


def test_the_header_holds_on_over_a_cable_that_was_out(lines):
    lines.feed(b"seq,c1,c0\n1,10,20\n2,1", 0)
    lines.reset()
    items = lines.feed(b"0,20\n7,10,20\n", 0)
    assert (values(items), numbers(items), starts(items)) == ([[20, 10]], [7], 1)
    assert lines.counted == {"partial_lines": 1}


OWN_THAT_ARE_NONE = (b"1e300,0", b"1.5,0", b"nan,0", b"inf,0", b"9007199254740992,0", b"1,1e300", b"1,nan", b"1,-inf")


@pytest.mark.parametrize("own", OWN_THAT_ARE_NONE)
def test_a_number_or_a_time_that_can_be_none_makes_a_bad_line(lines, own):
    items = lines.feed(b"seq,timestamp_s,c0,c1\n" + own + b",1,2\n9007199254740991,5,3,4\n", 0)
    assert (values(items), numbers(items)) == ([[3, 4]], [2**53 - 1])
    assert lines.counted == {"bad_lines": 1}


def test_a_value_beyond_float32_is_infinite(lines):
    items = lines.feed(b"c0,c1\n1e300,-1e39\n1,2\n", 0)
    assert values(items) == [[np.inf, -np.inf], [1, 2]]


def test_the_end_of_a_line_without_end_is_no_sample(lines):
    """It is cut like the first one, whatever comes before it in the same read."""
    items = lines.feed(b"c0,c1\n1,2\n" + b"1" * 70_000, 0) + lines.feed(b"5,6\n7,8\n", 0)
    assert values(items) == [[1, 2], [7, 8]]
    assert lines.counted == {"bad_lines": 1, "partial_lines": 1}
