"""A journal that is rotated, by size and by age, and loses nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sattn_edge.errors import UsageError
from sattn_runtime.journal import Journal, JournalOptions
from sattn_runtime.resume import journal_files
from tests.helpers_engine import FakeClock
from tests.helpers_run import lines_of
from tests.sattn_runtime.helpers_journal import SECOND_NS, Renames, windows, write

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "j.jsonl"


def test_a_journal_is_rotated_by_size_and_loses_nothing(path):
    journal_ = Journal(str(path), JournalOptions(max_mb=0.002, keep=100))
    journal_.start("s", {"model": "m"})
    write(journal_, 0, 100)
    journal_.close()
    names = journal_files(str(path))
    assert len(names) == journal_.rotated + 1 > 5
    assert windows(path) == list(range(100))
    assert max(Path(name).stat().st_size for name in names) <= 2000
    assert min(Path(name).stat().st_size for name in names[:-1]) > 1500
    for name in names[1:]:
        first = lines_of(name)[0]
        assert (first["type"], first["kind"], first["stream"], first["model"]) == ("event", "rotated", "s", "m")
        assert first["at"].endswith("+00:00")
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(Path(name).name for name in names)


def test_the_oldest_go_and_are_counted(path):
    journal_ = Journal(str(path), JournalOptions(max_mb=0.002, keep=3))
    write(journal_, 0, 100)
    journal_.close()
    assert [Path(name).name for name in journal_files(str(path))] == ["j.jsonl.3", "j.jsonl.2", "j.jsonl.1", "j.jsonl"]
    assert journal_.deleted == journal_.rotated - 3 > 0
    kept = windows(path)
    assert kept == list(range(kept[0], 100))


def test_a_flush_larger_than_a_file_stays_whole(path):
    journal_ = Journal(str(path), JournalOptions(max_mb=0.002, keep=100))
    write(journal_, 0, 60, each=20)
    journal_.close()
    assert len(journal_files(str(path))) == 3
    assert windows(path) == list(range(60))


def test_a_journal_is_rotated_by_age(path, monkeypatch):
    clock = FakeClock(monkeypatch)
    journal_ = Journal(str(path), JournalOptions(max_age_h=2, fsync_s=0))
    write(journal_, 0, 1)
    clock.now_ns += 2 * HOUR_NS - 1
    write(journal_, 1, 1)
    assert journal_.rotated == 0
    clock.now_ns += 1
    write(journal_, 2, 2)
    assert journal_.rotated == 1
    clock.now_ns += 5 * HOUR_NS
    write(journal_, 4, 1)
    journal_.close()
    assert [[row["window"] for row in lines_of(name, "window")] for name in journal_files(str(path))] == [
        *([0, 1], [2, 3], [4])
    ]


@pytest.mark.parametrize(("begun", "rotations"), [("2020-01-01T00:00:00+00:00", 1), ("2999-01-01T00:00:00+00:00", 0)])
def test_the_age_of_a_journal_outlives_a_restart(path, begun, rotations):
    path.write_text(f'{{"type":"start","stream":"s","started":"{begun}"}}\n')
    journal_ = Journal(str(path), JournalOptions(max_age_h=24))
    write(journal_, 0, 1)
    journal_.close()
    assert journal_.rotated == rotations


@pytest.mark.parametrize("first", ['{"type":"window","stream":"s"}', '{"type":"start","started":"2020-01-01"}', '{"ty'])
def test_an_age_that_nobody_knows_begins_now(path, first):
    path.write_text(first + "\n" if first.endswith("}") else first)
    journal_ = Journal(str(path), JournalOptions(max_age_h=24))
    write(journal_, 0, 1)
    journal_.close()
    assert journal_.rotated == 0


def test_a_number_that_is_free_is_filled(path):
    for number, name in enumerate(["j.jsonl.3", "j.jsonl.1", "j.jsonl"]):
        journal_ = Journal(str(path.parent / name))
        write(journal_, number, 1)
        journal_.close()
    journal_ = Journal(str(path), JournalOptions(max_mb=1e-5, keep=3))
    write(journal_, 3, 1)
    journal_.close()
    assert (journal_.rotated, journal_.deleted) == (1, 0)
    assert windows(path) == [0, 1, 2, 3]


def test_permissions_are_those_of_the_file_before(path):
    journal_ = Journal(str(path), JournalOptions(max_mb=1e-5))
    path.chmod(0o640)
    write(journal_, 0, 3)
    journal_.close()
    assert {Path(name).stat().st_mode & 0o777 for name in journal_files(str(path))} == {0o640}


def test_a_rotation_that_fails_is_told_and_tried_again(path, monkeypatch):
    clock, told, replace = FakeClock(monkeypatch), [], os.replace

    def refused(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    journal_ = Journal(str(path), JournalOptions(max_mb=0.001, fsync_s=0), told.append)
    monkeypatch.setattr(os, "replace", refused)
    write(journal_, 0, 20)
    assert (journal_.rotated, len(told)) == (0, 1)
    assert "can't be rotated (Permission denied); it goes on in the same file" in told[0]
    monkeypatch.setattr(os, "replace", replace)
    write(journal_, 20, 5)
    assert journal_.rotated == 0
    clock.now_ns += 60 * SECOND_NS
    write(journal_, 25, 1)
    journal_.close()
    assert journal_.rotated == 1
    assert windows(path) == list(range(26))
    assert sorted(p.name for p in path.parent.iterdir()) == ["j.jsonl", "j.jsonl.1"]


@pytest.mark.parametrize("back", [0, 1, 3])
def test_a_rotation_that_fails_between_its_renames_loses_nothing(path, monkeypatch, back):
    """`back`: how often the first rename can't be undone either."""
    clock, told = FakeClock(monkeypatch), []
    renames = Renames(monkeypatch, {(".j.jsonl.next", "j.jsonl"): 1, ("j.jsonl.1", "j.jsonl"): back})
    journal_ = Journal(str(path), JournalOptions(max_mb=0.001, keep=100, fsync_s=0), told.append)
    for number in range(40):
        write(journal_, number, 1)
        assert windows(path) == list(range(number + 1))  # whenever anybody looks
        clock.now_ns += 60 * SECOND_NS
    assert not any(renames.fails.values())
    journal_.close()
    assert (journal_.missing, len(told)) == (0, max(1, back))
    assert "can't be rotated (Input/output error); it goes on in the same file" in told[0]
    assert journal_.rotated == len(journal_files(str(path))) - 1 > 0
    assert journal_files(str(path))[-1] == str(path)


