"""Every window exactly once, over kills at any point and restarts with `--resume`."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import JournalError, UsageError
from sattn_runtime.journal_file import JournalOptions
from sattn_runtime.resume import journal_files, read_positions
from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.sources.base import Chunk, StreamStart
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine, ListSource
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_kill import KilledError, Killer
from tests.helpers_model import save_model
from tests.helpers_run import finish, lines_of, start

HOP, WINDOW = 4, 16
ROTATING = JournalOptions(max_mb=0.003, keep=50, fsync_s=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=WINDOW, hop=HOP)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings with gaps in them."""
    path = tmp_path_factory.mktemp("data") / "r.npz"
    rng = np.random.default_rng(0)
    signal_, stamps = rng.normal(1.0, 1.0, (300, 2)).astype(np.float32), np.arange(300) / 50.0
    stamps[100:] += 3.0
    stamps[130:] += 1.0
    stamps[220:] += 5.0
    keys = {"rec_start": [0, 160], "rec_len": [160, 140], "rec_name": ["one", "two"], "channels": ["c0", "c1"]}
    np.savez(path, signal=signal_, timestamp_s=stamps, **{k: np.asarray(v) for k, v in keys.items()})
    return path


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    add_backend(monkeypatch, FakeEngine)


def go(model: Path, data: Path, journal: Path, **options: Any) -> RunResult:
    options = {"smooth": 3, "keep": ROTATING, "resume": True, **options}
    wanted = RunOptions(str(model), f"replay:{data}", backend=BACKEND, journal=str(journal), **options)
    return run(wanted, tell=lambda _: None, stop=Stop())


def all_lines(journal: Path, *kinds: str) -> list[dict[str, Any]]:
    rows = [row for name in journal_files(str(journal)) for row in lines_of(name)]
    return [row for row in rows if row["type"] in kinds] if kinds else rows


def content(journal: Path) -> list[dict[str, Any]]:
    """What was decided, without what differs from run to run."""
    return [{k: v for k, v in row.items() if k != "latency_us"} for row in all_lines(journal, "window", "gap")]


def test_a_kill_at_any_call_and_a_restart_give_what_one_run_gives(model, data, tmp_path, monkeypatch, backend):
    killer = Killer(monkeypatch, 0)
    whole = tmp_path / "whole" / "j.jsonl"
    whole.parent.mkdir()
    killer.arm(None)
    result = go(model, data, whole)
    wanted, calls = content(whole), killer.calls
    assert len([row for row in wanted if row["type"] == "gap"]) == 3
    assert result.recorder.journal is not None
    assert result.recorder.journal.rotated >= 3
    assert calls > 30
    torn, chooser = 0, random.Random(1)
    for left in range(calls):
        journal = tmp_path / str(left) / "j.jsonl"
        journal.parent.mkdir()
        for allowed in (left, chooser.randrange(calls)):  # killed twice
            killer.arm(allowed)
            try:
                go(model, data, journal)
            except KilledError:
                pass
            torn += journal.exists() and not (journal.read_bytes() or b"\n").endswith(b"\n")
        killer.arm(None)
        go(model, data, journal)
        assert content(journal) == wanted, left
        again = go(model, data, journal)
        assert content(journal) == wanted
        assert again.recorder.already == again.windows == sum(row["type"] == "window" for row in wanted)
    assert torn > 3  # writes were cut within lines


def test_without_resume_they_would_be_there_twice(model, data, tmp_path, monkeypatch, backend):
    """The control."""
    killer, journal = Killer(monkeypatch, 0), tmp_path / "j.jsonl"
    killer.arm(12)
    with pytest.raises(KilledError):
        go(model, data, journal)
    killer.arm(None)
    go(model, data, journal, resume=False)
    counts = Counter((row["stream"], row["window"]) for row in all_lines(journal, "window"))
    assert max(counts.values()) == 2


