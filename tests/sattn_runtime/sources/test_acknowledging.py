"""The run loop and sources that acknowledge or count: what is done with is acknowledged, and nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import RecordingError, UsageError
from sattn_runtime import acknowledge, report, sources
from sattn_runtime import run as run_module
from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Chunk, Item, Signal, SourceOptions, StreamStart
from sattn_runtime.stop import Stop
from sattn_runtime.testing import ListSource
from tests.helpers_data import make_contract
from tests.helpers_model import save_model
from tests.helpers_run import finish, lines_of, start
from tests.sattn_runtime.sources.helpers_mqtt import Broker, Publisher
from tests.sattn_runtime.sources.helpers_serial import Cable, wait_until

CONTRACT = make_contract(("c0", "c1"), rate_hz=50.0, window=16, hop=8)


class Acknowledging(ListSource):
    """Remembers what was acknowledged, and how many windows were in the journal by then."""

    def __init__(self, items: list[Item | Exception], journal: Path) -> None:
        super().__init__(items)
        self.done: list[tuple[int, int]] = []
        self.counters = {"bad_lines": 3, "reconnects": 0}
        self._journal = journal

    def acknowledge(self, chunk: Chunk) -> None:
        assert chunk.sequence is not None
        self.done.append((int(chunk.sequence[-1]), len(lines_of(self._journal, "window"))))


def chunk(first: int, count: int = 1) -> Chunk:
    numbers = np.arange(first, first + count)
    return Chunk(np.zeros((count, 2), np.float32), None, sequence=numbers)


def run_list(
    folder: Path, items: list[Item | Exception], monkeypatch: pytest.MonkeyPatch
) -> tuple[RunResult, Acknowledging]:
    source = Acknowledging(items, folder / "j.jsonl")
    monkeypatch.setattr(run_module, "open_source", lambda *_: source)
    options = RunOptions(model=str(save_model(folder)), source="list:", journal=str(folder / "j.jsonl"))
    return run(options, tell=lambda _: None, stop=Stop()), source


def test_a_chunk_is_done_with_when_no_window_to_come_needs_it(tmp_path, monkeypatch):
    """Windows of 16 every 8: with the window that ends at sample 15, samples up to 7 are done with."""
    _, source = run_list(tmp_path, [StreamStart("a"), *(chunk(i) for i in range(40))], monkeypatch)
    expected = [(i, 1 + i // 8) for i in range(32)]
    assert source.done == expected


def test_a_chunk_that_reaches_into_the_next_window_waits_whole(tmp_path, monkeypatch):
    _, source = run_list(tmp_path, [StreamStart("a"), *(chunk(i, 5) for i in range(0, 40, 5))], monkeypatch)
    assert source.done == [(4, 1), (9, 2), (14, 2), (19, 3), (24, 4), (29, 4)]  # 32 is where the fifth would begin


def test_a_stream_that_ended_needs_nothing_any_more(tmp_path, monkeypatch):
    items: list[Item | Exception] = [StreamStart("a"), chunk(0, 20), StreamStart("b"), chunk(20, 16)]
    _, source = run_list(tmp_path, items, monkeypatch)
    assert source.done == [(19, 1)]  # at the start of b; what waits in b at the end is not done with


class Leaving(ListSource):
    """Live: gives all it has, then nothing until it is closed. Closed twice it lets its peer go, as MQTT does."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__([StreamStart(name), *(chunk(i) for i in range(count))], paced=False)
        self.closes = 0
        self.done: list[int] = []
        self.late: list[int] = []

    def read(self, timeout_s: float) -> Item:
        item = super().read(timeout_s)
        return Signal.NOTHING if item is Signal.END and not self.closes else item

    def acknowledge(self, chunk: Chunk) -> None:
        assert chunk.sequence is not None
        (self.late if self.closes > 1 else self.done).append(int(chunk.sequence[0]))

    def close(self) -> None:
        self.closes += 1


@pytest.mark.parametrize("number", [1, 2])
def test_the_last_acknowledgement_comes_before_a_peer_is_let_go(tmp_path, monkeypatch, number):
    made = [Leaving(f"s{i}", 40) for i in range(number)]
    rest = list(made)
    monkeypatch.setattr(run_module, "open_source", lambda *_: rest.pop(0))
    stop = Stop()
    options = RunOptions(str(save_model(tmp_path)), "list:0", more_sources=("list:1",)[: number - 1])
    run(options, tell=lambda _: None, stop=stop, listen=lambda *_: stop.ask())
    for source in made:
        # Windows of 16 every 8: the fourth ends at 39, and what the fifth would need is not done with.
        assert (source.done, source.late) == (list(range(32)), [])
        assert source.closes >= 2


def test_a_long_window_does_not_hold_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(acknowledge, "_MOST_HELD", 4)
    _, source = run_list(tmp_path, [StreamStart("a"), *(chunk(i) for i in range(16))], monkeypatch)
    assert [number for number, _ in source.done] == list(range(12))


def test_what_the_source_counted_is_in_the_report(tmp_path, monkeypatch):
    result, _ = run_list(tmp_path, [StreamStart("a"), chunk(0, 40)], monkeypatch)
    assert report.as_data(result)["source_counters"] == {"bad_lines": 3, "reconnects": 0}
    assert [line.split() for line in report.as_text(result) if "source counted" in line] == [
        ["source", "counted", "3", "bad", "lines"]
    ]


