"""The serial port over pseudo-terminals: lines, frames, the C header, unplugging."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sattn_edge.errors import RecordingError, SourceLostError, UnavailableError, UsageError
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions, StreamStart
from sattn_runtime.sources.frames import HEADER_FILE, FrameDecoder
from sattn_runtime.sources.lines import LineDecoder
from tests.helpers_data import make_contract
from tests.helpers_run import run_code
from tests.sattn_runtime.sources.helpers_serial import Cable, frame, names_frame, sample_frame, stuff, wait_until

CONTRACT = make_contract(("c0", "c1"), rate_hz=50.0, units=("g", "g"))
OPTIONS = SourceOptions(None, 8, 4, reconnect_s=10.0)


def values(items: list[Item]) -> list[list[float]]:
    return [row for item in items if isinstance(item, Chunk) for row in item.samples.tolist()]


def numbers(items: list[Item]) -> list[int]:
    return [n for item in items if isinstance(item, Chunk) and item.sequence is not None for n in item.sequence]


def starts(items: list[Item]) -> int:
    return sum(isinstance(item, StreamStart) for item in items)


# ------------------------------------------------------------------ lines


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


# ------------------------------------------------------------------ frames


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


# ------------------------------------------------------------------ the port itself


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    made = Cable(tmp_path)
    yield made
    made.pull_out()


@pytest.fixture
def opened(cable: Cable) -> Iterator[Callable[..., Any]]:
    sources: list[Any] = []

    def open_(query: str = "", options: SourceOptions = OPTIONS) -> Any:
        sources.append(open_source(f"serial:{cable.port}{query}", CONTRACT, options))
        return sources[-1]

    yield open_
    for source in sources:
        source.close()


def take(source: Any, samples: int) -> list[Item]:
    """Items until so many samples came."""
    found: list[Item] = []
    deadline = time.monotonic() + 10
    while len(values(found)) < samples and time.monotonic() < deadline:
        item = source.read(0.1)
        if item is not Signal.NOTHING:
            found.append(item)
    return found


PROGRAM = """
#include "sattn_frame.h"
#include <stdio.h>
int main(void) {
    static uint8_t out[SATTN_FRAME_ROOM(300, 2)];
    static float x[600];
    uint32_t state = 1, number = 0;
    size_t n = sattn_frame_names(out, sizeof out, 50.0f, "c1[g],c0[g]");
    fwrite(out, 1, n, stdout);
    for (int count = 1; count <= 300; count = count * 3 + 1) {
        for (int i = 0; i < 2 * count; i++) {
            state = state * 1664525u + 1013904223u;
            x[i] = i % 7 == 0 ? 0.0f : (float)(int32_t)state / 65536.0f;
        }
        n = sattn_frame_samples(out, sizeof out, number, number * 20000u, x, (uint16_t)count, 2);
        fwrite(out, 1, n, stdout);
        number += (uint32_t)count;
    }
    return sattn_frame_samples(out, 10, 0, 0, x, 1, 2) == 0 ? 0 : 1;
}
"""


def expected_of_the_program() -> np.ndarray:
    state, found, count = 1, [], 1
    while count <= 300:
        for i in range(2 * count):
            state = (state * 1664525 + 1013904223) % 2**32
            signed = state - 2**32 if state >= 2**31 else state
            found.append(np.float32(0) if i % 7 == 0 else np.float32(signed) / np.float32(65536))
        count = count * 3 + 1
    return np.float32(found).reshape(-1, 2)[:, ::-1]


def test_frames_of_the_c_header(cable, opened, tmp_path):
    pytest.importorskip("cobs")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "fw.c").write_text(PROGRAM)
    strict = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-fsanitize=undefined,address")
    include = f"-I{HEADER_FILE.parent}"
    subprocess.run([compiler, *strict, include, "-o", tmp_path / "fw", tmp_path / "fw.c"], check=True, timeout=60)
    source = opened("?format=cobs")
    cable.run(tmp_path / "fw")
    expected = expected_of_the_program()
    items = take(source, len(expected))
    np.testing.assert_array_equal(np.float32(values(items)), expected)
    assert numbers(items) == list(range(len(expected)))
    assert source.counters == {}


def test_unplugged_and_plugged_in_again(cable, opened):
    source = opened()
    cable.write(b"c0,c1\n1,2\n3,4\n5,")
    before = take(source, 2)
    cable.pull_out()
    assert source.read(0.3) is Signal.NOTHING
    cable.plug_in()
    wait_until("the port is open again", lambda: source.counters.get("reconnects") == 1)
    cable.write(b"6\n7,8\n")
    after = take(source, 1)
    assert values(before) == [[1, 2], [3, 4]]
    assert values(after) == [[7, 8]]
    assert (starts(before), starts(after)) == (1, 1)  # so no window spans the hole
    assert source.counters == {"reconnects": 1, "partial_lines": 1}


def test_unplugged_for_too_long(cable, opened):
    source = opened("", SourceOptions(None, 8, 4, reconnect_s=0.3))
    cable.write(b"c0,c1\n1,2\n")
    assert values(take(source, 1)) == [[1, 2]]
    cable.pull_out()
    text = r"ttyUSB0: was unplugged and did not come back; --reconnect-s 0\.3"
    with pytest.raises(SourceLostError, match=text) as caught:
        take(source, 1)
    assert caught.value.exit_code == 8
    assert source.read(1) is Signal.END


def test_nobody_else_reads_it_meanwhile(opened):
    opened()
    with pytest.raises(UnavailableError, match=r"can't be opened .*lock"):
        opened()


def test_a_slow_loop_loses_the_oldest_and_says_how_many(cable, opened, monkeypatch):
    monkeypatch.setattr("sattn_runtime.sources.serial_port.MOST_SAMPLES", 50)
    source = opened()
    cable.write(b"seq,c0,c1\n")
    assert isinstance(source.read(5), StreamStart)
    for i in range(200):
        cable.write(f"{i},{i},0\n".encode())
        time.sleep(0.001)
    wait_until("all of it came", lambda: source.counters.get("dropped_samples", 0) >= 150)
    source.close()
    items: list[Item] = []
    while (item := source.read(0)) is not Signal.END:
        items.append(item)
    kept = numbers(items)
    assert kept == list(range(200 - len(kept), 200))
    assert len(kept) <= 50
    assert source.counters == {"dropped_samples": 200 - len(kept)}
    note = f"{cable.port}: {200 - len(kept)} samples came faster than they were taken and were dropped; a new stream"
    assert items[0].notes == (note,)  # type: ignore[union-attr]
    assert starts(items) == 1


REFUSED = {
    "": (UsageError, "names no port"),
    "/dev/null?baud=fast": (UsageError, "baud is 'fast'; a whole number from 1 to"),
    "/dev/null?format=csv": (UsageError, "format is 'csv'; lines or cobs"),
    "/dev/null?boud=1": (UsageError, "unknown option 'boud'; did you mean 'baud'"),
    "/dev/null?baud=1&baud=2": (UsageError, "option 'baud' stands twice; once"),
    "/dev/null?baud=": (UsageError, "option 'baud' has no value; baud=VALUE"),
    "/dev/null?baud": (UsageError, "'baud' is no list of options"),
    "/dev/ttyNONE": (UnavailableError, "/dev/ttyNONE: can't be opened .*; a serial port that nobody else reads"),
    "/dev/null": (UnavailableError, "/dev/null: can't be opened"),
}


@pytest.mark.parametrize("rest", REFUSED)
def test_what_is_refused(rest):
    pytest.importorskip("serial")
    kind, text = REFUSED[rest]
    with pytest.raises(kind, match=text):
        open_source(f"serial:{rest}", CONTRACT, OPTIONS)
