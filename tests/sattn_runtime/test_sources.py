"""One suite for every source: what the runtime relies on, whoever wrote it. A new source is a new entry in CASES."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError, UnavailableError, UsageError
from sattn_runtime import sources
from sattn_runtime.run import RunOptions, run
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Chunk, Item, Signal, Source, SourceOptions, StreamStart
from sattn_runtime.sources.stdin_csv import StdinSource
from sattn_runtime.stop import Stop
from sattn_runtime.testing import ListSource
from tests.helpers_data import make_contract, save_bundle
from tests.helpers_model import save_model
from tests.helpers_run import lines_of

RATE = 50.0
N = 120
CONTRACT = make_contract(("c0", "c1"), rate_hz=RATE, window=16, hop=8, labels=("l0", "l1", "l2"))
SIGNAL = np.random.default_rng(3).integers(-99, 99, (N, 2)).astype(np.float32) / 2
STAMPS = 100 + np.arange(N) / RATE


@dataclass(frozen=True)
class Case:
    """How a source is opened on SIGNAL, and what is to come of it: the streams' names and where they begin."""

    open: Callable[[Path, SourceOptions], Source]
    streams: tuple[tuple[str, int], ...]
    stamped: bool


def open_npz(folder: Path, options: SourceOptions) -> Source:
    np.savez(folder / "one.npz", signal=SIGNAL, timestamp_s=STAMPS, fs=RATE)
    return open_source(f"replay:{folder / 'one.npz'}", CONTRACT, options)


def open_bundle(folder: Path, options: SourceOptions) -> Source:
    parts = {"p": SIGNAL[:50], "q": SIGNAL[50:]}
    whole = {name: (2 * part).astype(np.int16) for name, part in parts.items()}
    return open_source(f"replay:{save_bundle(folder / 'b.npz', whole, encoding='delta')}", CONTRACT, options)


def as_csv() -> str:
    rows = (f"{b!r},x,{t!r},{a!r}\n" for (a, b), t in zip(SIGNAL.tolist(), STAMPS.tolist(), strict=True))
    return "c1,comment,timestamp_s,c0\n" + "".join(rows)


def open_csv(folder: Path, options: SourceOptions) -> Source:
    (folder / "rec.csv").write_text(as_csv())
    return open_source(f"replay:{folder / 'rec.csv'}", CONTRACT, options)


def open_stdin(folder: Path, options: SourceOptions) -> Source:
    read, write = os.pipe()
    os.write(write, as_csv().encode())
    os.close(write)
    return StdinSource(read, CONTRACT)


def open_list(folder: Path, options: SourceOptions) -> Source:
    return ListSource([StreamStart("list"), Chunk(SIGNAL[:7], None), Chunk(SIGNAL[7:], None)])


CASES = {
    "replay npz": Case(open_npz, (("one", 0),), True),
    "replay bundle": Case(open_bundle, (("p", 0), ("q", 50)), False),
    "replay csv": Case(open_csv, (("rec", 0),), True),
    "stdin": Case(open_stdin, (("stdin", 0),), True),
    "list": Case(open_list, (("list", 0),), False),
}
# At real time a replay of this would take seconds: this is fast, and still a schedule.
SPEEDS = (None, 200.0)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=SPEEDS)
def source(case: Case, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Source]:
    opened = case.open(tmp_path, SourceOptions(request.param, CONTRACT.window, CONTRACT.hop))
    yield opened
    opened.close()


def read_all(source: Source) -> list[Item]:
    """Everything but NOTHING, up to END."""
    found: list[Item] = []
    while (item := source.read(1.0)) is not Signal.END:
        if item is not Signal.NOTHING:
            found.append(item)
    return found


def test_it_is_a_source(source):
    checked: Source = source
    assert isinstance(checked.paced, bool)
    assert checked.paced == source.paced


def test_streams_begin_before_their_samples(case, source):
    items = read_all(source)
    starts = [item for item in items if isinstance(item, StreamStart)]
    assert isinstance(items[0], StreamStart)
    assert [start.name for start in starts] == [name for name, _ in case.streams]
    assert all(isinstance(item, StreamStart | Chunk) for item in items)


def test_the_samples_are_those_that_went_in(case, source):
    streams: list[list[Chunk]] = []
    for item in read_all(source):
        if isinstance(item, StreamStart):
            streams.append([])
        elif isinstance(item, Chunk):
            streams[-1].append(item)
    begins = [begin for _, begin in case.streams]
    for chunks, begin, end in zip(streams, begins, [*begins[1:], N], strict=True):
        for chunk in chunks:
            assert chunk.samples.dtype == np.float32
            assert chunk.samples.ndim == 2
            assert len(chunk.samples) > 0
            assert (chunk.timestamp_s is not None) == case.stamped
        np.testing.assert_array_equal(np.concatenate([c.samples for c in chunks]), SIGNAL[begin:end])
        if case.stamped:
            stamps = [c.timestamp_s for c in chunks if c.timestamp_s is not None]
            assert {s.dtype for s in stamps} == {np.dtype(np.float64)}
            np.testing.assert_array_equal(np.concatenate(stamps), STAMPS[begin:end])


