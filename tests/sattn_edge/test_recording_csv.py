from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.errors import RecordingError
from sattn_edge.recording import CsvRows, Recording, is_data, open_recordings
from tests.helpers_data import make_contract

CONTRACT = make_contract(window=2)


def write(folder: Path, text: str) -> Path:
    path = folder / "rec.csv"
    path.write_bytes(text.encode())
    return path


def read(path: Path) -> Recording:
    (recording,) = open_recordings(str(path), CONTRACT)
    return recording


def refuses(path: Path, text: str) -> None:
    with pytest.raises(RecordingError, match=re.escape(text)) as caught:
        read(path)
    assert caught.value.exit_code == 3


def test_a_csv(tmp_path):
    text = "timestamp_s,b,a,label,temp\n0,1,2.5,walk,9\n0.02,-1e-3,4,,9\n0.04,3,.5,run,9\n0.06,0,0,swim,9\n"
    rec = read(write(tmp_path, text))
    assert (rec.name, rec.subject) == ("rec", None)
    assert rec.samples.dtype == np.float32
    assert rec.samples.flags.c_contiguous
    np.testing.assert_array_equal(rec.samples, np.float32([[2.5, 1], [4, -1e-3], [0.5, 3], [0, 0]]))
    np.testing.assert_array_equal(rec.timestamp_s, [0, 0.02, 0.04, 0.06])
    assert rec.labels is not None
    assert rec.labels.dtype == np.int16
    np.testing.assert_array_equal(rec.labels, [1, -1, 2, -1])
    ignored, unknown = rec.notes
    assert ignored.endswith("rec.csv: not in the contract and ignored: temp")
    assert unknown.endswith("no labels of the contract, so counted as unlabelled: swim")


def test_without_time_and_labels(tmp_path):
    rec = read(write(tmp_path, "a,b\n1,2\n3,4\n"))
    np.testing.assert_array_equal(rec.samples, [[1, 2], [3, 4]])
    assert (rec.labels, rec.timestamp_s, rec.notes) == (None, None, ())


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa,b\r\n1,2\r\n3,4\r\n",
        "# made by hand\n\na,b\n  \n1,2\n# half\n3,4",
        '"a", "b"\n"1",2\n3,"4"\n',
        " a , b \n 1 , 2\n3 ,4 \n",
    ],
    ids=["BOM and CRLF", "comments and blank lines", "quotes", "spaces"],
)
def test_forms_of_the_same(tmp_path, text):
    rec = read(write(tmp_path, text))
    np.testing.assert_array_equal(rec.samples, [[1, 2], [3, 4]])
    assert rec.notes == ()


def test_a_cell_that_was_not_measured(tmp_path):
    rec = read(write(tmp_path, "a,b,label\n1,2,walk\n,4,walk\nnan,inf,walk\n"))
    np.testing.assert_array_equal(rec.samples, [[1, 2], [np.nan, 4], [np.nan, np.inf]])


