"""`--realtime`: asked of fakes, and for real where this process may."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.contract import Contract
from sattn_edge.errors import UsageError
from sattn_runtime import Decision, realtime
from sattn_runtime.observer import Observer
from sattn_runtime.realtime import PRIORITY, Realtime, RealtimeOptions, parse_cpus
from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import Cli, command_line, environment, finish, start

ALL = RealtimeOptions(realtime=True, cpus=(0,))


class Kernel:
    """Grants or refuses what it is asked, and remembers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.refuse: dict[str, int] = {}
        self.limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        self.status = "CapEff:\t0000000000000000\n"
        monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: self._call("affinity", tuple(sorted(cpus))))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
        monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_OTHER)
        monkeypatch.setattr(
            os, "sched_setscheduler", lambda _, policy, p: self._call("scheduler", (policy, p.sched_priority))
        )
        monkeypatch.setattr(resource, "getrlimit", lambda _: self.limits)
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits: self._call("limit", limits))
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: self)
        monkeypatch.setattr(ctypes, "get_errno", lambda: self.refuse["mlockall"])
        monkeypatch.setattr(realtime, "_status", lambda: iter(self.status.splitlines()))

    def _call(self, name: str, what: object) -> None:
        if name in self.refuse:
            raise OSError(self.refuse[name], os.strerror(self.refuse[name]))
        self.calls.append((name, what))

    def mlockall(self, flags: int) -> int:
        if "mlockall" in self.refuse:
            return -1
        self.calls.append(("mlockall", flags))
        return 0

    def munlockall(self) -> int:
        self.calls.append(("munlockall", None))
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    assert gc.isenabled()
    yield
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_everything_is_asked_for_and_put_back(kernel):
    asked = Realtime(ALL, pytest.fail)
    asked.before_engine()
    assert kernel.calls == [("affinity", (0,)), ("scheduler", (os.SCHED_FIFO, PRIORITY))]
    assert gc.isenabled()
    asked.before_loop()
    assert kernel.calls[2:] == [
        ("scheduler", (os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, PRIORITY)),  # threads to come are ordinary
        ("mlockall", 1 | 2 | 4),
    ]
    assert not gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert asked.granted.refused == {}
    assert asked.granted.given == {
        "cpu": "0,1,2",  # what the kernel says
        "scheduler": f"SCHED_FIFO, priority {PRIORITY}",
        "memory": "locked",
        "collector": "off while windows are decided",
    }
    asked.end()
    assert kernel.calls[4:] == [("munlockall", None), ("scheduler", (os.SCHED_OTHER, 0)), ("affinity", (0, 1, 2))]


def test_nothing_is_asked_for_unasked(kernel):
    asked = Realtime(RealtimeOptions(), pytest.fail)
    asked.before_engine()
    asked.before_loop()
    asked.end()
    assert (kernel.calls, asked.granted.given, asked.granted.refused) == ([], {}, {})


def test_cores_without_real_time(kernel):
    asked = Realtime(RealtimeOptions(cpus=(1, 2)), pytest.fail)
    asked.before_engine()
    asked.before_loop()
    assert kernel.calls == [("affinity", (1, 2))]
    asked.end()


@pytest.mark.parametrize(
    ("what", "number", "said"),
    [
        ("affinity", errno.EINVAL, "--cpu: cpu refused: Invalid argument; this process may use 0,1,2"),
        (
            "scheduler",
            errno.EPERM,
            "--realtime: scheduler refused: Operation not permitted; as a service: LimitRTPRIO=40",
        ),
        ("mlockall", errno.ENOMEM, "--realtime: memory refused: Cannot allocate memory"),
    ],
)
def test_each_refusal_is_said_and_the_rest_still_given(kernel, what, number, said):
    told: list[str] = []
    kernel.refuse[what] = number
    asked = Realtime(ALL, told.append)
    asked.before_engine()
    asked.before_loop()
    (line,) = told
    assert line.startswith(f"note: {said}")
    assert len(asked.granted.given) == 3
    ((_, reason),) = asked.granted.refused.items()
    assert reason in line
    asked.end()


