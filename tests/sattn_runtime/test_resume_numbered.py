"""A live source that numbers its samples, killed anywhere and resumed: what one run in one piece would have written."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from sattn_runtime.journal_file import JournalOptions
from sattn_runtime.run import RunOptions, run
from sattn_runtime.sources.base import Item, StreamStart
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine, ListSource
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import lines_of
from tests.sattn_runtime.helpers_numbered import HOP, WINDOW, Lives, Peer, content, numbered


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=WINDOW, hop=HOP)


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


def listen(model: Path, journal: Path, monkeypatch: pytest.MonkeyPatch, firsts: tuple[int, ...]) -> None:
    """A run behind the other for each number, which is that of the first of the 30 samples that it is given."""
    options = RunOptions(str(model), "imu:", backend=BACKEND, journal=str(journal), resume=True)
    for first in firsts:
        items: list[Item | Exception] = [StreamStart("imu"), numbered(first, 30)]
        monkeypatch.setattr("sattn_runtime.run.open_source", lambda *_, items=items: ListSource(items))
        run(options, tell=lambda _: None, stop=Stop())


def test_samples_that_nobody_kept_are_a_gap_of_known_length(model, tmp_path, monkeypatch):
    """A sensor that goes on counting while nobody listens."""
    add_backend(monkeypatch, FakeEngine)
    journal = tmp_path / "j.jsonl"
    listen(model, journal, monkeypatch, (100, 500))
    windows, (gap,) = lines_of(journal, "window"), lines_of(journal, "gap")
    assert [row["window"] for row in windows] == list(range(8))
    assert [row["sequence"] for row in windows] == [*range(100, 113, 4), *range(500, 513, 4)]
    # The window after the last would have begun at 116, which is sample 16 of the stream.
    assert [row["first_sample"] for row in windows[3:]] == [12, 16, 20, 24, 28]
    assert (gap["sample"], gap["missing"], gap["sequence"]) == (16, 500 - 116, 500)


def test_a_sensor_that_counts_anew_is_a_restart(model, tmp_path, monkeypatch):
    add_backend(monkeypatch, FakeEngine)
    journal = tmp_path / "j.jsonl"
    listen(model, journal, monkeypatch, (100, 0))
    (gap,) = lines_of(journal, "gap")
    assert (gap["cause"], gap["seconds"], gap["sequence"]) == ("restart", None, 0)
    assert [row["sequence"] for row in lines_of(journal, "window")] == [*range(100, 113, 4), *range(0, 13, 4)]
