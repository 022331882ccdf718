"""A serial port: `serial:/dev/ttyUSB0?baud=115200&format=lines`.

| option | |
|---|---|
| baud | bits a second, 115200 unless said otherwise |
| format | `lines` of text (see `lines`), or `cobs` frames (see `frames`) |

A port that goes away is waited for, `reconnect_s` at most; what comes then is a new stream. The port can't be made to
wait: where the loop is slow the oldest samples are dropped, counted, and the hole is marked by a new stream.
"""

from __future__ import annotations

from time import monotonic, monotonic_ns
from typing import Any

from sattn_edge.contract import Contract
from sattn_edge.errors import SourceLostError, UnavailableError, UsageError
from sattn_runtime.sources.base import SourceOptions
from sattn_runtime.sources.frames import FrameDecoder
from sattn_runtime.sources.lines import LineDecoder
from sattn_runtime.sources.live import MOST_SAMPLES, LiveSource
from sattn_runtime.sources.optional import load_package
from sattn_runtime.sources.uri import one_of, split_options, whole_number

_OPTIONS = {"baud": "115200", "format": "lines"}
_DECODERS: dict[str, type[LineDecoder] | type[FrameDecoder]] = {"lines": LineDecoder, "cobs": FrameDecoder}
_RETRY_S = 0.1


class SerialSource(LiveSource):
    """One stream from a port, or several where it was pulled out in between."""

    def __init__(self, port: Any, decoder: LineDecoder | FrameDecoder, reconnect_s: float, most_samples: int) -> None:
        super().__init__(port.port, most_samples=most_samples, drop=True)
        self._port, self._decoder, self._reconnect_s = port, decoder, reconnect_s
        self.only_stream = port.port
        self.counted = decoder.counted
        self.start()

    def _read_peer(self) -> None:
        try:
            while not self.stopping:
                try:
                    self._read_port()
                except OSError:  # pyserial's own error is one too
                    self._wait_for_port()
        finally:
            self._port.close()

    def _read_port(self) -> None:
        while self.wait_readable(self._port):
            data = self._port.read(max(1, self._port.in_waiting))
            arrival_ns = monotonic_ns()
            for item in self._decoder.feed(data, arrival_ns):
                self.give(item)

    def _wait_for_port(self) -> None:
        """Opens the port again. Raises SourceLostError when it was away for too long."""
        self._port.close()
        self._decoder.reset()
        until = monotonic() + self._reconnect_s
        while self.pause(_RETRY_S):
            try:
                self._port.open()
            except OSError as error:
                if monotonic() > until:
                    allowed = f"--reconnect-s {self._reconnect_s:g}"
                    raise SourceLostError(self.name, "was unplugged and did not come back", allowed) from error
                continue
            self.counted["reconnects"] += 1
            return


def open_source(rest: str, contract: Contract, options: SourceOptions) -> SerialSource:
    """Opens the port.

    Raises:
        UsageError: no port is named, or an option is wrong.
        UnavailableError: there is no such port, it is in use, or pyserial is missing.
    """
    uri = f"serial:{rest}"
    path, given = split_options(rest, _OPTIONS, f"source '{uri}'")
    if not path:
        raise UsageError(f"source '{uri}'", "names no port", "serial:/dev/ttyUSB0?baud=115200&format=lines")
    baud = whole_number(given["baud"], "baud", f"source '{uri}'", 1, 100_000_000)
    kind = one_of(given["format"], "format", f"source '{uri}'", tuple(_DECODERS))
    decoder = _DECODERS[kind](contract, path, path)
    serial = load_package("serial", "serial", f"source '{uri}'")
    try:
        # Exclusive: two readers would each get a part of the bytes.
        port = serial.Serial(path, baud, timeout=0, exclusive=True)
    except (OSError, ValueError) as error:
        raise UnavailableError(
            path, f"can't be opened ({error})", "a serial port that nobody else reads", "see `ls /dev/serial/by-id`"
        ) from error
    return SerialSource(port, decoder, options.reconnect_s, MOST_SAMPLES)