@pytest.mark.parametrize(
    ("limits", "capability", "may"),
    [
        ((8 << 20, 8 << 20), 0, False),
        ((8 << 20, 8 << 20), 1 << 14, True),
        ((8 << 20, 8 << 20), 1 << 13, False),
        ((8 << 20, resource.RLIM_INFINITY), 0, True),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 0, True),
    ],
)
def test_memory_is_not_locked_below_a_limit(kernel, limits, capability, may):
    """With one, later allocations would fail."""
    kernel.limits, kernel.status = limits, f"Name:\tx\nCapEff:\t{capability:016x}\n"
    told: list[str] = []
    asked = Realtime(RealtimeOptions(realtime=True), told.append)
    asked.before_loop()
    asked.end()
    assert (("mlockall", 7) in kernel.calls) == may
    assert [line.partition("refused: ")[2] for line in told] == (
        [] if may else ["locked memory is limited; as a service: LimitMEMLOCK=infinity; else: ulimit -l unlimited"]
    )
    assert (("limit", (-1, -1)) in kernel.calls) == (limits == (8 << 20, resource.RLIM_INFINITY))


def test_a_collector_that_was_off_stays_off(kernel):
    gc.disable()
    try:
        asked = Realtime(RealtimeOptions(realtime=True), pytest.fail)
        asked.before_loop()
        asked.end()
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("text", ["x", "", "1,", "-1", "0;1"])
def test_cores_that_are_none(text):
    with pytest.raises(UsageError, match="--cpu: got"):
        parse_cpus(text)
    assert (parse_cpus(None), parse_cpus("3"), parse_cpus("0,2")) == ((), (3,), (0, 2))


class Looking(FakeEngine):
    """Remembers how it was run."""

    seen: dict[str, Any]

    def infer_stamped(self, x: np.ndarray, stamps: list[int]) -> np.ndarray:
        self.seen = {
            "policy": os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK,
            "cpus": os.sched_getaffinity(0),
            "collector": gc.isenabled(),
            "locked": next(
                int(line.split()[1])
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmLck:")
            ),
        }
        return super().infer_stamped(x, stamps)


def recording(tmp_path: Path) -> str:
    np.savez(tmp_path / "r.npz", signal=np.ones((100, 2), np.float32), channels=["c0", "c1"])
    return f"replay:{tmp_path / 'r.npz'}"


def test_for_real_where_it_is_allowed(tmp_path, monkeypatch):
    engines: list[Looking] = []

    def make(contract: Contract) -> Looking:
        engines.append(Looking(contract))
        return engines[-1]

    add_backend(monkeypatch, make)
    told: list[str] = []
    core = min(os.sched_getaffinity(0))
    before = os.sched_getscheduler(0), os.sched_getaffinity(0)
    options = RunOptions(
        str(save_model(tmp_path)), recording(tmp_path), backend=BACKEND, realtime=RealtimeOptions(True, (core,))
    )
    result = run(options, tell=told.append, stop=Stop())
    seen, granted = engines[0].seen, result.granted
    assert seen["cpus"] == {core}
    assert seen["collector"] is False
    assert set(granted.given) | set(granted.refused) == {"cpu", "scheduler", "memory", "collector"}
    assert (seen["policy"] == os.SCHED_FIFO) == ("scheduler" in granted.given)
    assert (seen["locked"] > 0) == ("memory" in granted.given)
    assert len(told) == len(granted.refused)
    assert (os.sched_getscheduler(0), os.sched_getaffinity(0)) == before