def test_sigkill_at_random_moments_of_the_real_command(tmp_path):
    model, journal, data = save_model(tmp_path, window=16, hop=1), tmp_path / "j.jsonl", tmp_path / "r.npz"
    samples = 30_000
    np.savez(data, signal=np.random.default_rng(0).normal(size=(samples, 2)).astype(np.float32), channels=["c0", "c1"])
    options = ("--resume", "--journal", journal, "--journal-max-mb", "1", "--journal-keep", "30")
    rng, kills = random.Random(0), 0

    def written() -> int:
        return sum(Path(name).stat().st_size for name in journal_files(str(journal)))

    for _ in range(4):
        before, process = written(), start("sattn-run", model, f"replay:{data}", *options)
        deadline = time.monotonic() + 30
        while written() <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        kills += finish(process).code == -signal.SIGKILL
    assert kills >= 3  # the control: they did not end by themselves
    done = finish(start("sattn-run", model, f"replay:{data}", *options, "--json"))
    assert done.code == 0, done.err
    assert 0 < done.json["journal_lines"]["windows_already_there"] < samples
    rows = all_lines(journal, "window")
    assert [row["window"] for row in rows] == list(range(samples - 15))
    assert [row["last_sample"] for row in rows] == list(range(15, samples))
    assert len(journal_files(str(journal))) > 5


def test_a_journal_cut_behind_any_line_is_completed(model, data, tmp_path, backend):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    keep = JournalOptions()
    go(model, data, whole, keep=keep)
    lines = whole.read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        cut.write_bytes(b"".join(lines[:count]))
        go(model, data, cut, keep=keep)
        assert content(cut) == content(whole), count
        starts = [row for row in lines_of(cut, "start") if "resumed_behind_window" in row]
        assert len(starts) <= 1
        known = [row["window"] for row in map(json.loads, lines[:count]) if row["type"] == "window"]
        if starts and starts[0]["resumed_behind_window"] >= 0:
            assert starts[0]["resumed_behind_window"] == known[-1]


