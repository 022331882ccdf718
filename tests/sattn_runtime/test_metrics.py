"""`--metrics`, read as Prometheus reads it."""

from __future__ import annotations

import math
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sattn_edge.errors import UnavailableError, UsageError
from sattn_runtime import run as run_module
from sattn_runtime.decision import Decision
from sattn_runtime.latency import Histogram, Latency
from sattn_runtime.metrics import Metrics, _latency, parse_address
from sattn_runtime.observer import Observer
from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import Cli, finish, start

prometheus = pytest.importorskip("prometheus_client")


def read(port: int, host: str = "127.0.0.1") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) -> value, parsed by Prometheus' own parser."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def labelled(found: dict[Any, float], name: str) -> dict[str, float]:
    return {labels[0][1]: value for (key, labels), value in found.items() if key == name}


class Reading(Metrics):
    """Reads itself when so many windows are through, and when all are."""

    at = 7
    seen: dict[Any, float]
    last: dict[Any, float]

    def window(self, stream: str, decision: Decision, emit_ns: int, done_ns: int) -> None:
        super().window(stream, decision, emit_ns, done_ns)
        if decision.window == self.at:
            assert self._result is not None
            self._result.latency.fold()
            self.seen = read(self.port)

    def end(self) -> None:
        self.last = read(self.port)
        super().end()


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunResult, Reading]:
    add_backend(monkeypatch, FakeEngine)
    signal_ = np.ones((100, 2), np.float32)
    signal_[80:90] = np.nan
    stamps = np.arange(100) / 50.0
    stamps[60:] += 2
    np.savez(tmp_path / "r.npz", signal=signal_, timestamp_s=stamps, channels=["c0", "c1"])
    options = RunOptions(
        str(save_model(tmp_path, hop=4)), f"replay:{tmp_path / 'r.npz'}", backend=BACKEND, journal=str(tmp_path / "j")
    )
    told: list[str] = []
    metrics = Reading("0", told.append)
    result = run(options, tell=pytest.fail, stop=Stop(), observers=[metrics])
    assert told == [f"note: metrics are served on port {metrics.port}"]
    return result, metrics


def test_counts_are_the_reports(done):
    result, metrics = done
    last = metrics.last
    assert last["sattn_windows_total", ()] == result.windows > 10
    assert last["sattn_unjudged_total", ()] == result.unjudged > 0
    assert last["sattn_gaps_total", ()] == result.gaps == 1
    assert last["sattn_streams_total", ()] == 1
    assert labelled(last, "sattn_decisions_total") == {"l0": 0, "l1": result.windows - result.unjudged, "l2": 0}
    assert last["sattn_samples_in_total", ()] == 100
    fates = labelled(last, "sattn_samples_total")
    assert fates == {k: v for k, v in result.samples.items() if k not in ("in", "waiting")}
    assert sum(fates.values()) + last["sattn_samples_waiting", ()] == 100
    assert last["sattn_journal_missing_lines", ()] == last["sattn_journal_suspended", ()] == 0
    assert result.recorder.journal is not None
    assert last["sattn_journal_lines_total", ()] == result.recorder.journal.lines
    ((_, about),) = (key for key in last if key[0] == "sattn_info")
    assert dict(about)["backend"] == "fake"


def test_they_are_up_to_date_within_a_run(done):
    _, metrics = done
    assert metrics.seen["sattn_windows_total", ()] == metrics.at + 1
    assert metrics.seen["sattn_latency_seconds_count", ()] == metrics.at + 1


