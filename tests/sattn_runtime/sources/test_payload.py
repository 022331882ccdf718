"""Messages with samples: both forms say the same, and what is none is told from what does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sattn_edge.errors import RecordingError
from sattn_runtime.sources.payload import PayloadDecoder, PayloadError, encode_binary
from tests.helpers_data import make_contract

CONTRACT = make_contract(("c0", "c1"), rate_hz=50.0, units=("g", ""))
TABLES = hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(2)), elements=st.floats(width=32))


def decoder() -> PayloadDecoder:
    return PayloadDecoder(CONTRACT, "here")


@given(TABLES, st.none() | st.integers(0, 2**62), st.none() | st.floats(-1e10, 1e10))
def test_binary_is_what_was_encoded(samples, seq, time_s):
    found = decoder().decode(encode_binary(samples, seq, time_s))
    np.testing.assert_array_equal(found.samples.view(np.uint32), samples.view(np.uint32))
    assert (found.seq, found.time_s) == (seq, time_s)


@given(TABLES, st.none() | st.integers(0, 2**62), st.none() | st.floats(-1e10, 1e10))
def test_json_says_the_same(samples, seq, time_s):
    rows = [[None if np.isnan(v) else v for v in row] for row in samples.tolist()]
    text = json.dumps({"seq": seq, "t": time_s, "samples": rows}).replace("Infinity", "1e39")  # JSON has none
    found = decoder().decode(text.encode())
    np.testing.assert_array_equal(found.samples, samples)
    assert (found.seq, found.time_s) == (seq, time_s)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"SAT1" + b))
def test_any_bytes_are_a_message_or_refused_as_one_of_ours(data):
    try:
        found = decoder().decode(data)
    except (PayloadError, RecordingError):
        return
    assert found.samples.shape[1] == 2


NONE = {
    "nothing": b"",
    "an array": b"[[1, 2]]",
    "no samples": b"{}",
    "empty": b'{"samples": []}',
    "empty rows": b'{"samples": [[], []]}',
    "ragged": b'{"samples": [[1, 2], [3]]}',
    "words": b'{"samples": [["a", 2]]}',
    "a number below 0": b'{"seq": -1, "samples": [[1, 2]]}',
    "half a number": b'{"seq": 1.5, "samples": [[1, 2]]}',
    "a number too large": b'{"seq": 9223372036854775807, "samples": [[1, 2]]}',
    "milliseconds": b'{"t": 1.8e12, "samples": [[1, 2]]}',
    "names": b'{"channels": ["c0"], "samples": [[1, 2]]}',
    "units": b'{"channels": ["c0", "c1"], "units": ["g"], "samples": [[1, 2]]}',
    "no text": b"\xff\xfe{}",
    "a short head": b"SAT1\x02\x00",
    "a short body": encode_binary(np.zeros((2, 2), np.float32))[:-1],
    "a long body": encode_binary(np.zeros((2, 2), np.float32)) + b"\0",
    "no rows": encode_binary(np.zeros((0, 2), np.float32)),
    "no channels": encode_binary(np.zeros((2, 0), np.float32)),
}


@pytest.mark.parametrize("case", NONE)
def test_what_is_no_message(case):
    with pytest.raises(PayloadError):
        decoder().decode(NONE[case])


def test_another_number_of_channels_is_no_accident():
    text = "here: messages have 3 channels without names; 2, as the contract: c0, c1; send these, or name them in"
    for data in (encode_binary(np.zeros((2, 3), np.float32)), b'{"samples": [[1, 2, 3]]}'):
        with pytest.raises(RecordingError, match=text):
            decoder().decode(data)


def test_names_may_change_and_others_are_told():
    made = decoder()
    first = made.decode(b'{"channels": ["c1", "x", "c0"], "samples": [[1, 2, 3]]}')
    assert (first.samples.tolist(), made.notes) == ([[3, 1]], ("here: not in the contract and ignored: x",))
    second = made.decode(b'{"channels": ["c0", "c1"], "units": ["g", "m"], "samples": [[1, 2]]}')
    assert second.samples.tolist() == [[1, 2]]
