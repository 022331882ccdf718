"""Several processes that want the same engine at the same time: one builds, the others wait and take what it made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sattn_edge.engine_store import EngineStore
from sattn_runtime.testing import fake_site
from tests.helpers_device import calls, device_environment
from tests.helpers_run import command_line, environment
from tests.sattn_runtime.tensorrt.helpers_tensorrt import API, build_one, fake, save

BUILD = "Builder.build_serialized_network"
WAITS = "another sattn-build is at work on this device: waiting for it to end\n"
ARGS = ("--backend", "tensorrt", "--attention", "gemm", "--json")
EIGHT = 8
PATIENCE_S = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(tmp_path)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineStore:
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path / "store"))
    return EngineStore(tmp_path / "store")


class Builders:
    """`sattn-build` in processes of their own, which share one log of what TensorRT was asked for."""

    def __init__(self, path: Path) -> None:
        self._path, self.log = path, path.with_name("calls")
        self._running: list[subprocess.Popen[str]] = []
        self._said: list[Path] = []

    def start(self, *args: str, before: str = "", **config: object) -> subprocess.Popen[str]:
        """Starts one. before: code that it runs first."""
        command = command_line("sattn-build", self._path, *ARGS, *args)
        command[2] = before + command[2]
        paths = os.pathsep.join([str(fake_site()), environment()["PYTHONPATH"]])
        env = {**device_environment(api=API, log=self.log, **config), "PYTHONPATH": paths, "PYTHONWARNINGS": "error"}
        self._said.append(self._path.with_name(f"stderr{len(self._said)}"))
        with self._said[-1].open("w") as said:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=env)
        self._running.append(process)
        return process

    def said(self) -> list[str]:
        """stderr of each so far."""
        return [path.read_text() for path in self._said]

    def reports(self) -> list[dict]:
        """What each printed, once all have ended well."""
        out = [process.communicate(timeout=PATIENCE_S)[0] for process in self._running]
        assert [process.returncode for process in self._running] == [0] * len(self._running), self.said()
        return [json.loads(text) for text in out]

    def built(self) -> int:
        """How often an engine was built."""
        return calls(self.log).count(BUILD)

    def close(self) -> None:
        """Ends those that still run."""
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def builders(path, store) -> Iterator[Builders]:
    builders = Builders(path)
    yield builders
    builders.close()


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize("retune", [False, True], ids=["build", "retune"])
def test_eight_that_ask_at_once_make_one_build(builders, path, store, monkeypatch, retune):
    old = None
    if retune:
        fake(monkeypatch)
        old = build_one(path).manifest
    with store.building():  # so that all eight have asked before one of them can begin
        for _ in range(EIGHT):
            builders.start(*(["--retune"] if retune else []))
        until(lambda: all(WAITS in said for said in builders.said()), f"not all wait: {builders.said()}")
        assert builders.built() == 0
    reports = builders.reports()
    assert builders.built() == 1
    assert sorted(report["remembered"] for report in reports) == [False] + [True] * (EIGHT - 1)
    assert len({(report["plan"], report["created"]) for report in reports}) == 1
    assert all(report["accepted"] for report in reports)
    assert old is None or reports[0]["created"] > old.created
    assert store.leftovers() == []
    assert len(store.entries()) == 1
    builder = next(i for i, report in enumerate(reports) if not report["remembered"])
    silent = [said for i, said in enumerate(builders.said()) if i != builder]
    assert silent == [WAITS] * (EIGHT - 1)  # nothing but that they waited: they built nothing


def test_control_each_that_asks_afterwards_builds(builders):
    for n in (1, 2):
        builders.start("--retune")
        builders.reports()[-1]
        assert builders.built() == n


def test_control_one_without_the_lock_does_not_wait(builders, store):
    with store.building():
        builders.start(before="import fcntl; fcntl.flock = lambda *a: None\n")
        (report,) = builders.reports()
    assert not report["remembered"]
    assert WAITS not in builders.said()[0]


def test_a_builder_that_was_killed_blocks_nobody_and_its_compiler_goes_with_it(builders, store):
    stuck = builders.start(faults={"build": "hang"})
    until(lambda: builders.built() == 1, "it never began to build")
    (child,) = children_of(stuck.pid)
    waiting = builders.start()
    until(lambda: WAITS in builders.said()[1], "the second does not wait")
    assert [p.name[:6] for p in store.leftovers()] == ["build-"]
    stuck.send_signal(signal.SIGKILL)
    out, _ = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 0, builders.said()
    assert not json.loads(out)["remembered"]
    assert builders.built() == 2
    until(lambda: not running(child), "the compiler of the one that was killed is still there")
    assert store.leftovers() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="by /proc")
def test_control_a_compiler_that_hangs_is_there(builders):
    stuck = builders.start(faults={"build": "hang"})
    until(lambda: builders.built() == 1, "it never began to build")
    (child,) = children_of(stuck.pid)
    assert running(child)
    assert stuck.poll() is None


def children_of(pid: int) -> list[int]:
    return [int(n) for task in Path(f"/proc/{pid}/task").iterdir() for n in (task / "children").read_text().split()]


def running(pid: int) -> bool:
    """Whether there is such a process that is not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
