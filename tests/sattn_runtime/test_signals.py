"""Ctrl-C and SIGTERM on the real command: it drains, reports, and its journal is whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import InterruptedTwiceError
from sattn_runtime.run import RunOptions, run
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import WATCH_TINY
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import WIDE, save_model, save_watch_model
from tests.helpers_run import Done, finish, lines_of, start

WITHIN_S = 2.0
STOPS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return save_watch_model(folder)


def wait_for_lines(journal: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"{journal} never had {count} lines")


def stop(process: subprocess.Popen[bytes], number: int) -> tuple[Done, float]:
    sent = time.monotonic()
    process.send_signal(number)
    done = finish(process)
    return done, time.monotonic() - sent


def check_drained(done: Done, took_s: float, journal: Path) -> dict[str, Any]:
    assert done.code == 0, done.err
    assert took_s < WITHIN_S
    report = done.json
    assert report["stopped"] is True
    assert report["windows"] == len(lines_of(journal, "window")) == report["latency"]["windows"]
    assert report["samples"]["in"] == sum(v for k, v in report["samples"].items() if k != "in")
    return report


@pytest.mark.parametrize("number", STOPS)
def test_a_paced_replay_drains(model, tmp_path, number):
    journal = tmp_path / "j.jsonl"
    options = ("--speed", "20", "--journal", journal, "--json")
    process = start("sattn-run", model, f"replay:{WATCH_TINY}", *options)
    wait_for_lines(journal, 4)
    assert process.poll() is None  # the control: by itself it goes on
    report = check_drained(*stop(process, number), journal)
    assert 0 < report["elapsed_s"] < 10
    assert report["latency"]["basis"] == "due to done"


@pytest.mark.parametrize("number", STOPS)
def test_an_open_pipe_drains(model, tmp_path, number):
    journal = tmp_path / "j.jsonl"
    process = start("sattn-run", model, "-", "--journal", journal, "--json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"ax,ay,az,wx,wy,wz\n" + b"0,0,1,0,0,0\n" * 350)
    process.stdin.flush()
    wait_for_lines(journal, 3)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(number)
    sent = time.monotonic()
    code = process.wait(timeout=30)  # the pipe is still open
    took_s = time.monotonic() - sent
    done = finish(process)
    report = check_drained(Done(code, done.out, done.err), took_s, journal)
    assert (report["windows"], report["samples"]["waiting"]) == (2, 50)


@pytest.fixture
def load() -> Iterator[None]:
    """Both of a small machine's cores have something else to do."""
    burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    yield
    for process in burning:
        process.kill()
        process.wait()


def test_a_chunk_of_more_windows_than_there_is_time_for_is_left_undecided(folder, tmp_path, load):
    """Rows that came in one read, a hop of 1, a large network, a busy machine: draining all takes many seconds."""
    slow, journal = save_watch_model(folder, widths=WIDE, name="wide.onnx"), tmp_path / "j.jsonl"
    process = start("sattn-run", slow, "-", "--hop", "1", "--journal", journal, "--json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"ax,ay,az,wx,wy,wz\n" + b"0,0,1,0,0,0\n" * 60_000)
    process.stdin.flush()
    wait_for_lines(journal, 2)
    done, took_s = stop(process, signal.SIGTERM)
    report = check_drained(done, took_s, journal)
    assert report["samples"]["undecided"] > 100  # the control: it was not done
    assert "drained for 0.75 s; samples that had arrived were left undecided" in done.err


def test_an_engine_that_takes_half_a_second_a_window(tmp_path, monkeypatch):
    add_backend(monkeypatch, lambda contract: FakeEngine(contract, delay_s=0.5))
    data = tmp_path / "r.npz"
    np.savez(data, signal=np.ones((1000, 2), np.float32), channels=["c0", "c1"])
    options = RunOptions(str(save_model(tmp_path, hop=1)), f"replay:{data}", backend=BACKEND)
    asked, told = Stop(), []
    threading.Timer(7.0, asked.ask).start()  # eight windows warm it up
    result = run(options, tell=told.append, stop=asked)
    assert (time.monotonic_ns() - asked.asked_ns) / 1e9 < WITHIN_S
    assert result.stopped
    assert 1 <= result.windows < 20  # a chunk has 32
    assert result.samples["undecided"] > 0
    assert result.samples["in"] == sum(v for k, v in result.samples.items() if k != "in")


def test_the_text_says_that_it_was_stopped(model, tmp_path):
    journal = tmp_path / "j.jsonl"
    process = start("sattn-run", model, f"replay:{WATCH_TINY}", "--speed", "20", "--journal", journal)
    wait_for_lines(journal, 2)
    done, _ = stop(process, signal.SIGTERM)
    assert (done.code, done.err) == (0, "")
    assert "stopped" in done.out
    assert "by a signal, drained" in done.out


def test_a_second_interrupt_ends_it_at_once(folder, tmp_path):
    """Thousands of rows in one read, a hop of 1 and a large network: draining that takes seconds."""
    slow, journal = save_watch_model(folder, widths=WIDE, name="wide.onnx"), tmp_path / "j.jsonl"
    options = ("--hop", "1", "--journal", journal, "--json")
    process = start("sattn-run", slow, "-", *options, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"ax,ay,az,wx,wy,wz\n" + b"0,0,1,0,0,0\n" * 5000)
    process.stdin.flush()
    wait_for_lines(journal, 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # it drains
    done, took_s = stop(process, signal.SIGINT)
    assert (done.code, took_s < WITHIN_S) == (130, True)
    assert done.err == "error: interrupted twice: the run was ended while it drained\n"
    assert done.json["exit_code"] == 130
    assert 1 < len(lines_of(journal)) < 4800


# ------------------------------------------------------------------ the handler itself


def interrupt_twice() -> None:
    with Stop() as stop_:
        signal.raise_signal(signal.SIGINT)
        assert stop_.asked
        signal.raise_signal(signal.SIGINT)


def test_the_first_signal_asks_and_the_second_interrupt_ends():
    with pytest.raises(InterruptedTwiceError, match="interrupted twice: the run was ended while it drained") as caught:
        interrupt_twice()
    assert caught.value.exit_code == 130


def interrupt_inside_an_engine() -> None:
    with Stop():
        signal.raise_signal(signal.SIGTERM)
        try:
            signal.raise_signal(signal.SIGINT)
        except Exception as error:
            raise ValueError("an engine's own words") from error


def test_a_second_interrupt_is_not_mistaken_for_an_error_of_the_code_it_meets():
    with pytest.raises(InterruptedTwiceError):
        interrupt_inside_an_engine()


def test_sigterm_may_come_as_often_as_it_likes():
    with Stop() as stop_:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop_.asked


def test_the_handlers_from_before_come_back():
    before = [signal.getsignal(number) for number in STOPS]
    with Stop() as stop_:
        assert [signal.getsignal(number) for number in STOPS] != before
        stop_.ask()
        assert stop_.asked
    assert [signal.getsignal(number) for number in STOPS] == before
    with pytest.raises(ZeroDivisionError), Stop():
        print(1 / 0)
    assert [signal.getsignal(number) for number in STOPS] == before