def test_a_run_that_began_anew_in_the_same_journal_is_the_one_that_goes_on(model, data, tmp_path, monkeypatch, backend):
    """Another run's windows of the same numbers are not this one's."""
    journal, whole, keep = tmp_path / "j.jsonl", tmp_path / "whole.jsonl", JournalOptions(fsync_s=0)
    go(model, data, journal, keep=keep, resume=False)
    before = len(content(journal))
    go(model, data, whole, keep=keep, resume=False, hop=HOP // 2)
    killer = Killer(monkeypatch, 0)
    killer.arm(14)
    with pytest.raises(KilledError):
        go(model, data, journal, keep=keep, resume=False, hop=HOP // 2)
    killer.arm(None)
    assert before < journal.read_bytes().count(b'"window":') < before + len(content(whole)) - 3
    go(model, data, journal, keep=keep, hop=HOP // 2)
    assert content(journal)[before:] == content(whole)


# ------------------------------------------------------------------ live sources


def rows(count: int) -> bytes:
    return b"c0,c1\n" + b"1,2\n" * count


def test_a_live_stream_is_numbered_on_and_its_hole_is_written(model, tmp_path):
    journal = tmp_path / "j.jsonl"
    for count in (50, 40, 7, 60):
        process = start("sattn-run", model, "-", "--journal", journal, "--resume", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(rows(count))
        process.stdin.close()
        process.stdin = None
        finish(process)
    windows, gaps = lines_of(journal, "window"), lines_of(journal, "gap")
    assert [row["window"] for row in windows] == list(range(9 + 7 + 0 + 12))
    assert [windows[i]["last_sample"] for i in (8, 15)] == [47, 48 + 39]
    assert [(row["sample"], row["seconds"], row["cause"]) for row in gaps] == [
        (48, None, "resumed"),
        *[(88, None, "resumed")] * 2,  # the third run made no window
    ]
    for row in windows:
        assert row["last_sample"] - row["first_sample"] == 15
    assert (windows[9]["first_sample"], windows[16]["first_sample"]) == (48, 88)


def test_a_live_source_that_begins_again_within_a_run(model, tmp_path, monkeypatch, backend):
    chunk = Chunk(np.ones((30, 2), np.float32), None)
    items = [StreamStart("imu"), chunk, StreamStart("imu"), chunk, StreamStart("other"), chunk]
    monkeypatch.setattr("sattn_runtime.run.open_source", lambda *_: ListSource(items))
    go(model, tmp_path, tmp_path / "j.jsonl", keep=JournalOptions())
    found = [(r["stream"], r["window"], r["first_sample"]) for r in lines_of(tmp_path / "j.jsonl", "window")]
    assert found == [
        *[("imu", i, 4 * i) for i in range(4)],
        *[("imu", 4 + i, 30 + 4 * i) for i in range(4)],
        *[("other", i, 4 * i) for i in range(4)],
    ]
    assert [(r["stream"], r["sample"]) for r in lines_of(tmp_path / "j.jsonl", "gap")] == [("imu", 30)]


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hop": 8}, "the journal has hop_samples = 4; this run has 8; give the options of the run before"),
        ({"smooth": 1}, "the journal has smooth = 3; this run has 1"),
    ],
)
def test_another_run_is_refused(model, data, tmp_path, backend, change, text):
    journal = tmp_path / "j.jsonl"
    go(model, data, journal)
    before = [Path(name).read_bytes() for name in journal_files(str(journal))]
    with pytest.raises(UsageError, match=f"--resume, stream 'one': {text}"):
        go(model, data, journal, **change)
    assert [Path(name).read_bytes() for name in journal_files(str(journal))] == before
    go(model, data, journal)


def test_another_recording_of_the_same_name_is_refused(model, data, tmp_path, backend):
    journal, other = tmp_path / "j.jsonl", tmp_path / "other.npz"
    other.write_bytes(data.read_bytes())
    go(model, data, journal)
    with pytest.raises(UsageError, match=r"the journal has source = replay:.*; this run has replay:.*other\.npz"):
        go(model, other, journal)


@pytest.mark.parametrize(("journal", "text"), [(None, "the journal is missing"), ("-", "the journal is stdout")])
def test_there_must_be_a_file_to_resume_from(model, data, backend, journal, text):
    with pytest.raises(UsageError, match=f"--resume: {text}; --journal FILE"):
        run(RunOptions(str(model), f"replay:{data}", journal=journal, resume=True), tell=print, stop=Stop())


def test_a_line_that_is_none(tmp_path):
    path = tmp_path / "j"
    path.write_text('{"type":"start","stream":"s"}\nnonsense\n{"type":"start"}\n')
    with pytest.raises(JournalError, match=r"journal '.*j', line 2: is no line of a journal \(.*\); start a new"):
        read_positions(str(path))


def test_positions_are_read_over_rotated_files(tmp_path):
    path = tmp_path / "j"
    line = '{"type":"window","stream":"s","window":%d,"last_sample":%d}\n'
    (tmp_path / "j.3").write_text('{"type":"start","stream":"s","hop_samples":4}\n' + line % (0, 9))
    (tmp_path / "j.1").write_text(line % (1, 13) + '{"type":"gap","stream":"s","sample":40,"seconds":null}\n')
    (tmp_path / "j.6").write_text("not ours: two numbers below it are free")
    path.write_text(
        line % (2, 17) + '{"type":"event","stream":"s","kind":"k","sample":7}\n{"type":"window","stream":"s","window":3'
    )
    assert [Path(name).name for name in journal_files(str(path))] == ["j.3", "j.1", "j"]
    (found,) = read_positions(str(path)).values()
    assert (found.window, found.last_sample, found.gap_sample, found.events) == (2, 17, 40, {("k", None, None): 7})
    assert found.head["hop_samples"] == 4
    assert read_positions(str(tmp_path / "none")) == {}
