"""The real peer of every source, each told the same things: send these samples, under these names."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Source, SourceOptions
from sattn_runtime.sources.stdin_csv import StdinSource
from tests.helpers_data import make_contract
from tests.sattn_runtime.sources import plugin_udp
from tests.sattn_runtime.sources.helpers_lsl import Outlet
from tests.sattn_runtime.sources.helpers_mqtt import Broker, Publisher
from tests.sattn_runtime.sources.helpers_serial import Cable, names_frame, sample_frame

RATE = 50.0
CONTRACT = make_contract(("c0", "c1"), rate_hz=RATE, window=16, hop=8, labels=("l0", "l1", "l2"), units=("g", "rad/s"))
_count = itertools.count()


class Peer(ABC):
    """What sends. `names`, `units` and `rate_hz` may be changed before anything is opened or sent.

    Samples [n, 2] are given in the contract's order; the peer sends them in that of its names.
    """

    endless = True  # it never ends by itself
    beforehand = False  # everything is sent before the source is opened
    named = True  # names and units travel with the samples
    rated = True  # so does the rate, said or shown by time stamps
    stamped = True
    numbered = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names, self.units, self.rate_hz = ["c1", "c0"], ["rad/s", "g"], RATE

    @abstractmethod
    def open(self, options: SourceOptions) -> Source:
        """The source, with this peer at its other end."""

    @abstractmethod
    def send(self, first: int, samples: np.ndarray) -> None:
        """Sends samples of which the first has this number."""

    def finish(self) -> None:
        """There will be no more."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - a file has nothing to let go of
        """Lets go of everything."""

    def in_order(self, samples: np.ndarray) -> np.ndarray:
        """As the names of this peer are."""
        return samples[:, ::-1] if self.named else samples

    def stamps(self, first: int, count: int) -> np.ndarray:
        return 100 + np.arange(first, first + count) / self.rate_hz


class FilePeer(Peer):
    """A file ends where it ends."""

    endless, beforehand = False, True

    def finish(self) -> None:
        pass


class NpzPeer(FilePeer):
    def send(self, first: int, samples: np.ndarray) -> None:
        stamps = self.stamps(first, len(samples))
        keys = {"channels": np.array(self.names), "units": np.array(self.units), "timestamp_s": stamps}
        np.savez(self.folder / "rec.npz", signal=np.ascontiguousarray(self.in_order(samples)), **keys)

    def open(self, options: SourceOptions) -> Source:
        return open_source(f"replay:{self.folder / 'rec.npz'}", CONTRACT, options)


def csv_rows(peer: Peer, first: int, samples: np.ndarray) -> str:
    rows = zip(peer.stamps(first, len(samples)).tolist(), peer.in_order(samples).tolist(), strict=True)
    return "".join(f"{stamp!r},{a!r},{b!r}\n" for stamp, (a, b) in rows)


class CsvPeer(FilePeer):
    def send(self, first: int, samples: np.ndarray) -> None:
        text = f"timestamp_s,{','.join(self.names)}\n" + csv_rows(self, first, samples)
        (self.folder / "rec.csv").write_text(text)

    def open(self, options: SourceOptions) -> Source:
        return open_source(f"replay:{self.folder / 'rec.csv'}", CONTRACT, options)


class McapPeer(FilePeer):
    encoding = "json"
    numbered = True

    def send(self, first: int, samples: np.ndarray) -> None:
        writer_module = pytest.importorskip("mcap.writer")
        with (self.folder / "rec.mcap").open("wb") as file:
            writer = writer_module.Writer(file)
            writer.start()
            rate = {"rate_hz": str(self.rate_hz)} if self.encoding != "json" else {}
            said = {"channels": ",".join(self.names), "units": ",".join(self.units), **rate}
            channel = writer.register_channel("/imu", self.encoding, 0, metadata=said)
            for begin in range(0, len(samples), 5):
                part = samples[begin : begin + 5]
                published_ns = round(self.stamps(first + begin + len(part) - 1, 1)[0] * 1e9)
                writer.add_message(channel, published_ns + 999, self.payload(first + begin, part), published_ns)
            writer.finish()

    def payload(self, first: int, samples: np.ndarray) -> bytes:
        return json_payload(self, first, samples)

    def open(self, options: SourceOptions) -> Source:
        return open_source(f"mcap:{self.folder / 'rec.mcap'}", CONTRACT, options)


class McapFloatsPeer(McapPeer):
    encoding = "x-float32"
    numbered = False

    def payload(self, first: int, samples: np.ndarray) -> bytes:
        return self.in_order(samples).astype("<f4").tobytes()


