"""Several sources in one run: each stream is decided on as it would be alone, in its order, and nothing is mixed up."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import RecordingError, UsageError
from sattn_runtime import report
from sattn_runtime.journal_file import JournalOptions
from sattn_runtime.latency import Latency
from sattn_runtime.merged import MergedSources
from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.sources.base import Chunk, Item, Signal, StreamStart
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine, ListSource
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import Cli, lines_of

WINDOW, HOP = 16, 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=WINDOW, hop=HOP)


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Three of them, with gaps, NaN and labels, unlike one another."""
    rng = np.random.default_rng(0)
    found = []
    for i, count in enumerate((300, 500, 90)):
        signal, stamps = rng.normal(i, 1.0, (count, 2)).astype(np.float32), np.arange(count) / 50.0
        stamps[count // 3 :] += 2.0 + i
        signal[count // 2] = np.nan
        path = tmp_path / f"r{i}.npz"
        names = ["l0", "l1", "l2"]
        label = np.full(count, i)
        np.savez(path, signal=signal, timestamp_s=stamps, channels=["c0", "c1"], label=label, class_names=names)
        found.append(path)
    return found


def go(model: Path, sources: list[Path], journal: Path, **options: Any) -> RunResult:
    first, *others = (f"replay:{path}" for path in sources)
    wanted = RunOptions(str(model), first, tuple(others), journal=str(journal), **options)
    return run(wanted, tell=lambda _: None, stop=Stop())


def content(journal: Path, stream: str) -> list[dict[str, Any]]:
    """What a journal says of a stream, without its name and what differs from run to run."""
    left_out = ("latency_us", "stream", "started", "source")
    return [{k: v for k, v in row.items() if k not in left_out} for row in lines_of(journal) if row["stream"] == stream]


def close(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """The same but for the rounding of another batch."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            if key in ("score", "logits") and value is not None:
                assert value == pytest.approx(other[key], rel=1e-4, abs=1e-5)
            else:
                assert value == other[key], key


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_each_stream_is_what_it_is_alone(model, recordings, tmp_path, monkeypatch, batch):
    monkeypatch.setattr("sattn_runtime.run.fastest_batch", lambda _: batch)
    together = tmp_path / "together.jsonl"
    result = go(model, recordings, together)
    alone = [go(model, [path], tmp_path / f"{path.stem}.jsonl") for path in recordings]
    for i, path in enumerate(recordings):
        rows = content(together, f"{i + 1}:{path.stem}")
        assert [row["window"] for row in rows if row["type"] == "window"]
        close(rows, content(tmp_path / f"{path.stem}.jsonl", path.stem))
    assert (result.streams, result.batch) == (3, batch)
    assert result.windows == sum(one.windows for one in alone)
    assert result.gaps == sum(one.gaps for one in alone) == 3
    assert result.samples == {kind: sum(one.samples[kind] for one in alone) for kind in result.samples}
    assert result.samples["in"] == sum(v for k, v in result.samples.items() if k != "in") == 890
    assert result.score.confusion == np.sum([one.score.confusion for one in alone], axis=0).tolist()
    assert report.as_data(result)["score"]["unjudged"] == sum(one.score.unjudged for one in alone)
    assert result.latency.total.count == result.windows


def test_resumed_after_any_part(model, recordings, tmp_path, monkeypatch):
    """Each stream goes on behind its own last window."""
    monkeypatch.setattr("sattn_runtime.run.fastest_batch", lambda _: 4)
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    go(model, recordings, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    for kept in range(0, len(lines), 7):
        cut.write_bytes(b"".join(lines[:kept]))
        go(model, recordings, cut, resume=True, keep=JournalOptions(fsync_s=0))
        for i, path in enumerate(recordings):
            found, wanted = (
                [row for row in content(journal, f"{i + 1}:{path.stem}") if row["type"] != "start"]
                for journal in (cut, whole)
            )
            close(found, wanted)


def test_the_report_names_all(model, recordings, tmp_path):
    result = go(model, recordings[:2], tmp_path / "j.jsonl")
    (line,) = (line for line in report.as_text(result) if line.split()[:1] == ["source"])
    assert f"replay:{recordings[0]}, replay:{recordings[1]}; 2 streams" in line
    assert {row["source"] for row in lines_of(tmp_path / "j.jsonl", "start")} == {f"replay:{p}" for p in recordings[:2]}


def test_one_source_twice_is_refused(capfd, monkeypatch, model, recordings):
    done = Cli(capfd, monkeypatch)("sattn-run", model, str(recordings[0]), str(recordings[0]))
    assert done.code == 2
    assert f"sources: '{recordings[0]}' is given twice; each once" in done.err


def test_the_command_takes_several(capfd, monkeypatch, model, recordings):
    done = Cli(capfd, monkeypatch)("sattn-run", model, *(f"replay:{path}" for path in recordings), "--json")
    assert done.code == 0, done.err
    assert (done.json["streams"], done.json["samples"]["in"]) == (3, 890)


def test_a_source_that_can_not_be_opened_closes_those_before_it(model, recordings, tmp_path, monkeypatch):
    opened = ListSource([])
    closed: list[bool] = []
    monkeypatch.setattr(opened, "close", lambda: closed.append(True))

    def open_source(uri: str, *_: object) -> ListSource:
        if uri.endswith("r1.npz"):
            raise UsageError("x", "y")
        return opened

    monkeypatch.setattr("sattn_runtime.run.open_source", open_source)
    with pytest.raises(UsageError):
        go(model, recordings[:2], tmp_path / "j.jsonl")
    assert closed


def test_an_error_of_one_ends_all_behind_what_came_before(model, tmp_path, monkeypatch):
    add_backend(monkeypatch, FakeEngine)
    chunk = Chunk(np.ones((40, 2), np.float32), None)
    items: dict[str, list[Item | Exception]] = {
        "a:": [StreamStart("a"), chunk, RecordingError("a", "broke")],
        "b:": [StreamStart("b"), chunk],
    }
    monkeypatch.setattr("sattn_runtime.run.open_source", lambda uri, *_: ListSource(items[uri]))
    journal = tmp_path / "j.jsonl"
    with pytest.raises(RecordingError, match="broke"):
        run(RunOptions(str(model), "a:", ("b:",), backend=BACKEND, journal=str(journal)), tell=print, stop=Stop())
    assert [row["window"] for row in lines_of(journal, "window") if row["stream"] == "1:a"] == [0, 1, 2, 3]


def test_what_is_decided_is_acknowledged(model, tmp_path, monkeypatch):
    class Acknowledging(ListSource):
        def __init__(self) -> None:
            numbers = [np.arange(i, i + 8) for i in range(0, 40, 8)]
            chunks = [Chunk(np.ones((8, 2), np.float32), None, sequence=n) for n in numbers]
            super().__init__([StreamStart("imu"), *chunks])
            self.done: list[int] = []

        def acknowledge(self, chunk: Chunk) -> None:
            assert chunk.sequence is not None
            self.done.append(int(chunk.sequence[0]))

    for batch in (1, 4):
        monkeypatch.setattr("sattn_runtime.run.fastest_batch", lambda _, batch=batch: batch)
        sources = {"a:": Acknowledging(), "b:": Acknowledging()}
        monkeypatch.setattr("sattn_runtime.run.open_source", lambda uri, *_, sources=sources: sources[uri])
        options = RunOptions(str(model), "a:", ("b:",), journal=str(tmp_path / f"{batch}.jsonl"))
        result = run(options, tell=lambda _: None, stop=Stop())
        assert result.windows == 8
        assert [source.done for source in sources.values()] == [[0, 8, 16, 24]] * 2


def test_sources_are_not_read_into_memory():
    """The control is the count: without a bound all would be taken at once."""
    source = ListSource([StreamStart("a"), *(Chunk(np.ones((8, 2), np.float32), None) for _ in range(100))])
    source.paced = False
    merged = MergedSources([source])
    time.sleep(0.2)
    assert len(merged.read(1.0)) == 4
    found = 4
    while not merged.ended:
        found += len(merged.read(1.0))
    assert found == 101
    merged.close()
    merged.join()


def test_a_stop_drains_all(model, monkeypatch):
    """Sources that never end by themselves."""

    class Endless:
        paced = True

        def __init__(self) -> None:
            self._closed, self._began = threading.Event(), False

        def read(self, timeout_s: float) -> Item:
            if self._closed.is_set():
                return Signal.END
            if not self._began:
                self._began = True
                return StreamStart("s")
            time.sleep(0.001)
            return Chunk(np.ones((8, 2), np.float32), time.monotonic_ns())

        def close(self) -> None:
            self._closed.set()

    add_backend(monkeypatch, FakeEngine)
    monkeypatch.setattr("sattn_runtime.run.open_source", lambda *_: Endless())
    stop = Stop()
    threading.Timer(0.5, stop.ask).start()
    result = run(RunOptions(str(model), "a:", ("b:", "c:"), backend=BACKEND), tell=lambda _: None, stop=stop)
    assert result.stopped
    assert result.windows > 10
    assert result.samples["in"] == sum(v for k, v in result.samples.items() if k != "in")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("sattn-lane")]


def test_stalls_are_those_of_a_stream():
    """Windows of two streams that alternate, each a second behind its own last one: neither stalled for half of it."""
    latency = Latency(deadline_ns=1_000_000_000)
    for lane in (0, 1):
        latency.new_stream(lane)
    for i in range(600):
        for lane in (0, 1):
            done_ns = i * 1_000_000_000 + lane * 400_000_000
            latency.add((1000 + 500 * lane, 0, 0, 0, 0, 0), 0, done_ns, lane)
    latency.add((1000, 0, 0, 0, 0, 0), 0, 605_000_000_000, 0)
    latency.fold()
    assert latency.longest_stall_ns == 605_000_000_000 - 599_000_000_000 - 1_000_000_000
    assert latency.jitter_us == 0  # between the streams it would be 0.5 us
    assert latency.total.count == 1201
