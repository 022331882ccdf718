from __future__ import annotations

import pytest

from sattn_edge.text import count, fields, microseconds, millions, table


def test_a_table_puts_numbers_to_the_right():
    rows = [("walk", 1_000, "12.5%"), ("run", 7, "-")]
    assert table(rows, header=("label", "n", "part")) == [
        "  label     n   part",
        "  walk   1000  12.5%",
        "  run       7      -",
    ]


def test_a_column_with_one_word_stands_to_the_left():
    assert table([("a", "x"), ("b", "12")], indent=0) == ["a  x", "b  12"]
    assert table([("-1.5",), ("+20",), ("1,234",)], indent=0) == [" -1.5", "  +20", "1,234"]


def test_no_rows():
    assert table([]) == []
    assert table([], header=("a", "b")) == ["  a  b"]
    assert fields([]) == []


def test_nothing_trails():
    assert table([("a", ""), ("bb", "")], indent=0) == ["a", "bb"]
    assert fields([("a", ""), ("long", "x")]) == ["a", "long  x"]


def test_fields_leave_none_out():
    assert fields([("a", 1), ("bcd", None), ("ef", 0)]) == ["a   1", "ef  0"]


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 windows"), (1, "1 window"), (2, "2 windows"), (12_345, "12,345 windows")]
)
def test_counts(n, text):
    assert count(n, "window") == text


def test_numbers_with_the_unit_that_suits_them():
    assert [millions(n) for n in (0, 999_999, 1_000_000, 15_234_567)] == ["0", "999,999", "1.00 M", "15.23 M"]
    assert [microseconds(v) for v in (0, 640.4, 12_345, 4e6)] == ["0 us", "640 us", "12.35 ms", "4.00 s"]
