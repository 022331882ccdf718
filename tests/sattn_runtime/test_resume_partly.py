"""Of a long journal only what a live stream needs is read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sattn_edge.errors import JournalError
from sattn_runtime import report, resume
from sattn_runtime.journal_file import JournalOptions
from sattn_runtime.resume import GOES_ON, AfterSequence, Positions, journal_files, read_positions
from sattn_runtime.run import RunOptions, run
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import save_model
from tests.sattn_runtime.helpers_numbered import HOP, WINDOW, Lives, Peer, content

ROTATING = JournalOptions(max_mb=0.003, keep=500, fsync_s=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=WINDOW, hop=HOP)


def spoil(journal: Path, newest: int) -> int:
    """Makes all but the newest files unreadable; how many."""
    names = journal_files(str(journal))[:-newest]
    for name in names:
        Path(name).write_text("nonsense\n")
    return len(names)


@pytest.mark.parametrize("seed", range(10))
def test_lives_over_many_files_write_what_one_life_writes(model, tmp_path, monkeypatch, seed):
    """Each but the first two from the newest two files at most: what is before them can't even be read."""
    drawn = random.Random(seed)
    sizes = [drawn.choice((1, 2, 5, 9, 40)) for _ in range(200)]
    add_backend(monkeypatch, FakeEngine)
    whole, journal = tmp_path / "whole.jsonl", tmp_path / "j.jsonl"
    Lives(model, whole, Peer(sizes, set()), monkeypatch, keep=JournalOptions(fsync_s=0)).run(None)
    lives = Lives(model, journal, Peer(sizes, set()), monkeypatch, keep=ROTATING)
    found: list[dict[str, Any]] = []
    spoilt, number = 0, 0
    while lives.run(drawn.randint(30, 60)) is None:
        number += 1
        if number < 2 or len(journal_files(str(journal))) < spoilt + 4:
            continue
        kept = journal_files(str(journal))
        found += [row for name in kept[spoilt:-2] for row in content(Path(name))]
        spoilt = spoil(journal, 2)
    assert spoilt > 2
    found += [row for name in journal_files(str(journal))[spoilt:] for row in content(Path(name))]
    assert found == content(whole)


def test_a_first_run_may_have_begun_anew_so_all_before_it_is_read(model, tmp_path, monkeypatch):
    add_backend(monkeypatch, FakeEngine)
    journal = tmp_path / "j.jsonl"
    lives = Lives(model, journal, Peer([9] * 100, set()), monkeypatch, keep=ROTATING)
    assert lives.run(150) is None
    assert spoil(journal, 2) > 0
    with pytest.raises(JournalError, match="line 1: is no line of a journal"):
        lives.run(None)


def test_what_a_live_stream_needs_is_the_same_however_little_is_read(tmp_path):
    """Histories of runs that went on and runs that did not, cut into files anywhere."""
    partly = 0
    for seed in range(300):
        path = tmp_path / f"{seed}.jsonl"
        write_history(path, random.Random(seed))
        wanted = read_positions(str(path))
        for name in ("a", "b", "none"):
            positions = Positions(str(path))
            positions.need(name)
            at, all_ = positions.get(name), wanted.get(name)
            partly += not positions.whole
            assert AfterSequence(positions, "").get(name) == (
                None if all_ is None or all_.next_sequence is None else all_.next_sequence - 1
            )
            if at is None or all_ is None:
                assert at is all_
                continue
            # What `Record` asks of a live stream's.
            assert (at.window, at.last_sample, at.head) == (all_.window, all_.last_sample, all_.head)
            assert at.shift(50.0) == all_.shift(50.0)
            assert (at.next_sequence, at.next_used, at.next_skip) == (
                all_.next_sequence,
                all_.next_used,
                all_.next_skip,
            )
    assert partly > 100


def write_history(path: Path, drawn: random.Random) -> None:
    """As `Record` writes live streams, in small files."""
    most = {"a": -1, "b": -1}  # the highest window that any run gave
    heads: dict[str, dict[str, Any]] = {}
    files: list[list[dict[str, Any]]] = [[]]
    for run_number in range(drawn.randint(1, 5)):
        resume = drawn.random() < 0.7
        for name in drawn.sample(["a", "b"], drawn.randint(1, 2)):
            goes_on = resume and most[name] >= 0
            heads[name] = {"window_samples": 16, "hop_samples": 4, "run": run_number}
            if goes_on:
                heads[name][GOES_ON] = most[name]
            files[-1].append({"type": "start", "stream": name, **heads[name]})
            window = most[name] + 1 if goes_on else 0
            for _ in range(drawn.choice((0, 1, 5, 20))):
                if drawn.random() < 0.1:
                    files.append([{"type": "event", "stream": name, "kind": "rotated", **heads[name]}])
                if drawn.random() < 0.1:
                    gap = {"sample": 4 * window, "seconds": None, "sequence": drawn.choice((None, 1000 + 4 * window))}
                    files[-1].append({"type": "gap", "stream": name, **gap})
                numbers = {"window": window, "first_sample": 4 * window, "last_sample": 4 * window + 15}
                files[-1].append({"type": "window", "stream": name, **numbers, "sequence": 1000 + 4 * window})
                most[name] = max(most[name], window)
                window += 1
    for at, rows in enumerate(reversed(files)):
        name_ = path if not at else Path(f"{path}.{at}")
        name_.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_stop_is_heard_while_a_journal_is_read(model, tmp_path, monkeypatch):
    add_backend(monkeypatch, FakeEngine)
    journal, stop, taken = tmp_path / "j.jsonl", Stop(), 0
    line = '{"type":"window","stream":"imu","window":%d,"first_sample":%d,"last_sample":%d}\n'
    journal.write_text("".join(line % (i, 4 * i, 4 * i + 15) for i in range(20_000)))
    before = journal.read_bytes()
    take = resume._take

    def counted(*arguments: Any) -> None:
        nonlocal taken
        taken += 1
        stop.ask()
        take(*arguments)

    monkeypatch.setattr(resume, "_take", counted)
    monkeypatch.setattr("sattn_runtime.run.open_source", lambda *_: pytest.fail("opened"))
    options = RunOptions(str(model), "peer:", backend=BACKEND, journal=str(journal), resume=True)
    told: list[str] = []
    result = run(options, tell=told.append, stop=stop)
    assert taken < 5000
    assert (result.stopped, result.windows) == (True, 0)
    assert told == ["note: stopped while the journal was read; nothing was begun"]
    assert journal.read_bytes() == before
    assert any("stopped" in text for text in report.as_text(result))


def test_a_stream_that_the_journal_was_not_read_for_is_a_bug(tmp_path):
    """Of a source that gives another than its only one: to read now what this run has written would be wrong."""
    path = tmp_path / "j.jsonl"
    rotated = {"type": "event", "stream": "a", "kind": "rotated", GOES_ON: 3}
    window = {"type": "window", "stream": "a", "window": 4, "first_sample": 16, "last_sample": 31}
    path.write_text("".join(json.dumps(row) + "\n" for row in (rotated, window)))
    Path(f"{path}.1").write_text("nonsense\n")
    positions = Positions(str(path))
    positions.need("a")
    found = positions.get("a")
    assert found is not None
    assert found.window == 4
    for name, again in (("b", False), ("a", True)):
        with pytest.raises(RuntimeError, match=f"the journal was not read for the stream '{name}'"):
            positions.get(name, again=again)
    with pytest.raises(JournalError, match=r"j\.jsonl\.1', line 1: is no line of a journal"):
        positions.need("b")
