"""One build at a time: who holds the store's lock, who waits, and what a kill does to it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sattn_edge.engine_store import EngineStore
from sattn_edge.errors import UnavailableError
from tests.helpers_run import environment

HOLD = """
import subprocess, sys, time
from pathlib import Path
from sattn_edge.engine_store import EngineStore
with EngineStore(Path(sys.argv[1])).building():
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "store")


@pytest.fixture
def holder(store) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock, and has a child, as one that compiles has."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.communicate()
    os.kill(child, signal.SIGKILL)


def took(store: EngineStore) -> list[str]:
    """What came first in taking the lock: `had` or `waited`. Who waits goes on waiting until the holder has ended."""
    seen: list[str] = []
    one = threading.Event()

    def tell(word: str) -> None:
        seen.append(word)
        one.set()

    def take() -> None:
        with store.building(lambda: tell("waited")):
            tell("had")

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert one.wait(10)
    first = list(seen)
    if first == ["had"]:
        thread.join(10)
    return first


def test_a_free_lock_is_had_without_waiting(store):
    assert took(store) == ["had"]
    assert took(store) == ["had"]  # and is free again


def test_it_is_free_after_an_error(store):
    with pytest.raises(ZeroDivisionError), store.building():
        _ = 1 // 0
    assert took(store) == ["had"]


def test_a_held_one_is_waited_for_and_that_is_told_once(store, holder):
    assert took(store) == ["waited"]


def test_control_without_a_lock_nobody_waits(store, holder, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda handle, how: None)
    assert took(store) == ["had"]


def test_a_holder_that_was_killed_blocks_nobody(store, holder):
    holder.kill()
    holder.wait()
    assert took(store) == ["had"]  # although the child it had is still there


def test_the_lock_is_private_and_looking_up_needs_none(store, holder):
    assert (store.root / "lock").stat().st_mode & 0o777 == 0o600
    assert store.entries() == store.leftovers() == []


def test_a_store_that_can_not_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="can't be written"), EngineStore(tmp_path / "file").building():
        pass
    (tmp_path / "store" / "lock").mkdir(parents=True)
    with (
        pytest.raises(UnavailableError, match=r"can't be written \(Is a directory\)"),
        EngineStore(tmp_path / "store").building(),
    ):
        pass
