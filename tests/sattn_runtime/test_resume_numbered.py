"""A live source that numbers its samples, killed anywhere and resumed: what one run in one piece would have written."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import JournalError
from sattn_runtime import report, resume
from sattn_runtime.journal_file import JournalOptions
from sattn_runtime.overload import QueuedSource
from sattn_runtime.resume import GOES_ON, AfterSequence, Positions, journal_files, read_positions
from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions, StreamStart
from sattn_runtime.stop import Stop
from sattn_runtime.stream import Stream
from sattn_runtime.stream_options import StreamOptions
from sattn_runtime.testing import FakeEngine, ListSource
from tests.helpers_data import make_contract
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_kill import KilledError
from tests.helpers_model import save_model
from tests.helpers_run import lines_of

WINDOW, HOP = 16, 4


class Peer:
    """Keeps messages of some samples each until they are acknowledged, as a broker does."""

    def __init__(self, sizes: list[int], lost: set[int]) -> None:
        self.messages: dict[int, Chunk] = {}
        first = 0
        for i, size in enumerate(sizes):
            numbers = np.arange(first, first + size)
            values = np.stack([numbers % 7, numbers % 5], axis=1).astype(np.float32)
            if i not in lost:
                self.messages[first] = Chunk(values, None, sequence=numbers)
            first += size

    def open(self, options: SourceOptions, life: int | None) -> PeerSource:
        return PeerSource(self, options.after_sequence.get("imu"), life)


class PeerSource:
    """One connection: all that is not acknowledged, from the oldest on. Dies after `life` calls."""

    paced = True
    only_stream = "imu"

    def __init__(self, peer: Peer, after: int | None, life: int | None) -> None:
        self._peer, self._life = peer, life
        self._items: list[Item] = [StreamStart("imu")]
        self._first: dict[int, int] = {}
        for first, chunk in sorted(peer.messages.items()):
            assert chunk.sequence is not None
            skip = 0 if after is None else min(len(chunk.samples), max(0, after + 1 - first))
            if skip == len(chunk.samples):
                continue
            given = Chunk(chunk.samples[skip:], None, sequence=chunk.sequence[skip:])
            self._items.append(given)
            self._first[id(given)] = first

    def _live(self) -> None:
        if self._life is not None:
            self._life -= 1
            if self._life < 0:
                raise KilledError

    def read(self, timeout_s: float) -> Item:
        self._live()
        return self._items.pop(0) if self._items else Signal.END

    def acknowledge(self, chunk: Chunk) -> None:
        self._live()
        del self._peer.messages[self._first[id(chunk)]]

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=WINDOW, hop=HOP)


class Lives:
    """Runs on one peer, one behind the other."""

    def __init__(self, model: Path, journal: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self._options = RunOptions(str(model), "peer:", backend=BACKEND, journal=str(journal), resume=True, **options)
        self._peer, self._monkeypatch = peer, monkeypatch

    def run(self, life: int | None) -> RunResult | None:
        opened = lambda _uri, _contract, options: self._peer.open(options, life)  # noqa: E731
        self._monkeypatch.setattr("sattn_runtime.run.open_source", opened)
        try:
            return run(self._options, tell=lambda _: None, stop=Stop())
        except KilledError:
            return None


def content(journal: Path) -> list[dict[str, Any]]:
    """What was decided, without what differs from run to run."""
    return [
        {k: v for k, v in row.items() if k != "latency_us"}
        for row in lines_of(journal)
        if row["type"] in ("window", "gap")
    ]


@pytest.mark.parametrize("seed", range(40))
def test_lives_that_end_anywhere_write_what_one_life_writes(model, tmp_path, monkeypatch, seed):
    drawn = random.Random(seed)
    sizes = [drawn.choice((1, 2, 5, 9, 40)) for _ in range(60)]
    lost = set(drawn.sample(range(10, 58, 2), 3)) if seed % 2 else set()
    hop = drawn.choice((1, 4, 16, 23))
    keep = JournalOptions(fsync_s=0)
    add_backend(monkeypatch, FakeEngine)
    whole = tmp_path / "whole.jsonl"
    Lives(model, whole, Peer(sizes, lost), monkeypatch, hop=hop, keep=keep).run(None)
    wanted = content(whole)
    assert wanted[0]["sequence"] == 0
    assert sum(row["type"] == "gap" for row in wanted) == len(lost)

    journal, peer = tmp_path / "j.jsonl", Peer(sizes, lost)
    lives = Lives(model, journal, peer, monkeypatch, hop=hop, keep=keep)
    for _ in range(200):
        if lives.run(drawn.randint(1, 40)) is not None:
            break
    else:
        lives.run(None)
    assert content(journal) == wanted


def test_without_the_number_windows_are_doubled(model, tmp_path, monkeypatch):
    """The control: a source that is not told where the journal ends gives some again."""
    monkeypatch.setattr("sattn_runtime.record.Recorder.after_sequence", lambda *_: {})
    monkeypatch.setattr("sattn_runtime.stream.Stream.expect", lambda *_: None)
    add_backend(monkeypatch, FakeEngine)
    doubled = 0
    for seed in range(5):
        journal, drawn = tmp_path / f"{seed}.jsonl", random.Random(seed)
        lives = Lives(model, journal, Peer([9] * 60, set()), monkeypatch)
        for life in itertools.chain([drawn.randint(10, 60) for _ in range(8)], [None]):
            lives.run(life)
        sequences = [row["sequence"] for row in content(journal)]
        doubled += len(sequences) - len(set(sequences))
    assert doubled


def test_samples_that_nobody_kept_are_a_gap_of_known_length(model, tmp_path, monkeypatch):
    """A sensor that goes on counting while nobody listens."""
    add_backend(monkeypatch, FakeEngine)
    journal = tmp_path / "j.jsonl"
    options = RunOptions(str(model), "imu:", backend=BACKEND, journal=str(journal), resume=True)
    for first in (100, 500):
        numbers = np.arange(first, first + 30)
        items: list[Item | Exception] = [
            StreamStart("imu"),
            Chunk(np.ones((30, 2), np.float32), None, sequence=numbers),
        ]
        monkeypatch.setattr("sattn_runtime.run.open_source", lambda *_, items=items: ListSource(items))
        run(options, tell=lambda _: None, stop=Stop())
    windows, (gap,) = lines_of(journal, "window"), lines_of(journal, "gap")
    assert [row["window"] for row in windows] == list(range(8))
    assert [row["sequence"] for row in windows] == [*range(100, 113, 4), *range(500, 513, 4)]
    # The window after the last would have begun at 116, which is sample 16 of the stream.
    assert [row["first_sample"] for row in windows[3:]] == [12, 16, 20, 24, 28]
    assert (gap["sample"], gap["missing"], gap["sequence"]) == (16, 500 - 116, 500)


def test_a_sensor_that_counts_anew_is_a_restart(model, tmp_path, monkeypatch):
    add_backend(monkeypatch, FakeEngine)
    journal = tmp_path / "j.jsonl"
    options = RunOptions(str(model), "imu:", backend=BACKEND, journal=str(journal), resume=True)
    for first in (100, 0):
        numbers = np.arange(first, first + 30)
        items: list[Item | Exception] = [
            StreamStart("imu"),
            Chunk(np.ones((30, 2), np.float32), None, sequence=numbers),
        ]
        monkeypatch.setattr("sattn_runtime.run.open_source", lambda *_, items=items: ListSource(items))
        run(options, tell=lambda _: None, stop=Stop())
    (gap,) = lines_of(journal, "gap")
    assert (gap["cause"], gap["seconds"], gap["sequence"]) == ("restart", None, 0)
    assert [row["sequence"] for row in lines_of(journal, "window")] == [*range(100, 113, 4), *range(0, 13, 4)]


# ------------------------------------------------------------------ what a stream still needs


def numbered(first: int, count: int) -> Chunk:
    return Chunk(np.ones((count, 2), np.float32), None, sequence=np.arange(first, first + count))


def test_held_back_samples_are_needed():
    stream = Stream(FakeEngine(make_contract(window=8, hop=8)), options=StreamOptions(clock=_reorder(4)))
    list(stream.process(numbered(0, 8)))
    assert (stream.received, stream.needed_from) == (8, 8)
    list(stream.process(numbered(9, 2)))  # 8 is not there yet
    list(stream.process(numbered(11, 1)))
    assert (stream.received, stream.needed_from, stream.samples["held"]) == (11, 8, 3)
    list(stream.process(numbered(8, 1)))
    assert (stream.received, stream.needed_from, stream.samples["held"]) == (12, 8, 0)


def _reorder(samples: int) -> Any:
    from sattn_runtime.sample_clock import ClockOptions

    return ClockOptions(reorder=samples)


def test_a_window_tells_the_number_of_its_first_sample_across_gaps():
    stream = Stream(FakeEngine(make_contract(window=8, hop=8)))
    found = [d for first in (1000, 1016, 1040) for d in stream.process(numbered(first, 16))]
    assert [d.sequence for d in found] == [1000, 1008, 1016, 1024, 1040, 1048]
    assert [(gap.missing, gap.sequence) for gap in stream.gaps] == [(8, 1040)]
    assert [d.first_sample for d in found] == [0, 8, 16, 24, 32, 40]


def test_a_stream_without_numbers_tells_none():
    stream = Stream(FakeEngine(make_contract(window=8, hop=8)))
    (decision,) = stream.process(Chunk(np.ones((8, 2), np.float32), None, timestamp_s=np.arange(8) / 50))
    assert decision.sequence is None


# ------------------------------------------------------------------ a full queue in front


def test_what_a_full_queue_drops_is_acknowledged():
    """It was the user's wish to lose it: it must not come again."""

    class Source(ListSource):
        def __init__(self, items: list[Item | Exception]) -> None:
            super().__init__(items)
            self.done: list[int] = []
            self.counters = {"bad_lines": 2}

        def acknowledge(self, chunk: Chunk) -> None:
            assert chunk.sequence is not None
            self.done.append(int(chunk.sequence[0]))

    source = Source([StreamStart("imu"), *(numbered(10 * i, 10) for i in range(6))])
    queued = QueuedSource(source, 20, "oldest")
    while queued.queue.dropped < 40:
        pass
    assert source.done == [0, 10, 20, 30]
    assert queued.counters == {"bad_lines": 2}
    assert callable(queued.acknowledge)
    assert not hasattr(QueuedSource(ListSource([]), 20, "oldest"), "acknowledge")


# ------------------------------------------------------------------ of a long journal only what is needed


ROTATING = JournalOptions(max_mb=0.003, keep=500, fsync_s=0)


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
