"""The command, on ONNX Runtime as a user starts it."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sattn_runtime.bench.results import read_bench
from tests.helpers_data import ROOT
from tests.helpers_run import finish, start
from tests.sattn_runtime.bench.helpers_bench import FAST
from tests.sattn_runtime.sources.helpers_serial import wait_until


def test_a_run_in_text(cli, model):
    done = cli("sattn-bench", model, "--batch", "1,3", "--threads", "1,2", *FAST)
    assert done.code == 0, done.err
    for words in ("paced at the sensor's rate", "back to back", "p99.9", "wait", "cold", "onnxruntime fp32, batch 3"):
        assert words in done.out
    assert "windows of 16 x 2" in done.out


def test_a_run_in_json_is_one_that_can_be_read_back(cli, model, tmp_path):
    done = cli("sattn-bench", model, "--batch", "1,3", "--hop", "4,8", *FAST, "--json")
    assert done.code == 0, done.err
    (tmp_path / "run.json").write_text(done.out)
    found = read_bench(tmp_path / "run.json")
    assert json.loads(msgspec.json.encode(found)) == done.json
    keys = {(row.configuration, row.mode) for row in found.measurements}
    assert len(keys) == len(found.measurements) == 8
    for row in found.measurements:
        assert row.windows >= 20
        assert row.windows % row.batch == 0
        assert set(row.stages_us) == {"wait", "assemble", "copy_in", "infer", "copy_out", "decide"}
        assert row.deadline_us == pytest.approx(row.hop_samples / 50 / 500 * 1e6)
        means = sum(stage["mean"] or 0 for stage in row.stages_us.values())
        assert means == pytest.approx(row.total_us["mean"], abs=0.1)
        assert row.total_us["p99"] is None
    assert {row.basis for row in found.measurements if row.mode == "paced"} == {"due to done"}
    assert {row.basis for row in found.measurements if row.mode != "paced"} == {"service time only"}


def test_every_key_of_the_json_is_in_the_docs(kept):
    page = (ROOT / "docs" / "bench.md").read_text()
    named = set(re.findall(r"`([a-z_0-9]+)`", page))
    assert _keys(msgspec.to_builtins(kept)) | {"comparison", "energy"} <= named


def _keys(value: Any) -> set[str]:
    """Keys that are fields: not the names of quantiles, stages, sensors or clocks."""
    maps = {"total_us", "stages_us", "temperature_c", "throttled", "cooling", "cpu_mhz", "gpu_mhz", "power_w"}
    if isinstance(value, dict):
        return set(value).union(*(_keys(v) for k, v in value.items() if k not in maps))
    if isinstance(value, (list, tuple)):
        return set().union(*(_keys(v) for v in value))
    return set()


@pytest.mark.parametrize(("limit", "code"), [("1000", 0), ("0.0001", 5)])
def test_a_budget(cli, model, limit, code):
    done = cli("sattn-bench", model, *FAST, "--max-p99-ms", limit)
    assert done.code == code
    assert "p50" in done.out  # the report comes first
    if code:
        assert re.search(r"latency of onnxruntime fp32, batch 1.*the longest of 20 windows is ", done.err)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--backend", "onnxruntim"), 2, "did you mean 'onnxruntime'"),
        (("--backend", "onnxruntime,nothing"), 2, "got 'nothing'"),
        (("--precision", "fp16"), 6, "is not available on onnxruntime"),
        (("--batch", "0"), 2, "--batch: got 0; 1 or more"),
        (("--batch", "4,100000"), 2, "--batch: got 100000; 1 to 1024"),
        (("--batch", "1,x"), 2, "--batch: got '1,x'; whole numbers"),
        (("--hop", "-4"), 2, "--hop: got -4"),
        (("--threads", "1,,2"), 2, "--threads: got '1,,2'"),
        (("--mode", "pace"), 2, "did you mean 'paced'"),
        (("--speed", "0"), 2, "--speed: got 0"),
        (("--speed", "inf"), 2, "--speed: got inf"),
        (("--seconds", "nan"), 2, "--seconds: got nan"),
        (("--windows", "0"), 2, "--windows: got 0"),
        (("--max-p99-ms", "-1"), 2, "--max-p99-ms: got -1"),
        (("--data", "nothing.npz"), 3, "nothing.npz: does not exist"),
        (("--compare", "nothing.json"), 3, "nothing.json: can't be read"),
        (("--batch", ",".join(map(str, range(1, 70)))), 2, "69 configurations; at most 64"),
    ],
)
def test_what_is_refused(cli, model, options, code, words):
    done = cli("sattn-bench", model, *FAST, *options)
    assert done.code == code
    assert words in done.err
    assert done.out == ""


def test_a_backend_that_is_not_installed(cli, model, monkeypatch):
    from sattn_edge import engine

    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    done = cli("sattn-bench", model, "--backend", "tensorrt", *FAST)
    assert done.code == 6
    assert "backend 'tensorrt': is not installed" in done.err


def test_what_could_not_be_judged_is_not_measured(cli, model, tmp_path):
    signal = np.zeros((100, 2), np.float32)
    signal[50, 1] = np.nan
    np.savez(tmp_path / "r.npz", signal=signal)
    done = cli("sattn-bench", model, *FAST, "--data", tmp_path / "r.npz")
    assert done.code == 3
    assert "not finite" in done.err
    np.savez(tmp_path / "r.npz", signal=signal[:10])
    assert "has 10 samples; a window is 16" in cli("sattn-bench", model, *FAST, "--data", tmp_path / "r.npz").err
    np.savez(tmp_path / "r.npz", signal=signal[:50])
    assert cli("sattn-bench", model, *FAST, "--data", tmp_path / "r.npz").code == 0


def test_the_command_stopped_before_its_first_window(model):
    options = ("--max-p99-ms", "1000", "--mode", "paced", "--speed", "0.0001", "--json")
    process = start("sattn-bench", model, *options)
    wait_until("it listens", lambda: _catches(process.pid, signal.SIGTERM), 30)
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.code == 5, done.err
    assert done.json["measurements"] == []
    assert "stopped before a window of it was measured; --max-p99-ms 1000" in done.err


def _catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)