def test_arrivals_are_there_if_it_is_paced_and_never_go_back(source):
    chunks = [item for item in read_all(source) if isinstance(item, Chunk)]
    arrivals = [chunk.arrival_ns for chunk in chunks]
    assert all((arrival is not None) == source.paced for arrival in arrivals)
    known = [arrival for arrival in arrivals if arrival is not None]
    assert known == sorted(known)
    assert all(chunk.period_ns >= 0 for chunk in chunks)


def test_the_end_stays_the_end(source):
    read_all(source)
    assert [source.read(0.01) for _ in range(3)] == [Signal.END] * 3


def test_it_may_be_closed_early_and_twice(case, tmp_path):
    source = case.open(tmp_path, SourceOptions(None, 16, 8))
    source.read(1.0)
    source.close()
    source.close()


def test_no_chunk_spans_so_much_that_a_stop_waits_long(tmp_path):
    """At a hop of 1 every sample completes a window; a chunk that was read is decided before a stop is seen."""
    np.savez(tmp_path / "long.npz", signal=np.zeros((5000, 2), np.float32))
    source = open_source(f"replay:{tmp_path / 'long.npz'}", CONTRACT, SourceOptions(None, 16, 1))
    assert max(len(c.samples) for c in read_all(source) if isinstance(c, Chunk)) <= 64
    source = open_source(f"replay:{tmp_path / 'long.npz'}", CONTRACT, SourceOptions(None, 16, 64))
    assert max(len(c.samples) for c in read_all(source) if isinstance(c, Chunk)) == 1024


# ------------------------------------------------------------------ the table


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("rec.npz", r"source 'rec.npz': has no scheme; SCHEME:REST, or - for stdin; schemes: .*; try replay:rec.npz"),
        ("repaly:x", r"source 'repaly:x': unknown scheme 'repaly'; did you mean 'replay'\?"),
        ("mqqt:x", r"unknown scheme 'mqqt'; did you mean 'mqtt'\?"),
        ("xyzzy:x", r"unknown scheme 'xyzzy'; known: lsl, mcap, mqtt, replay, serial, stdin"),
        (":x", r"unknown scheme ''; known: "),
        ("stdin:x", r"source 'stdin:x': names 'x'; stdin: or -; for a file, replay:x"),
    ],
)
def test_an_unknown_scheme(uri, text):
    with pytest.raises(UsageError, match=text):
        open_source(uri, CONTRACT, SourceOptions(None, 16, 8))


def test_a_missing_recording():
    with pytest.raises(RecordingError, match=r"nowhere\.npz: does not exist"):
        open_source("replay:nowhere.npz", CONTRACT, SourceOptions(None, 16, 8))


# ------------------------------------------------------------------ a third party's source: all of it


class SineSource:
    """`sine:HZ:SECONDS`, a generator at the contract's rate."""

    paced = False

    def __init__(self, hz: float, seconds: float, contract: Contract) -> None:
        time = np.arange(round(seconds * contract.rate_hz)) / contract.rate_hz
        wave = np.sin(2 * np.pi * hz * time).astype(np.float32)
        self._items: list[Item] = [StreamStart("sine"), Chunk(np.tile(wave[:, None], contract.modal), None)]

    def read(self, timeout_s: float) -> Item:
        return self._items.pop(0) if self._items else Signal.END

    def close(self) -> None:
        self._items.clear()


def open_sine(rest: str, contract: Contract, options: SourceOptions) -> Source:
    hz, seconds = rest.split(":")
    return SineSource(float(hz), float(seconds), contract)


# ------------------------------------------------------------------ and that is how it is found


def install(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """As if a distribution with this entry point were installed."""
    entry = EntryPoint("sine", value, sources.GROUP)
    found = EntryPoints([entry])
    monkeypatch.setattr(sources, "entry_points", lambda group: found.select(group=group))


def test_a_source_of_somebody_else(tmp_path, monkeypatch):
    install(monkeypatch, f"{__name__}:open_sine")
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.attr])
    model, journal = save_model(tmp_path), tmp_path / "j.jsonl"
    result = run(
        RunOptions(model=str(model), source="sine:1.5:4", journal=str(journal)), tell=lambda _: None, stop=Stop()
    )
    assert result.windows == (200 - 16) // 8 + 1
    assert {row["stream"] for row in lines_of(journal)} == {"sine"}


def test_its_scheme_is_known_and_suggested(monkeypatch):
    install(monkeypatch, "somewhere:open_source")
    with pytest.raises(UsageError, match="schemes: lsl, mcap, mqtt, replay, serial, sine, stdin"):
        open_source("x", CONTRACT, SourceOptions(None, 16, 8))
    with pytest.raises(UsageError, match="did you mean 'sine'"):
        open_source("sin:1:2", CONTRACT, SourceOptions(None, 16, 8))


def test_one_that_cannot_be_loaded(monkeypatch):
    install(monkeypatch, "no_such_package_of_ours:open_source")
    text = r"source 'sine:1:2': 'no_such_package_of_ours:open_source' can't be loaded \(.*\); install its package again"
    with pytest.raises(UnavailableError, match=text):
        open_source("sine:1:2", CONTRACT, SourceOptions(None, 16, 8))


def test_nobody_replaces_a_source_of_ours(tmp_path, monkeypatch):
    found = EntryPoints([EntryPoint("replay", "somewhere:else", sources.GROUP)])
    monkeypatch.setattr(sources, "entry_points", lambda group: found)
    assert open_npz(tmp_path, SourceOptions(None, 16, 8)).read(1.0).name == "one"  # type: ignore[union-attr]
