"""Rows on stdin: the reader itself over a pipe of this process, and the real command at the end of one."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import RecordingError, UsageError
from sattn_runtime.sources import open_source, stdin_csv
from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions, StreamStart
from sattn_runtime.sources.stdin_csv import StdinSource
from tests.helpers_data import make_contract
from tests.helpers_model import save_model
from tests.helpers_run import Done, finish, lines_of, start

CONTRACT = make_contract(("c0", "c1"), rate_hz=50.0)


class Pipe:
    """A pipe with a source at its end."""

    def __init__(self) -> None:
        read, self._write = os.pipe()
        self.source = StdinSource(read, CONTRACT)

    def send(self, text: str | bytes) -> None:
        os.write(self._write, text if isinstance(text, bytes) else text.encode())

    def end(self) -> None:
        os.close(self._write)

    def rest(self) -> list[Item]:
        """Ends the pipe; everything up to END."""
        self.end()
        found: list[Item] = []
        while (item := self.source.read(5)) is not Signal.END:
            found.append(item)
        return found


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def values(items: list[Item]) -> list[list[float]]:
    return [row for item in items if isinstance(item, Chunk) for row in item.samples.tolist()]


def fails(pipe: Pipe, text: str) -> list[Item]:
    """Reads until the error; what came before it."""
    pipe.end()
    found: list[Item] = []
    with pytest.raises(RecordingError, match=text) as caught:
        found += iter(lambda: pipe.source.read(5), Signal.END)
    assert caught.value.exit_code == 3
    assert pipe.source.read(5) is Signal.END
    return found


def test_columns_by_name_in_any_order(pipe):
    pipe.send("c1, note ,timestamp_s,c0\n1,x,0.5,2\n\n# a remark\n3,,0.52,4\r\n")
    start_item, *chunks = pipe.rest()
    assert isinstance(start_item, StreamStart)
    assert start_item.notes == ("stdin: not in the contract and ignored: note",)
    assert values(chunks) == [[2, 1], [4, 3]]
    stamps = [c.timestamp_s for c in chunks if isinstance(c, Chunk) and c.timestamp_s is not None]
    assert np.concatenate(stamps).tolist() == [0.5, 0.52]


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_lines_may_be_split_anywhere(data):
    text = "\ufeffc0,c1\n1,2\n-3.5,4e2\n,7\r\n\n#x\n8,9".encode()  # and the last line has no end
    pipe, at = Pipe(), 0
    while at < len(text):
        size = data.draw(st.integers(1, 12))
        pipe.send(text[at : at + size])
        at += size
    np.testing.assert_array_equal(values(pipe.rest()), [[1, 2], [-3.5, 400], [np.nan, 7], [8, 9]])


def test_half_a_row_waits_for_its_other_half(pipe):
    pipe.send("c0,c1\n1,2\n3,")
    assert isinstance(pipe.source.read(5), StreamStart)
    assert values([pipe.source.read(5)]) == [[1, 2]]
    assert pipe.source.read(0.05) is Signal.NOTHING
    pipe.send("4\n")
    assert values([pipe.source.read(5)]) == [[3, 4]]


def test_rows_are_stamped_when_they_arrive_and_not_when_they_are_read(pipe):
    pipe.send("c0,c1\n")
    assert isinstance(pipe.source.read(5), StreamStart)
    before = time.monotonic_ns()
    pipe.send("1,2\n")
    time.sleep(0.05)
    pipe.send("3,4\n")
    time.sleep(0.3)  # the loop is busy
    read = time.monotonic_ns()
    first, second = pipe.source.read(1), pipe.source.read(1)
    assert isinstance(first, Chunk)
    assert isinstance(second, Chunk)
    assert first.arrival_ns is not None
    assert second.arrival_ns is not None
    assert before < first.arrival_ns < second.arrival_ns - 30_000_000
    assert second.arrival_ns < read - 100_000_000
    assert (first.period_ns, pipe.source.paced) == (0, True)


BAD = {
    "short": ("c0,c1\n1,2\n3\n5,6\n", "stdin, line 3: 1 fields; the header has 2"),
    "long": ("c0,c1\n1,2\n3,4,5\n", "stdin, line 3: 3 fields; the header has 2"),
    "no number": ("# by x\nc0,c1\n1,2\n\n3,x4\n", "stdin, line 5: c1 is 'x4'; a number, or nothing"),
    "underscore": ("c0,c1\n1,2\n1_0,1\n", "stdin, line 3: c0 is '1_0'"),
    "stamp": ("c0,c1,timestamp_s\n1,2,0\n1,2,nan\n", "stdin, line 3: timestamp_s is 'nan'; finite seconds"),
    "no text": (b"c0,c1\n1,2\n\xff\xfe,1\n", "stdin, line 3: is not UTF-8 text; CSV in UTF-8"),
    "quote": ('c0,c1\n1,2\n"3,4\n', "stdin, line 3: is not CSV"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_and_costs_nothing_before_it(pipe, case):
    text, message = BAD[case]
    pipe.send(text)
    assert values(fails(pipe, message)) == [[1, 2]]


HEADERS = {
    "none": ("", "stdin: ended before a header line; CSV with a header of channel names"),
    "comments": ("# nothing\n\n", "stdin: ended before a header line"),
    "numbers": ("1,2\n3,4\n", "stdin, line 1: holds numbers, not names; the first line names the columns: c0,c1"),
    "missing": ("c0,cl\n1,2\n", "stdin: channel 'c1' is missing; it has c0, cl; rename the file's channel"),
    "twice": ("c0,c1,c0\n", "stdin: channel 'c0' stands 2 times; once"),
    "semicolons": ("c0;c1\n1;2\n", "stdin, line 1: is separated by ';'; commas"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_wrong_header(pipe, case):
    text, message = HEADERS[case]
    pipe.send(text)
    assert fails(pipe, message) == []


def stamped(step: float, n: int = 60) -> str:
    return "c0,c1,timestamp_s\n" + "".join(f"{i},0,{i * step!r}\n" for i in range(n))


def test_a_rate_that_is_not_the_contracts_is_told_by_the_stamps(pipe):
    pipe.send(stamped(0.01))
    found = fails(pipe, r"stdin: sampled at 100 Hz \(by its timestamp_s\); the contract says 50 Hz")
    assert len(values(found)) == 60


def test_a_rate_that_is_the_contracts(pipe):
    """The control, and too few rows to tell by."""
    pipe.send(stamped(0.02))
    assert len(values(pipe.rest())) == 60
    few = Pipe()
    few.send(stamped(0.01, 40))
    assert len(values(few.rest())) == 40


def test_a_clock_that_stands_still(pipe):
    pipe.send(stamped(0.0))
    fails(pipe, "stdin: timestamp_s never increases; seconds from sample to sample")


def test_something_that_has_no_lines_does_not_fill_the_memory(pipe, monkeypatch):
    monkeypatch.setattr(stdin_csv, "_LONGEST_LINE", 1000)
    pipe.send(b"c0,c1\n1,2\n" + b"7" * 2000)
    assert values(fails(pipe, "stdin, line 3: is longer than 1,000 bytes; a line a sample")) == [[1, 2]]


def test_what_cannot_be_read(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(RecordingError, match=r"stdin: can't be read \(Is a directory\); a pipe or a file"):
        StdinSource(descriptor, CONTRACT).read(5)
    os.close(descriptor)


def test_a_bug_in_the_reader_is_not_swallowed(pipe, monkeypatch):
    monkeypatch.setattr(stdin_csv, "is_data", lambda line: 1 / 0)
    pipe.send("c0,c1\n")
    pipe.end()
    with pytest.raises(ZeroDivisionError):
        pipe.source.read(5)
    assert pipe.source.read(5) is Signal.END


def test_a_closed_stdin(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="source 'stdin:': stdin is closed; give it a pipe or a file"):
        open_source("-", CONTRACT, SourceOptions(None, 8, 4))


# ------------------------------------------------------------------ the command at the end of a pipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=16, hop=8)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "j.jsonl"


def piped(model: Path, journal: Path, *parts: str) -> Done:
    """Runs the command on these writes, with a pause between them."""
    process = start("sattn-run", model, "-", "--journal", journal, stdin=subprocess.PIPE)
    assert process.stdin is not None
    for part in parts:
        process.stdin.write(part.encode())
        process.stdin.flush()
        time.sleep(0.05)
    return finish(process)


def rows(n: int, begin: int = 0) -> str:
    return "".join(f"{i},{-i}\n" for i in range(begin, begin + n))


def test_a_pipe_to_its_end(model, journal):
    done = piped(model, journal, "c0,c1\n" + rows(20), "20,-2", "0\n" + rows(19, 21))
    assert done.code == 0, done.err
    assert [row["first_sample"] for row in lines_of(journal, "window")] == [0, 8, 16, 24]
    assert "40 in: 40 in windows" in done.out
    assert "arrival of a window's last sample" in done.out
    assert done.err == ""


def test_a_bad_row_ends_it_with_3_and_a_whole_journal(model, journal):
    done = piped(model, journal, "c0,c1\n" + rows(40) + "x,1\n" + rows(40))
    assert done.code == 3
    assert done.err == "error: stdin, line 42: c0 is 'x'; a number, or nothing\n"
    assert [row["first_sample"] for row in lines_of(journal, "window")] == [0, 8, 16, 24]


def test_a_pipe_that_ends_before_a_window(model, journal):
    done = piped(model, journal, "c0,c1\n" + rows(15))
    assert done.code == 3
    assert "-: 15 samples made no window; a window has 16" in done.err
    assert [row["type"] for row in lines_of(journal)] == ["start"]


def test_nothing_at_all(model, journal):
    done = piped(model, journal)
    assert done.code == 3
    assert done.err == "error: stdin: ended before a header line; CSV with a header of channel names\n"
    assert not journal.exists()