class Helpers(Observer):
    """Remembers the scheduler of each thread at each window, and is a thread of its own."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self._ending = threading.Event()

    def begin(self, result: RunResult) -> None:
        self._thread = threading.Thread(target=self._ending.wait, name="sattn-helper")
        self._thread.start()

    def window(self, stream: str, decision: Decision, emit_ns: int, done_ns: int) -> None:
        for thread in threading.enumerate():
            if thread.native_id is not None and thread.name.startswith(("sattn-", "Main")):
                self.seen[thread.name] = os.sched_getscheduler(thread.native_id) & ~os.SCHED_RESET_ON_FORK

    def end(self) -> None:
        self._ending.set()
        self._thread.join()


def test_threads_that_help_are_ordinary(tmp_path, monkeypatch):
    add_backend(monkeypatch, FakeEngine)
    helpers, told = Helpers(), []
    options = RunOptions(
        str(save_model(tmp_path)),
        recording(tmp_path),
        more_sources=(recording(tmp_path) + "#r",),
        backend=BACKEND,
        journal=str(tmp_path / "j.jsonl"),
        realtime=RealtimeOptions(realtime=True),
    )
    before, others = os.sched_getscheduler(0), {thread.name for thread in threading.enumerate()} - {"MainThread"}
    result = run(options, tell=told.append, stop=Stop(), observers=[helpers])
    if "scheduler" not in result.granted.given:
        pytest.skip("needs the right to choose a scheduler")
    readers = {"MainThread": os.SCHED_FIFO, "sattn-lane-0": os.SCHED_FIFO, "sattn-lane-1": os.SCHED_FIFO}
    ordinary = {"sattn-sync": os.SCHED_OTHER, "sattn-helper": os.SCHED_OTHER}
    seen = {name: policy for name, policy in helpers.seen.items() if name not in others}  # left by another test
    assert seen.items() <= {**readers, **ordinary}.items()
    assert helpers.seen.keys() >= {"MainThread", "sattn-sync", "sattn-helper"}
    assert os.sched_getscheduler(0) == before


def test_an_ordinary_user_keeps_the_flag(kernel, monkeypatch):
    """Only root may take it away; it changes nothing for an ordinary scheduler."""
    ask = os.sched_setscheduler

    def strict(who: int, policy: int, parameter: os.sched_param) -> None:
        if kernel.calls and kernel.calls[-1][1] != (policy, 0) and policy == os.SCHED_OTHER:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        ask(who, policy, parameter)

    monkeypatch.setattr(os, "sched_setscheduler", strict)
    asked = Realtime(RealtimeOptions(realtime=True), pytest.fail)
    asked.before_engine()
    asked.before_loop()
    asked.end()
    assert kernel.calls[-1] == ("scheduler", (os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, 0))


# Takes away the rights to lock memory (14) and to choose a scheduler (23), and what ordinary users have instead.
GIVE_UP = """
import ctypes, resource
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
libc, header, rights = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, rights) == 0
for i in range(3):
    rights[i] &= ~(1 << 14 | 1 << 23)
assert libc.capset(header, rights) == 0
"""


def test_the_command_without_rights_says_so_and_runs(tmp_path):
    argv = command_line(
        "sattn-run", save_model(tmp_path), recording(tmp_path), "--realtime", "--cpu", "0,9999", "--json"
    )
    argv[2] = GIVE_UP + argv[2]
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment())
    done = finish(process)
    assert done.code == 0, done.err
    report = done.json
    assert report["windows"] == 11
    assert set(report["realtime"]["refused"]) == {"scheduler", "memory"}
    assert report["realtime"]["given"] == {"cpu": "0", "collector": "off while windows are decided"}
    assert "note: --realtime: scheduler refused: Operation not permitted" in done.err
    assert "note: --realtime: memory refused: locked memory is limited" in done.err


def test_the_text_report_says_what_is_in_force(tmp_path, capfd, monkeypatch):
    cli = Cli(capfd, monkeypatch)
    done = cli("sattn-run", save_model(tmp_path), recording(tmp_path), "--cpu", str(min(os.sched_getaffinity(0))))
    assert f"real time          cpu {min(os.sched_getaffinity(0))}" in done.out
    assert "real time" not in cli("sattn-run", save_model(tmp_path), recording(tmp_path)).out


def test_a_core_that_is_not_there_is_no_reason_to_stop(tmp_path):
    done = finish(start("sattn-run", save_model(tmp_path), recording(tmp_path), "--cpu", "9999"))
    assert done.code == 0
    assert "note: --cpu: cpu refused: Invalid argument; this process may use 0" in done.err
    assert "cpu REFUSED (Invalid argument" in done.out
