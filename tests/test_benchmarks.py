"""The benchmarks run, in a short form, and print what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers_lowering import Network, build
from tests.helpers_run import environment

ROOT = Path(__file__).resolve().parents[1]


def test_overhead_in_short() -> None:
    command = [sys.executable, "benchmarks/overhead.py", "--windows", "20", "--rounds", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["window"], row["modal"], row["hop"], row["windows"]) == (128, 9, 64, 20)
    for loop in ("stream", "live", "replay"):
        assert row[f"{loop}_ratio"] > 0
        assert row[f"{loop}_outside_us"] > 0


def test_precision_in_short() -> None:
    command = [sys.executable, "benchmarks/precision.py", "--rounds", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["shape"] == [1, 1, 128, 9]
    ratios = row["faster_than_plain"]
    assert ratios["plain"] == 1.0
    assert {"fp32 gemm", "int8 gemm", "int8 reference"} < set(ratios)
    assert min(ratios.values()) > 0


def test_incremental_in_short() -> None:
    """At 128 x 6 every 64, where `edges` has no room: every plan is the full window's to rounding."""
    command = [sys.executable, "benchmarks/incremental.py", "--window", "128", "--modal", "6", "--hop", "64"]
    command += ["--rounds", "1", "--pairs", "4", "--streams", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    rows = {(row["plan"], row["precision"]): row for row in json.loads(done.stdout)}
    assert {(row["window"], row["modal"], row["hop"]) for row in rows.values()} == {(128, 6, 64)}
    assert rows.pop(("edges", "-"))["plan_ms"] is None
    assert all(row["full_ms"] > 0 and row["plan_ms"] > 0 for row in rows.values())
    assert all(row["ratio"] == pytest.approx(row["full_ms"] / row["plan_ms"]) for row in rows.values())
    plain, auto = rows.pop(("plain", "fp32")), [rows.pop((f"auto, {how}", "fp32")) for how in ("counted", "measured")]
    assert plain["ratio"] == 1
    assert plain["max_error"] == 0
    assert {row["pairs"] for row in auto} == {4}
    for precision, within in (("fp32", 1e-5), ("int8", 1e-2)):
        full = rows.pop(("full", precision))
        assert full["multiply_adds"] == plain["multiply_adds"]
        for plan in ("stateful", "stateful x1", "stateful x4", "stateful x8"):
            row = rows.pop((plan, precision))
            assert row["max_error"] <= within
            assert row["multiply_adds"] < full["multiply_adds"]
            assert row["floor_ms"] > 0
    assert not rows


def test_incremental_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    command = [sys.executable, "benchmarks/incremental.py", "--window", "96", "--modal", "1", "--rounds", "1"]
    done = subprocess.run([*command, "--plot", str(tmp_path / "cost.svg")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "window 96 x 1, hop 16" in done.stdout
    drawn = (tmp_path / "cost.svg").read_text()
    assert "stateful int8" in drawn
    assert "ms a window" in drawn


def test_incremental_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that can't be imported is a row with the line that installs it."""
    from benchmarks.incremental_others import others

    for name in ("continual", "litert_torch", "ncnn", "openvino", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    found = {other.name: other for other in others(build(Network()), 16)}
    assert {other.infer for other in found.values()} == {None}
    assert found["openvino"].note == "not installed: pip install openvino"
    assert found["ncnn"].note == "not installed: pip install torch ncnn pnnx"


def test_clock_in_short() -> None:
    command = [sys.executable, "benchmarks/clock.py", "--window", "64", "--rounds", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert set(row) == {"plain", "numbered", "stamped", "both", "monitored", "axes"}
    assert min(row.values()) > 0


def test_false_alarms_in_short() -> None:
    """On the recordings of the tree; those beside it are for `make bench`."""
    command = [sys.executable, "benchmarks/false_alarms.py", "watch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "false 0, reasons {}" in done.stdout
    assert "stuck 42/42, scale 42/42" in done.stdout


def test_instrumentation_in_short() -> None:
    command = [sys.executable, "benchmarks/instrumentation.py", "--windows", "300", "--rounds", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["windows"] == 600
    for case in ("session", "warm"):
        writing, counting = row[f"{case}_writing_us"], row[f"{case}_counting_us"]
        assert 0 < counting < 10_000  # what one window in some hundred costs is not hidden
        assert 0 < writing < 10_000
        assert row[f"{case}_us"] == pytest.approx(writing + counting)
        assert 0 <= row[f"{case}_clock_us"] < writing
        assert row[f"{case}_ratio"] > 0


def test_streams_in_short() -> None:
    """The control must be late, and of a few streams none is."""
    command = [sys.executable, "benchmarks/streams.py", "--streams", "4", "--seconds", "10", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    row = json.loads(done.stdout)
    assert len(row) == 3
    assert row["one by one"]["windows"] == 4 * ((10 * 100 - 128) // 64 + 1)
    assert 0 < row["one by one"]["busy"] < row["control"]["busy"]


def test_steps_do_not_drift() -> None:
    done = _drift("--hops", "20000")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["plan"] for row in rows] == ["edges", "stateful"]
    for row in rows:
        assert row["passed"]
        assert row["last"] == row["second"] <= 1e-5


def test_sums_over_all_that_came_drift() -> None:
    done = _drift("--hops", "20000", "--prefix-sum")
    assert done.returncode == 1
    assert not any(row["passed"] for row in json.loads(done.stdout))


def _drift(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/drift.py", "--json", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