class StdinPeer(Peer):
    endless = False

    def open(self, options: SourceOptions) -> Source:
        self._read, self._write = os.pipe()
        os.write(self._write, f"timestamp_s,{','.join(self.names)}\n".encode())
        return StdinSource(self._read, CONTRACT)

    def send(self, first: int, samples: np.ndarray) -> None:
        os.write(self._write, csv_rows(self, first, samples).encode())

    def finish(self) -> None:
        os.close(self._write)
        self._write = -1

    def close(self) -> None:
        if self._write >= 0:
            self.finish()
        os.close(self._read)


class LinesPeer(Peer):
    numbered = True
    query = ""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cable = Cable(folder)

    def open(self, options: SourceOptions) -> Source:
        source = open_source(f"serial:{self.cable.port}{self.query}", CONTRACT, options)
        self.greet()
        return source

    def greet(self) -> None:
        named = [f"{name}[{unit}]" for name, unit in zip(self.names, self.units, strict=True)]
        self.cable.write(f"seq,timestamp_s,{','.join(named)}\n".encode())

    def send(self, first: int, samples: np.ndarray) -> None:
        rows = csv_rows(self, first, samples).splitlines()
        self.cable.write("".join(f"{first + i},{row}\r\n" for i, row in enumerate(rows)).encode())

    def close(self) -> None:
        self.cable.pull_out()


class CobsPeer(LinesPeer):
    query = "?format=cobs"

    def greet(self) -> None:
        named = [f"{name}[{unit}]" for name, unit in zip(self.names, self.units, strict=True)]
        self.cable.write(names_frame(",".join(named)))

    def send(self, first: int, samples: np.ndarray) -> None:
        for begin in range(0, len(samples), 3):
            part = self.in_order(samples[begin : begin + 3])
            time_us = round(self.stamps(first + begin, 1)[0] * 1e6)
            self.cable.write(sample_frame(part, first + begin, time_us))


def json_payload(peer: Peer, first: int, samples: np.ndarray) -> bytes:
    said = {"channels": peer.names, "units": peer.units}
    values = {"seq": first, "t": peer.stamps(first, 1)[0], "samples": peer.in_order(samples).tolist()}
    return json.dumps({**said, **values}).encode()


class MqttPeer(Peer):
    numbered = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.broker = Broker(folder / "broker")
        self.publisher = Publisher(self.broker)

    def open(self, options: SourceOptions) -> Source:
        return open_source(self.broker.uri(), CONTRACT, options)

    def send(self, first: int, samples: np.ndarray) -> None:
        for begin in range(0, len(samples), 4):
            self.publisher.send(self.payload(first + begin, samples[begin : begin + 4]))

    def payload(self, first: int, samples: np.ndarray) -> bytes:
        return json_payload(self, first, samples)

    def close(self) -> None:
        self.publisher.close()
        self.broker.stop()


class MqttBinaryPeer(MqttPeer):
    named = False

    def payload(self, first: int, samples: np.ndarray) -> bytes:
        from sattn_runtime.sources.payload import encode_binary

        return encode_binary(samples, first, self.stamps(first, 1)[0])


class LslPeer(Peer):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._outlet: Outlet | None = None
        self._begin = time.monotonic()

    def open(self, options: SourceOptions) -> Source:
        if self._outlet is None:
            name = f"imu-{os.getpid()}-{next(_count)}"
            self._outlet = Outlet(name, labels=self.names, units=self.units, rate_hz=self.rate_hz)
        return open_source(f"lsl:name={self._outlet.name}", CONTRACT, options)

    def stamps(self, first: int, count: int) -> np.ndarray:
        return self._begin + np.arange(first, first + count) / self.rate_hz

    def send(self, first: int, samples: np.ndarray) -> None:
        assert self._outlet is not None
        self._outlet.push(self.in_order(samples).tolist(), self.stamps(first, len(samples)).tolist())

    def close(self) -> None:
        if self._outlet is not None:
            self._outlet.close()


class UdpPeer(Peer):
    named = rated = stamped = False

    def open(self, options: SourceOptions) -> Source:
        source: Any = plugin_udp.open_source("0", CONTRACT, options)
        self._address = source.socket.getsockname()
        return source  # type: ignore[no-any-return]

    def send(self, first: int, samples: np.ndarray) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(np.ascontiguousarray(samples).tobytes(), self._address)


PEERS: dict[str, type[Peer]] = {
    "replay npz": NpzPeer,
    "replay csv": CsvPeer,
    "mcap json": McapPeer,
    "mcap x-float32": McapFloatsPeer,
    "stdin": StdinPeer,
    "serial lines": LinesPeer,
    "serial cobs": CobsPeer,
    "mqtt json": MqttPeer,
    "mqtt binary": MqttBinaryPeer,
    "lsl": LslPeer,
    "somebody else's": UdpPeer,
}