def test_values_round_trip(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    text = "a,b\n" + "".join(f"{x!r},{y!r}\n" for x, y in values.astype(float).tolist())
    np.testing.assert_array_equal(read(write(tmp_path, text)).samples, values)


def test_channels_named_like_the_optional_columns(tmp_path):
    path = write(tmp_path, "label,timestamp_s\n1,2\n3,4\n")
    (rec,) = open_recordings(str(path), make_contract(("timestamp_s", "label"), window=2))
    np.testing.assert_array_equal(rec.samples, [[2, 1], [4, 3]])
    assert (rec.labels, rec.timestamp_s, rec.notes) == (None, None, ())


ERRORS = {
    "": "rec.csv: is empty; a header line of channel names",
    "# only\n\n": "rec.csv: is empty",
    "a,b\n": "rec.csv: has 0 samples; a window is 2",
    "a,b\n1,2\n": "rec.csv: has 1 samples; a window is 2",
    "1,2\n3,4\n": "rec.csv, line 1: holds numbers, not names; the first line names the columns: a,b; add it",
    "# a,b\n1,2\n3,4\n": "rec.csv, line 2: holds numbers, not names",
    "a;b\n1;2\n": "rec.csv, line 1: is separated by ';'; commas",
    "a\tb\n1\t2\n": "is separated by '\\t'; commas",
    "a,bb\n1,2\n": "rec.csv: channel 'b' is missing; it has a, bb; did you mean 'bb'?",
    "a,b,a\n1,2,3\n": "channel 'a' stands 2 times",
    "a,b,label,label\n1,2,,\n": "column 'label' stands 2 times",
    "a,b\n1,2\n\n# x\n3,x\n": "rec.csv, line 5: b is 'x'; a number, or nothing",
    "a,b\n1,2\n3\n": "rec.csv, line 3: 1 fields; the header has 2",
    "a,b\n1,2\n3,4,\n": "rec.csv, line 3: 3 fields; the header has 2",
    "a,b\n1,2\n3,1_0\n": "rec.csv, line 3: b is '1_0'",
    'a,b\n1,2\n3,"4\n': "rec.csv, line 3: is not CSV",
    "timestamp_s,a,b\n0,1,2\n,1,2\n": "rec.csv, line 3: timestamp_s is ''; finite seconds",
    "timestamp_s,a,b\n0,1,2\ninf,1,2\n": "rec.csv, line 3: timestamp_s is 'inf'; finite seconds",
    "timestamp_s,a,b\n0,1,2\n0,1,2\n": "rec.csv: timestamp_s never increases",
    "timestamp_s,a,b\n0,1,2\n0.01,1,2\n": "rec.csv: sampled at 100 Hz (by its timestamp_s); the",
    "timestamp_s,a,b\n1700000000000,1,2\n1700000000020,1,2\n": "timestamp_s[0] is 1.7e+12; finite seconds",
    "a,b\n,2\nnan,4\n": "channel 'a' has no finite value",
    "a,b\n1,2\n3,\0\n": "rec.csv, line 3: b is",
}


@pytest.mark.parametrize("text", ERRORS)
def test_a_wrong_csv_is_refused(tmp_path, text):
    refuses(write(tmp_path, text), ERRORS[text])


def test_other_bytes_and_names(tmp_path):
    path = tmp_path / "rec.csv"
    path.write_bytes(b"a,b\n1,2\n3,\xff\n")
    refuses(path, "rec.csv: is not UTF-8 text")
    good = write(tmp_path, "a,b\n1,2\n3,4\n")
    assert next(open_recordings(f"{good}#rec", CONTRACT)).name == "rec"
    with pytest.raises(RecordingError, match="there is no recording 'x'; it holds one, 'rec'"):
        list(open_recordings(f"{good}#x", CONTRACT))


def test_a_time_stamp_may_repeat_or_go_back_once(tmp_path):
    text = "timestamp_s,a,b\n0,1,2\n0.02,1,2\n0.02,1,2\n0.04,1,2\n0.03,1,2\n0.05,1,2\n0.07,1,2\n0.09,1,2\n"
    assert len(read(write(tmp_path, text)).samples) == 8


def test_rows_one_at_a_time():
    """The parser as a live source uses it."""
    rows = CsvRows("\ufeffa,label,b,timestamp_s\r\n", CONTRACT, "stdin")
    assert (rows.has_labels, rows.has_timestamps, rows.ignored) == (True, True, ())
    row = rows.parse_row("1,walk,2,0.5\r\n", 2)
    assert row == ([1.0, 2.0], 0.5, "walk")
    values, stamp, label = rows.parse_row(' , "run",3,1', 3)
    assert math.isnan(values[0])
    assert (values[1], stamp, label) == (3.0, 1.0, "run")
    with pytest.raises(RecordingError, match=r"stdin, line 7: a is 'x'; a number"):
        rows.parse_row("x,,1,2", 7)
    plain = CsvRows("b,a,c", CONTRACT, "stdin")
    assert plain.parse_row("1,2,3\n", 2) == ([2.0, 1.0], None, None)
    assert plain.ignored == ("c",)
    assert [is_data(s) for s in ("1,2\n", "", " \r\n", "# x", "\ufeff# x", " #")] == [True] + [False] * 5
