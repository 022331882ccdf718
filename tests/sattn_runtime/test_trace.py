"""`--trace`: spans that add up, a bounded file, valid JSON whenever one looks."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import UsageError
from sattn_runtime import trace as trace_module
from sattn_runtime.decision import Decision
from sattn_runtime.latency import STAGES
from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from sattn_runtime.trace import Trace
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import finish, lines_of, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.json"


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    add_backend(monkeypatch, lambda contract: FakeEngine(contract, delay_s=0.001))
    np.savez(tmp_path / "r.npz", signal=np.ones((400, 2), np.float32), channels=["c0", "c1"])
    model, journal = save_model(tmp_path), tmp_path / "j.jsonl"
    return RunOptions(str(model), f"replay:{tmp_path / 'r.npz'}", speed=100.0, backend=BACKEND, journal=str(journal))


def events(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text())
    assert list(found) == ["traceEvents"]
    assert found["traceEvents"][0]["name"] == "process_name"
    return found["traceEvents"][1:]


def traced(options: RunOptions, path: Path) -> RunResult:
    return run(options, tell=pytest.fail, stop=Stop(), observers=[Trace(str(path), pytest.fail)])


def test_every_window_and_its_stages_as_in_the_journal(options, path):
    result = traced(options, path)
    found, rows = events(path), lines_of(options.journal or "", "window")
    windows = [e for e in found if e["name"] == "window"]
    assert [e["args"]["window"] for e in windows] == [row["window"] for row in rows] == list(range(result.windows))
    assert {e["args"]["label"] for e in windows} == {"l1"}
    for event, row in zip(windows, rows, strict=True):
        latency = row["latency_us"]
        end = event["ts"] + event["dur"]
        inner = [e for e in found if e["ph"] == "X" and e is not event and event["ts"] <= e["ts"] < end]
        assert [e["name"] for e in inner] == [s for s in STAGES[1:] if s == "emit" or latency[s]]
        for e in inner:
            assert e["ts"] + e["dur"] <= end + 1e-3
            if e["name"] != "emit":
                assert e["dur"] == pytest.approx(latency[e["name"]], abs=1e-3)
        assert sum(e["dur"] for e in inner) == pytest.approx(event["dur"], abs=1e-2)
    # Windows are one behind the other; only waiting overlaps.
    for a, b in pairwise(windows):
        assert a["ts"] + a["dur"] <= b["ts"] + 1e-3
    waits: dict[int, list[dict[str, Any]]] = {}
    for e in found:
        if e["name"] == "wait":
            waits.setdefault(e["id"], []).append(e)
    for number, (begin, end_) in waits.items():
        assert (begin["ph"], end_["ph"]) == ("b", "e")
        assert end_["ts"] - begin["ts"] == pytest.approx(rows[number - 1]["latency_us"]["wait"], abs=1e-3)


def decision(number: int) -> Decision:
    return Decision(number, number, number + 15, 1, "l1", 0.75, [0.5], (1000, 2000, 0, 5_500_000, 0, 7), 0)


class Idle:
    """What `begin` looks at."""

    class options:
        model = "m"

    class engine:
        class info:
            backend = "b"


def test_the_file_is_bounded_and_has_the_latest(path, monkeypatch):
    monkeypatch.setattr(trace_module, "_MOST_BYTES", 200_000)
    trace = Trace(str(path), pytest.fail)
    trace.begin(Idle())  # type: ignore[arg-type]
    for number in range(5000):
        trace.window("s", decision(number), 100, 10**12 + number * 10**7)
    trace.end()
    assert 100_000 < path.stat().st_size < 200_000 + 2 * (1 << 16)
    kept = [e["args"]["window"] for e in events(path) if e["name"] == "window"]
    assert kept == list(range(kept[0], 5000))
    assert kept[0] > 1000


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_is_written_while_the_run_goes_on(path):
    trace = Trace(str(path), pytest.fail)
    path.write_text("what a run before left")
    trace.begin(Idle())  # type: ignore[arg-type]
    wait_for(lambda: "before" not in path.read_text())
    now = time.monotonic_ns()
    trace.window("s", decision(0), 100, now)
    trace.tick(now)
    assert not events(path)
    trace.tick(now + 10**9)
    wait_for(lambda: events(path))
    assert len([e for e in events(path) if e["name"] == "window"]) == 1
    before = path.stat().st_ino
    trace.tick(now + 30 * 10**9)  # nothing came: nothing is written
    trace.window("s", decision(1), 100, now)
    trace.tick(now + 50 * 10**9)
    wait_for(lambda: path.stat().st_ino != before)
    trace.end()
    assert len([e for e in events(path) if e["name"] == "window"]) == 2
    assert not [t for t in threading.enumerate() if t.name == "sattn-trace"]


def test_it_is_written_ever_less_often_down_to_ten_seconds(path, monkeypatch):
    trace, written = Trace(str(path), pytest.fail), []
    monkeypatch.setattr(trace, "_publish", lambda: written.append(second))
    second = 0.0
    trace.begin(Idle())  # type: ignore[arg-type]
    began = time.monotonic_ns()
    for tenth in range(1, 600):
        second = tenth / 10
        trace.window("s", decision(tenth), 100, began + tenth * 10**8)
        trace.tick(began + tenth * 10**8)
    trace.end()
    steps = [b - a for a, b in pairwise(written[:-1])]
    assert steps == pytest.approx([0.5, 1, 2, 4, 8, 10, 10, 10, 10])


def test_it_is_there_and_valid_after_an_early_kill(tmp_path, path):
    process = start("sattn-run", save_model(tmp_path), "-", "--trace", path, stdin=subprocess.PIPE)
    wait_for(path.exists)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert events(path) == []


def test_it_is_valid_after_a_kill(tmp_path, path):
    """Written every few milliseconds, and killed at random moments."""
    model, data = save_model(tmp_path, hop=1), tmp_path / "r.npz"
    np.savez(data, signal=np.ones((20_000, 2), np.float32), channels=["c0", "c1"])
    often = "import sattn_runtime.trace as t; t._EVERY_NS = 5_000_000; "
    from tests import helpers_run

    rng, sizes = np.random.default_rng(0), set()
    for _ in range(4):
        path.unlink(missing_ok=True)
        argv = helpers_run.command_line("sattn-run", model, f"replay:{data}", "--trace", path)
        argv[2] = often + argv[2]
        process = subprocess.Popen(argv, env=helpers_run.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(path.exists)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        code = finish(process).code
        sizes.add(len(events(path)))
        assert code in (-signal.SIGKILL, 0)
    assert len(sizes) > 1


def test_a_place_that_cannot_be(tmp_path):
    for bad in (tmp_path, tmp_path / "none" / "t.json"):
        with pytest.raises(UsageError, match=r"--trace: '.*' can't be written; a file in a folder that is there"):
            Trace(str(bad), pytest.fail)


def test_a_disk_that_is_full_is_told_once_and_ends_nothing(options, path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(trace_module, "write_atomic", full)
    told: list[str] = []
    result = run(options, tell=told.append, stop=Stop(), observers=[Trace(str(path), told.append)])
    assert result.windows == 49
    assert told == [f"note: trace '{path}': can't be written (No space left on device); it is tried again"]


def test_the_real_command(tmp_path, path):
    data = tmp_path / "r.npz"
    np.savez(data, signal=np.ones((100, 2), np.float32), channels=["c0", "c1"])
    done = finish(start("sattn-run", save_model(tmp_path), f"replay:{data}", "--trace", path, "--json"))
    assert done.code == 0, done.err
    assert len([e for e in events(path) if e["name"] == "window"]) == done.json["windows"] == 11
