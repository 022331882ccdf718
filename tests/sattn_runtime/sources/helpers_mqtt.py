"""A real mosquitto on a free port of this machine, and a publisher that loses nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions
from tests.helpers_data import make_contract

TOPIC = "site/imu"
CONTRACT = make_contract(("c0", "c1"), rate_hz=50.0, units=("g", "g"))
OPTIONS = SourceOptions(None, 8, 4, reconnect_s=10.0)


def mosquitto_program() -> str:
    """Where it is; the test is skipped where it is not there."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("needs mosquitto (Debian package mosquitto)")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


class Broker:
    """Keeps sessions over a clean restart, and queues without a bound."""

    def __init__(self, folder: Path, *extra: str, anonymous: bool = True) -> None:
        pytest.importorskip("paho.mqtt.client")  # before there is a process to leave behind
        self._program, self.port = mosquitto_program(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self._conf, self._log = folder / "mosquitto.conf", folder / "mosquitto.log"
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {str(anonymous).lower()}",
            "persistence true",
            f"persistence_location {folder}/",
            "max_queued_messages 0",
            "user root",  # where the tests run as root it would give up the folder
            *extra,
        ]
        self._conf.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", self._conf], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        pytest.fail(f"mosquitto did not start: {self._log.read_text()}")

    def stop(self) -> None:
        """A clean end: it writes its sessions down."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    @property
    def partings(self) -> int:
        """How many clients have said that they go, and everything before that, as far as the broker has read."""
        return self._log.read_text().count("disconnected")

    def forget(self) -> None:
        """Loses every session, as a broker without persistence does."""
        (self._conf.parent / "mosquitto.db").unlink(missing_ok=True)

    def uri(self, query: str = "", topic: str = TOPIC) -> str:
        return f"mqtt://127.0.0.1:{self.port}/{topic}{query}"


class Publisher:
    """Sends with QoS 1, and again after the broker was away."""

    def __init__(self, broker: Broker) -> None:
        mqtt = pytest.importorskip("paho.mqtt.client")
        self._client: Any = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, "publisher", protocol=mqtt.MQTTv311, clean_session=False
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._sent: list[Any] = []

    def send(self, payload: bytes | str | dict[str, Any], *, retain: bool = False) -> None:
        data = json.dumps(payload) if isinstance(payload, dict) else payload
        self._sent.append(self._client.publish(TOPIC, data, 1, retain=retain))

    def flush(self, timeout_s: float = 60.0) -> None:
        """Waits until the broker has all of it."""
        deadline = time.monotonic() + timeout_s
        for info in self._sent:
            info.wait_for_publish(max(0.01, deadline - time.monotonic()))
            assert info.is_published()
        self._sent.clear()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class SlowBroker:
    """Takes connections at once, as the kernel does, and answers one only when `answer` is called.

    refuse: the answer is that nobody is let in.
    """

    def __init__(self, *, refuse: bool = False) -> None:
        self._connack = bytes([0x20, 3, 0, 0x87 if refuse else 0, 0])  # 0x87: not authorized
        self._may_answer, self._ending = threading.Event(), False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def answer(self) -> None:
        self._may_answer.set()

    def uri(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}/{TOPIC}?client=test"

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(OSError), self._listener.accept()[0] as client:
                self._may_answer.wait()
                if self._ending:
                    return
                client.sendall(self._connack)
                while data := client.recv(65536):
                    if b"\x82" in data:  # SUBSCRIBE, one byte of length, then its number
                        at = data.index(b"\x82") + 2
                        client.sendall(b"\x90\x04" + data[at : at + 2] + b"\0\x01")

    def stop(self) -> None:
        self._ending = True
        self._may_answer.set()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._thread.join(5)
        self._listener.close()


def message(seq: int | None, rows: int = 1) -> dict[str, Any]:
    first = 0 if seq is None else seq
    samples = [[first + i, -(first + i)] for i in range(rows)]
    return {"samples": samples} if seq is None else {"seq": seq, "t": seq / 50, "samples": samples}


def take(source: Any, samples: int, wait_s: float = 10.0) -> list[Item]:
    """Items until so many samples came, or no more do."""
    found: list[Item] = []
    deadline = time.monotonic() + wait_s
    while sum(len(i.samples) for i in found if isinstance(i, Chunk)) < samples and time.monotonic() < deadline:
        item = source.read(0.1)
        if item is Signal.END:
            break
        if item is not Signal.NOTHING:
            found.append(item)
    return found


def quiet(source: Any) -> None:
    assert source.read(0.5) is Signal.NOTHING


def chunks(items: list[Item]) -> list[Chunk]:
    return [item for item in items if isinstance(item, Chunk)]


def numbers(items: list[Item]) -> list[int]:
    return [int(n) for chunk in chunks(items) if chunk.sequence is not None for n in chunk.sequence]


def firsts(items: list[Item]) -> list[float]:
    return [float(v) for chunk in chunks(items) for v in chunk.samples[:, 0]]


def let_go(source: Any) -> None:
    """Ends a source as a kill would: nothing of what it holds is acknowledged."""
    source.close()
    source.close()