def test_latency_is_the_reports(done):
    result, metrics = done
    last, total = metrics.last, result.latency.total
    assert last["sattn_latency_seconds_count", ()] == result.windows
    assert last["sattn_latency_seconds_sum", ()] == pytest.approx(total.total_ns / 1e9)
    assert last["sattn_stage_seconds", (("quantile", "0.99"), ("stage", "total"))] == pytest.approx(
        total.quantile_ns(0.99) / 1e9
    )
    assert last["sattn_stage_seconds", (("quantile", "1"), ("stage", "infer"))] == pytest.approx(
        result.latency.stages["infer"].max_ns / 1e9
    )
    assert last["sattn_deadline_misses_total", ()] == result.latency.misses
    buckets = [last[key] for key in last if key[0] == "sattn_latency_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == result.windows


def test_buckets_count_what_lies_below_their_edge():
    histogram, values = Histogram(), np.random.default_rng(0).lognormal(12, 2, 5000).astype(np.int64)
    histogram.add_many(values)
    edges = [10**k for k in range(3, 10)]
    exact = [int((values <= edge).sum()) for edge in edges]
    near = [int((abs(values / edge - 1) < 0.008).sum()) for edge in edges]
    *sums, every = histogram.cumulative(edges)
    for found, wanted, slack in zip(sums, exact, near, strict=True):
        assert abs(found - wanted) <= slack
    assert max(near) < 200
    assert every == 5000
    assert histogram.cumulative([0]) == [0, 5000]


def test_a_histogram_read_while_it_is_counted_is_one():
    """Buckets and count are of one moment: Prometheus' strict parser refuses others."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    latency = Latency(10**6)
    latency.add((1000, 2000, 0, 5_500_000, 0, 7), 900, 10**12)
    latency.fold()
    latency.total.count = 0  # what a scrape meets between the two steps of counting

    class Found:
        def collect(self) -> Any:
            return _latency(SimpleNamespace(latency=latency))  # type: ignore[arg-type]

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Found())  # type: ignore[arg-type]
    (family,) = [f for f in text_string_to_metric_families(generate_latest(registry).decode()) if f.type == "histogram"]
    assert [s.value for s in family.samples if s.name.endswith("_count")] == [1]


def test_counts_never_go_back_while_streams_end(tmp_path, monkeypatch):
    """Read on another thread while one stream after another is added to the run's."""
    add_backend(monkeypatch, FakeEngine)
    names, samples = [f"s{i}" for i in range(3000)], np.ones((3000 * 16, 2), np.float32)
    starts = np.arange(3000) * 16
    np.savez(
        tmp_path / "r.npz",
        signal=samples,
        channels=["c0", "c1"],
        rec_start=starts,
        rec_len=np.full(3000, 16),
        rec_name=names,
    )
    seen: list[int] = []
    ended = threading.Event()

    class Counter(Observer):
        def begin(self, result: RunResult) -> None:
            def count() -> None:
                while not ended.is_set():
                    seen.append(result.totals()["windows"])

            self.thread = threading.Thread(target=count, daemon=True)
            self.thread.start()

        def end(self) -> None:
            ended.set()
            self.thread.join()

    monkeypatch.setattr(run_module, "_SWITCH_S", 1e-6)
    options = RunOptions(str(save_model(tmp_path)), f"replay:{tmp_path / 'r.npz'}", backend=BACKEND)
    result = run(options, tell=pytest.fail, stop=Stop(), observers=[Counter()])
    assert result.windows == 3000
    assert len(seen) > 10
    assert seen == sorted(seen)


def test_nothing_listens_or_runs_afterwards(done):
    _, metrics = done
    with pytest.raises(OSError, match="refused"):
        read(metrics.port)
    assert not [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]


def test_only_this_machine_can_read_it(done):
    assert parse_address("9101") == ("127.0.0.1", 9101)


@pytest.mark.parametrize(
    ("text", "address"),
    [("0.0.0.0:9101", ("0.0.0.0", 9101)), ("[::1]:80", ("::1", 80)), ("localhost:1", ("localhost", 1))],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "x", "65536", "-1", "host:", ":80", "1.5", "٣"])
def test_what_is_no_address(text):
    with pytest.raises(UsageError, match=r"--metrics: got '.*'; PORT, or HOST:PORT"):
        Metrics(text, pytest.fail)


def test_without_the_package_the_line_is_printed(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(
        UnavailableError, match=r"not installed; install it: pip install 'sattn-edge\[metrics\]'"
    ) as got:
        Metrics("0", pytest.fail)
    assert got.value.exit_code == 6


def test_a_port_that_is_taken(tmp_path, capfd, monkeypatch):
    np.savez(tmp_path / "r.npz", signal=np.ones((100, 2), np.float32), channels=["c0", "c1"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cli = Cli(capfd, monkeypatch)
        done_ = cli("sattn-run", save_model(tmp_path), f"replay:{tmp_path / 'r.npz'}", "--metrics", str(port))
    assert done_.code == 2
    assert f"--metrics: '127.0.0.1:{port}' can't be listened on (Address already in use)" in done_.err


def test_the_real_command(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start("sattn-run", save_model(tmp_path), "-", "--metrics", str(port), "--json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"c0,c1\n" + b"1,2\n" * 32)
    process.stdin.flush()
    deadline, found = time.monotonic() + 30, {}
    while found.get(("sattn_windows_total", ())) != 3 or found.get(("sattn_latency_seconds_count", ())) != 3:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
        try:
            found = read(port)
        except OSError:
            continue
    assert not math.isnan(found["sattn_stage_seconds", (("quantile", "0.99"), ("stage", "total"))])
    process.send_signal(signal.SIGTERM)
    done_ = finish(process)
    assert (done_.code, done_.json["windows"]) == (0, 3)
