"""A serial port that is a pair of pseudo-terminals, held together by socat; the test is the firmware."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from sattn_runtime.sources.base import Chunk, Item, StreamStart
from tests.helpers_data import make_contract

SETTLED_S = 10.0
CONTRACT = make_contract(("c0", "c1"), rate_hz=50.0, units=("g", "g"))


def wait_until(what: str, done: object, timeout_s: float = SETTLED_S) -> None:
    """Polls a callable; the test fails where it never holds."""
    assert callable(done)
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.01)


class Cable:
    """Two ends: `port` for the source, and `write` for the firmware. It can be pulled out and plugged in."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("serial")
        if shutil.which("socat") is None:
            pytest.skip("needs socat (Debian package socat)")
        self.port, self._far = folder / "ttyUSB0", folder / "firmware"
        self._socat: subprocess.Popen[bytes] | None = None
        self._descriptor = -1
        self.plug_in()

    def plug_in(self) -> None:
        ends = [f"pty,raw,echo=0,link={end}" for end in (self.port, self._far)]
        self._socat = subprocess.Popen(["socat", *ends], stderr=subprocess.DEVNULL)
        wait_until("socat's ends", lambda: self.port.exists() and self._far.exists())
        self._descriptor = os.open(self._far, os.O_RDWR | os.O_NOCTTY)

    def write(self, data: bytes) -> None:
        """Sends it all; a terminal takes a few kB at a time."""
        while data:
            data = data[os.write(self._descriptor, data[:1024]) :]

    def run(self, *command: str | Path) -> None:
        """Runs a program whose stdout is the wire."""
        subprocess.run([str(part) for part in command], stdout=self._descriptor, check=True, timeout=30)

    def pull_out(self) -> None:
        """The port is gone, and so is its name."""
        if self._socat is None:
            return
        os.close(self._descriptor)
        self._socat.terminate()
        self._socat.wait(10)
        self._socat = None
        for end in (self.port, self._far):
            end.unlink(missing_ok=True)


def stuff(data: bytes) -> bytes:
    """COBS from its definition: every group of up to 254 bytes without zero, behind its length plus one."""
    out, groups = b"", data.split(b"\0")
    for i, group in enumerate(groups):
        while len(group) >= 254:
            out, group = out + b"\xff" + group[:254], group[254:]
            if not group and i == len(groups) - 1:
                return out
        out += bytes([len(group) + 1]) + group
    return out


def frame(kind: int, channels: int, count: int, number: int, time: bytes, body: bytes) -> bytes:
    """A frame as its description says, written without the C header and without the decoder's package."""
    plain = bytes([kind, channels]) + count.to_bytes(2, "little") + (number % 2**32).to_bytes(4, "little") + time + body
    return b"\0" + stuff(plain + zlib.crc32(plain).to_bytes(4, "little")) + b"\0"


def sample_frame(samples: np.ndarray, number: int, time_us: int) -> bytes:
    """Samples [n, channels] as one frame."""
    time_bytes = (time_us % 2**32).to_bytes(4, "little")
    return frame(1, samples.shape[1], len(samples), number, time_bytes, samples.astype("<f4").tobytes())


def names_frame(names: str, rate_hz: float = 0.0) -> bytes:
    """The channels' names."""
    return frame(2, 0, 0, 0, np.float32(rate_hz).tobytes(), names.encode())


def values(items: list[Item]) -> list[list[float]]:
    """The samples, row by row."""
    return [row for item in items if isinstance(item, Chunk) for row in item.samples.tolist()]


def numbers(items: list[Item]) -> list[int]:
    """The number of each sample."""
    return [n for item in items if isinstance(item, Chunk) and item.sequence is not None for n in item.sequence]


def starts(items: list[Item]) -> int:
    """How many streams begin."""
    return sum(isinstance(item, StreamStart) for item in items)
