"""systemd's side of it, played by a real datagram socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sattn_runtime import Decision
from sattn_runtime.run import RunOptions, run
from sattn_runtime.stop import Stop
from sattn_runtime.systemd import Notifier
from sattn_runtime.testing import FakeEngine
from tests.helpers_engine import BACKEND, FakeClock, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import command_line, environment, finish

S = 1_000_000_000


class Manager:
    """The socket that NOTIFY_SOCKET names."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(30)

    def next(self) -> str:
        return self.socket.recv(4096).decode()

    def waiting(self) -> list[str]:
        found = []
        self.socket.setblocking(False)
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            self.socket.settimeout(30)
            return found


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@sattn-test-{os.getpid()}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    manager_ = Manager(address)
    yield manager_
    manager_.socket.close()


def notifier(address: str, **variables: str) -> Notifier:
    found = Notifier.from_environment({"NOTIFY_SOCKET": address, **variables}, pytest.fail)
    assert found is not None
    return found


def test_a_run_tells_its_manager(tmp_path, manager, address, monkeypatch):
    add_backend(monkeypatch, FakeEngine)
    np.savez(tmp_path / "r.npz", signal=np.ones((100, 2), np.float32), channels=["c0", "c1"])
    options = RunOptions(str(save_model(tmp_path)), f"replay:{tmp_path / 'r.npz'}", backend=BACKEND)
    run(options, tell=pytest.fail, stop=Stop(), observers=[notifier(address)])
    assert manager.waiting() == ["READY=1\nSTATUS=fake fp32, waiting for the first window"]
    stop = Stop()
    stop.ask()
    run(options, tell=print, stop=stop, observers=[notifier(address)])
    assert manager.waiting()[1:] == ["STOPPING=1\nSTATUS=draining"]


def test_the_watchdog_is_fed_at_half_its_time_and_status_every_ten_seconds(manager, address, monkeypatch):
    clock = FakeClock(monkeypatch)
    fed = notifier(address, WATCHDOG_USEC="4000000", WATCHDOG_PID=str(os.getpid()))
    fed._fed_ns = fed._status_ns = clock.now_ns
    decision = Decision(0, 0, 15, 0, "walk", 0.5, [0.0], (0,) * 6, 0)
    sent = []
    for half_second in range(1, 41):
        clock.now_ns += S // 2
        fed.window("s", decision, 0, clock.now_ns)
        fed.tick(clock.now_ns)
        sent += [(half_second / 2, text) for text in manager.waiting()]
    assert [at for at, text in sent if text == "WATCHDOG=1"] == [2.0 * k for k in range(1, 11)]
    assert [(at, text) for at, text in sent if text != "WATCHDOG=1"] == [
        (10.0, "STATUS=20 windows, last walk"),
        (20.0, "STATUS=40 windows, last walk"),
    ]


@pytest.mark.parametrize(
    ("variables", "fed"),
    [
        ({}, False),
        ({"WATCHDOG_USEC": "10"}, True),
        ({"WATCHDOG_USEC": "10", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "10", "WATCHDOG_PID": str(os.getppid())}, True),  # the shell of a pipeline
        ({"WATCHDOG_USEC": "10", "WATCHDOG_PID": "1" if os.getppid() != 1 else "2"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
    ],
)
def test_whose_watchdog_it_is(manager, address, variables, fed):
    found = notifier(address, **variables)
    found._status_ns = time.monotonic_ns()
    found.tick(time.monotonic_ns())
    assert manager.waiting() == (["WATCHDOG=1"] if fed else [])


@pytest.mark.parametrize("address_", [None, "", "vsock:2:1234", "relative"])
def test_without_a_manager_there_is_nothing_to_tell(address_):
    variables = {} if address_ is None else {"NOTIFY_SOCKET": address_}
    assert Notifier.from_environment(variables, pytest.fail) is None


def test_a_manager_that_is_gone_is_told_of_once_and_ends_nothing(tmp_path):
    told: list[str] = []
    found = Notifier(str(tmp_path / "none"), 1000, told.append)
    for _ in range(3):
        found.stopping()
    assert told == ["note: systemd can't be told 'STOPPING=1' (No such file or directory)"]


def test_a_manager_that_does_not_read_holds_nothing_up(manager, address):
    told: list[str] = []
    found = Notifier(address, 1000, told.append)
    for _ in range(5000):
        found.stopping()
    assert told == ["note: systemd can't be told 'STOPPING=1' (Resource temporarily unavailable)"]


# ------------------------------------------------------------------ the real command


def begin(tmp_path: Path, address: str, code: str = "", **variables: str) -> subprocess.Popen[bytes]:
    model = save_model(tmp_path)
    argv = command_line("sattn-run", model, "-", "--json")
    argv[2] = code + argv[2]
    wanted = {**environment(), "NOTIFY_SOCKET": address, **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=wanted)


def test_the_command_is_ready_alive_and_stops(tmp_path, manager, address):
    process = begin(tmp_path, address, WATCHDOG_USEC="200000")
    assert process.stdin is not None
    assert manager.next().startswith("READY=1\nSTATUS=onnxruntime fp32")
    process.stdin.write(b"c0,c1\n" + b"1,2\n" * 32)
    process.stdin.flush()
    times = []
    for _ in range(5):  # also while nothing comes
        assert manager.next() == "WATCHDOG=1"
        times.append(time.monotonic())
    assert times[-1] - times[0] > 0.3  # not as fast as it can
    process.send_signal(signal.SIGTERM)
    while (text := manager.next()) == "WATCHDOG=1":
        pass
    assert text == "STOPPING=1\nSTATUS=draining"
    done = finish(process)
    assert (done.code, done.json["windows"]) == (0, 3)


HANG = """
import time
from sattn_runtime.stream import Stream
Stream._decide = lambda *a: time.sleep(3600)
"""


def test_a_loop_that_hangs_does_not_feed_its_watchdog(tmp_path, manager, address):
    process = begin(tmp_path, address, HANG, WATCHDOG_USEC="200000")
    assert process.stdin is not None
    assert manager.next().startswith("READY=1")
    assert manager.next() == "WATCHDOG=1"  # the control: it does until it hangs
    process.stdin.write(b"c0,c1\n" + b"1,2\n" * 32)
    process.stdin.flush()
    time.sleep(0.5)
    manager.waiting()
    time.sleep(1.0)
    assert manager.waiting() == []
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_a_run_that_cannot_begin_is_never_ready(tmp_path, manager, address):
    pytest.importorskip("prometheus_client")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        argv = command_line("sattn-run", save_model(tmp_path), "-", "--metrics", port)
        process = subprocess.Popen(
            argv,
            env={**environment(), "NOTIFY_SOCKET": address},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert finish(process).code == 2
    assert manager.waiting() == []
