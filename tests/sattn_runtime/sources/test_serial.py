"""The serial port over pseudo-terminals: the C header, unplugging, a slow loop."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import SourceLostError, UnavailableError, UsageError
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Item, Signal, SourceOptions, StreamStart
from sattn_runtime.sources.frames import HEADER_FILE
from tests.sattn_runtime.sources.helpers_serial import (
    CONTRACT,
    Cable,
    numbers,
    starts,
    values,
    wait_until,
)

OPTIONS = SourceOptions(None, 8, 4, reconnect_s=10.0)


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