def test_a_journal_that_was_taken_away_does_not_shift_the_others(path, monkeypatch):
    """Try after try they would go up by one, until the oldest was gone."""
    clock, told = FakeClock(monkeypatch), []
    journal_ = Journal(str(path), JournalOptions(max_mb=0.001, keep=3, fsync_s=0), told.append)
    write(journal_, 0, 20)
    others = journal_files(str(path))[:-1]
    before = [Path(name).read_bytes() for name in others]
    path.rename(path.with_name("elsewhere"))
    for number in range(20, 30):
        write(journal_, number, 1)
        clock.now_ns += 60 * SECOND_NS
    journal_.close()
    assert [row["window"] for row in lines_of(path.with_name("elsewhere"), "window")][-10:] == list(range(20, 30))
    assert "can't be rotated (it was moved or deleted)" in told[0]
    assert [Path(name).read_bytes() for name in others] == before
    assert journal_.missing == 0


def test_one_journal_for_each_run(path):
    first = Journal(str(path), JournalOptions(max_mb=0.001))
    write(first, 0, 10)
    with pytest.raises(UsageError, match=r"--journal: '.*j\.jsonl' is written by another run; one journal for each"):
        Journal(str(path))
    first.close()
    Journal(str(path)).close()


@pytest.mark.parametrize("name", ["-", "/dev/null"])
def test_what_is_no_file_is_not_rotated(name, capfd):
    with pytest.raises(UsageError, match=f"--journal: '{name}' is no file and can't be rotated"):
        Journal(name, JournalOptions(max_mb=1))
    Journal(name).close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_mb": 0}, "--journal-max-mb: got 0"),
        ({"max_mb": float("nan")}, "--journal-max-mb: got nan"),
        ({"max_age_h": -1}, "--journal-max-age-h: got -1"),
        ({"keep": 0}, "--journal-keep: got 0"),
        ({"fsync_s": -1}, "--fsync-s: got -1"),
        ({"fsync_s": float("inf")}, "--fsync-s: got inf"),
    ],
)
def test_options_that_cannot_be(path, options, text):
    with pytest.raises(UsageError, match=text):
        Journal(str(path), JournalOptions(**options))
    assert not path.exists()