def test_a_source_that_does_neither_is_fine(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "open_source", lambda *_: ListSource([StreamStart("a"), chunk(0, 40)]))
    result = run(RunOptions(model=str(save_model(tmp_path)), source="x:"), tell=lambda _: None, stop=Stop())
    assert result.counters == {}
    assert not [line for line in report.as_text(result) if "source counted" in line]


def test_an_error_acknowledges_nothing_more(tmp_path, monkeypatch):
    items: list[Item | Exception] = [StreamStart("a"), chunk(0, 20), RecordingError("x", "y")]
    with pytest.raises(RecordingError):
        run_list(tmp_path, items, monkeypatch)


def test_reconnect_s_is_checked(tmp_path):
    with pytest.raises(UsageError, match=r"--reconnect-s: got -1.0; seconds, 0 or more"):
        run(RunOptions(model="x", source="x:", reconnect_s=-1.0), tell=lambda _: None, stop=Stop())


# ------------------------------------------------------------------ the command on live sources


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=16, hop=8)


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `sattn-run`; none is left behind by a test that fails."""
    started: list[subprocess.Popen[bytes]] = []

    def run_it(*arguments: str | Path) -> subprocess.Popen[bytes]:
        started.append(start("sattn-run", *arguments))
        return started[-1]

    yield run_it
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for(journal: Path, kind: str, count: int) -> None:
    wait_until(f"{count} {kind} lines", lambda: journal.exists() and len(whole_lines(journal, kind)) >= count, 30)


def whole_lines(journal: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in journal.read_text().split("\n")[:-1]]
    return [row for row in rows if row["type"] == kind]


def test_a_serial_port_that_goes_and_comes_back_and_goes_for_good(model, tmp_path, command):
    cable, journal = Cable(tmp_path), tmp_path / "j.jsonl"
    try:
        options = ("--journal", journal, "--reconnect-s", "2")
        process = command(model, f"serial:{cable.port}", *options)
        wait_until("the port is open", lambda: opened_by(process.pid, cable.port))
        cable.write(b"c0,c1\n" + b"1,2\n" * 20)
        wait_for(journal, "window", 1)
        cable.pull_out()
        cable.plug_in()
        wait_until("the port is open again", lambda: opened_by(process.pid, cable.port))
        cable.write(b"c0,c1\n" + b"3,4\n" * 16)
        wait_for(journal, "window", 2)
    finally:
        cable.pull_out()
    done = finish(process)
    assert done.code == 8
    assert "was unplugged and did not come back; --reconnect-s 2" in done.err
    assert [row["first_sample"] for row in lines_of(journal, "window")] == [0, 0]  # no window spans the hole
    assert len(lines_of(journal, "start")) == 2


def opened_by(pid: int, path: Path) -> bool:
    if not path.exists():
        return False
    target = path.resolve()
    return any(link.resolve() == target for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists())


def test_a_killed_run_goes_on_with_the_next_window(model, tmp_path, command):
    """Nothing that a window needs was acknowledged, so the second run begins where the next window does."""
    broker = Broker(tmp_path / "broker")
    publisher = Publisher(broker)
    try:
        first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
        open_source(broker.uri(), CONTRACT, SourceOptions(None, 16, 8)).close()  # the broker keeps it for whom it knows
        process = command(model, broker.uri(), "--journal", first)
        for i in range(30):
            publisher.send({"seq": i, "samples": [[i, 0]]})
        wait_for(first, "window", 2)  # 0 to 15 and 8 to 23; the next begins at 16
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        finish(process)
        for i in range(30, 40):
            publisher.send({"seq": i, "samples": [[i, 0]]})
        process = command(model, broker.uri(), "--journal", second, "--json")
        wait_for(second, "window", 2)
        process.send_signal(signal.SIGTERM)
        done = finish(process)
        assert done.code == 0, done.err
        # 16 to 39: two whole windows and nothing left over
        assert (done.json["samples"]["in"], done.json["windows"]) == (24, 2)
        assert done.json["source_counters"] == {}
        assert Counter(row["type"] for row in lines_of(second)) == {"start": 1, "window": 2}
    finally:
        publisher.close()
        broker.stop()


def test_the_table_has_every_source_of_ours():
    assert set(sources.SOURCES) == {"lsl", "mcap", "mqtt", "replay", "serial", "stdin"}


@pytest.mark.parametrize(
    ("uri", "package", "extra"),
    [
        ("mqtt://h/t", "paho.mqtt.client", "mqtt"),
        ("serial:/dev/null", "serial", "serial"),
        ("serial:/dev/null?format=cobs", "cobs.cobs", "serial"),
        ("lsl:name=x", "pylsl", "lsl"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(model, uri, package, extra, monkeypatch):
    from sattn_edge.errors import UnavailableError

    monkeypatch.setitem(__import__("sys").modules, package, None)
    text = rf"needs the package {package.partition('.')[0]} \(.*\); install it: pip install 'sattn-edge\[{extra}\]'"
    with pytest.raises(UnavailableError, match=text) as caught:
        run(RunOptions(model=str(model), source=uri), tell=lambda _: None, stop=Stop())
    assert caught.value.exit_code == 6
