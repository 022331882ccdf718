"""`sattn-run` as its users meet it: exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.contract import Contract
from sattn_runtime.testing import FakeEngine
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import finish, lines_of, start
from tests.helpers_run_cli import HOP, NAMES, WINDOW, save_labelled


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=WINDOW, hop=HOP)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_labelled(tmp_path_factory.mktemp("data"))


# ------------------------------------------------------------------ what goes well


def test_a_report_on_stdout_and_nothing_on_stderr(cli, model, data):
    done = cli("sattn-run", model, f"replay:{data}")
    assert (done.code, done.err) == (0, "")
    assert "11 of 16 x 2 every 8 samples (0.16 s)" in done.out
    assert "100 in: 96 in windows, 4 waiting" in done.out
    assert "7.5 samples (0.15 s), middle of a window to its end" in done.out
    assert "latency, service time only" in done.out
    assert "(2 without one label throughout)" in done.out
    (total,) = (line.split() for line in done.out.splitlines() if line.startswith("  total"))
    assert all(float(cell.replace(",", "")) > 0 for cell in total[1:])


def test_one_json_object(cli, model, data):
    done = cli("sattn-run", model, f"replay:{data}", "--json", "--hop", "20", "--smooth", "3")
    assert (done.code, done.err) == (0, "")
    report = done.json
    assert (report["windows"], report["streams"], report["hop_samples"], report["window_samples"]) == (5, 1, 20, 16)
    assert report["samples"] == {"in": 100, "in_windows": 80, "skipped": 20, "dropped": 0, "waiting": 0}
    assert report["algorithmic_delay_samples"] == 27.5
    assert report["engine"]["backend"] == "onnxruntime"
    assert report["latency"]["windows"] == 5
    assert report["latency"]["basis"] == "service time only"
    assert report["score"]["windows"] + report["score"]["unscored"] == 5
    assert (report["stopped"], report["journal"]) == (False, None)


def test_a_journal_on_stdout_leaves_the_report_to_stderr(cli, model, data):
    done = cli("sattn-run", model, f"replay:{data}", "--journal", "-")
    assert done.code == 0
    kinds = [json.loads(line)["type"] for line in done.out.splitlines()]
    assert kinds == ["start"] + ["window"] * 11
    assert "11 of 16 x 2" in done.err


def test_json_and_a_journal_do_not_share_stdout(cli, model, data):
    done = cli("sattn-run", model, f"replay:{data}", "--journal", "-", "--json")
    kinds = [json.loads(line)["type"] for line in done.out.splitlines()]
    assert done.code == 2 or kinds == ["start"] + ["window"] * 11


def test_two_runs_append_to_one_journal(cli, model, data, tmp_path):
    for _ in range(2):
        assert cli("sattn-run", model, f"replay:{data}", "--journal", tmp_path / "j").code == 0
    assert [row["type"] for row in lines_of(tmp_path / "j")] == (["start"] + ["window"] * 11) * 2


def test_int8_runs_and_says_in_which_form(cli, model, data, tmp_path):
    path = tmp_path / "calibrated.onnx"
    path.write_bytes(model.read_bytes())
    calibrate_by_hand(path)
    done = cli("sattn-run", path, f"replay:{data}", "--precision", "int8", "--journal", tmp_path / "j")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^engine +onnxruntime 1\.\S+, int8, form gemm, 1 thread$", done.out, re.MULTILINE)
    (start,) = lines_of(tmp_path / "j", "start")
    assert (start["precision"], start["attention"]) == ("int8", "gemm")
    cli("sattn-run", path, f"replay:{data}", "--attention", "taps", "--journal", tmp_path / "fp32")
    (start,) = lines_of(tmp_path / "fp32", "start")
    assert (start["precision"], start["attention"]) == ("fp32", "taps")
    int8, fp32 = (np.array([r["logits"] for r in lines_of(tmp_path / n, "window")]) for n in ("j", "fp32"))
    assert 1e-6 < np.abs(int8 - fp32).max() / np.abs(fp32).max() < 0.2


def test_what_there_is_to_know_of_an_engine_is_told(cli, model, data, tmp_path):
    path = tmp_path / "calibrated.onnx"
    path.write_bytes(model.read_bytes())
    calibrate_by_hand(path, int8=[])
    done = cli("sattn-run", path, f"replay:{data}", "--precision", "int8")
    assert done.code == 0
    assert "note: no layer of calibrated.onnx runs in INT8" in done.err


def test_several_threads_give_the_same(cli, model, data, tmp_path):
    for threads in ("1", "2"):
        cli("sattn-run", model, f"replay:{data}", "--threads", threads, "--journal", tmp_path / threads)
    one, two = (np.array([r["logits"] for r in lines_of(tmp_path / t, "window")]) for t in "12")
    np.testing.assert_allclose(one, two, atol=1e-6 * np.abs(one).max())


def test_a_pipe_gets_no_colours(model, data):
    done = finish(start("sattn-run", model, f"replay:{data}", "--speed", "50"))
    assert done.code == 0
    assert "deadline 160.00 ms: " in done.out
    wrong = finish(start("sattn-run", model, "replay:none.npz"))
    assert wrong.code == 3
    assert "\x1b" not in done.out + done.err + wrong.out + wrong.err


def test_a_reader_that_leaves_is_no_error_of_ours(model, data):
    process = start("sattn-run", model, f"replay:{data}", "--speed", "5", "--journal", "-")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    told = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=30) == 141
    assert "Traceback" not in told


def test_stdin_that_is_a_file(model, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("c0,c1\n" + "1,2\n" * 32)
    with path.open("rb") as file:
        done = finish(start("sattn-run", model, "-", "--json", stdin=file.fileno()))
    assert done.code == 0, done.err
    assert done.json["windows"] == 3


def test_the_help_names_every_exit_code(cli):
    done = cli("sattn-run", "--help")
    assert done.code == 0
    for code in ("0 ok", "2 usage", "3 bad input", "5 a budget", "6 device", "130 interrupted"):
        assert code in " ".join(done.out.split())


def test_a_bug_of_ours_is_told_as_one(cli, model, data, monkeypatch):
    def broken(contract: Contract) -> FakeEngine:
        return FakeEngine(contract, lambda window: [1 / 0])

    add_backend(monkeypatch, broken)
    done = cli("sattn-run", model, f"replay:{data}", "--backend", BACKEND, "--json")
    assert done.code == 1
    assert "This is a bug in sattn-edge" in done.err
    assert done.json == {"error": {"kind": "Bug", "message": "ZeroDivisionError: division by zero"}, "exit_code": 1}


# ------------------------------------------------------------------ budgets


def slowly(contract: Contract) -> FakeEngine:
    return FakeEngine(contract, delay_s=0.004)


def test_a_budget_that_is_missed(cli, model, data, monkeypatch):
    add_backend(monkeypatch, slowly)
    options = ("--backend", BACKEND, "--max-p99-ms")
    done = cli("sattn-run", model, f"replay:{data}", *options, "2")
    assert done.code == 5
    assert "error: latency: p99 is " in done.err
    assert done.err.endswith("--max-p99-ms 2\n")
    assert "11 of 16 x 2" in done.out  # the report all the same
    assert cli("sattn-run", model, f"replay:{data}", *options, "4000").code == 0


def test_a_missed_budget_as_json_is_still_one_object(cli, model, data, monkeypatch):
    add_backend(monkeypatch, slowly)
    done = cli("sattn-run", model, f"replay:{data}", "--backend", BACKEND, "--max-p99-ms", "2", "--json")
    assert done.code == 5
    assert done.json["latency"]["total_us"]["p99"] > 4000
    assert "--max-p99-ms 2" in done.err


def test_misses_are_counted_by_the_deadline(cli, model, data, monkeypatch):
    add_backend(monkeypatch, slowly)
    options = ("--backend", BACKEND, "--json", "--deadline-ms")
    assert cli("sattn-run", model, f"replay:{data}", *options, "3.9").json["latency"]["misses"] == 11
    assert cli("sattn-run", model, f"replay:{data}", *options, "4000").json["latency"]["misses"] == 0


# ------------------------------------------------------------------ time, gaps and decisions


@pytest.fixture
def gappy(tmp_path) -> Path:
    """200 samples with a hole of two at 90 and one of a hundred at 150."""
    stamps = np.delete(np.arange(302), [*range(90, 92), *range(152, 252)]) / 50
    signal = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    np.savez(tmp_path / "gappy.npz", signal=signal, timestamp_s=stamps, channels=NAMES)
    return tmp_path / "gappy.npz"


@pytest.mark.parametrize(
    ("policy", "stretches", "filled"),
    [("split", (90, 60, 50), 0), ("hold", (152, 50), 2), ("interpolate", (152, 50), 2)],
)
def test_a_policy_for_gaps(cli, model, gappy, tmp_path, policy, stretches, filled):
    journal, windows = tmp_path / "j", sum((n - WINDOW) // HOP + 1 for n in stretches)
    done = cli("sattn-run", model, f"replay:{gappy}", "--gap", policy, "--journal", journal, "--json")
    assert (done.code, done.err) == (0, "")
    report = done.json
    assert (report["windows"], report["gaps"], report["missing_samples"]) == (windows, 2, 102)
    samples = report["samples"]
    assert samples.get("filled", 0) == filled
    assert samples["in"] + filled == sum(v for k, v in samples.items() if k not in ("in", "filled"))
    assert [(row["sample"], row["missing"]) for row in lines_of(journal, "gap")] == [(90, 2), (150, 100)]
    made_up = [row["filled"] for row in lines_of(journal, "window") if "filled" in row]
    assert bool(made_up) == bool(filled)
    text = cli("sattn-run", model, f"replay:{gappy}", "--gap", policy).out
    assert "2; 102 samples known to be missing" in text
    assert ("2 made up" in text) == bool(filled)


def test_steadier_labels_and_their_delay(cli, model, data, tmp_path):
    journal = tmp_path / "j"
    options = ("--dwell", "0.48", "--hysteresis", "0.1", "--abstain-below", "0.2", "--reorder", "3")
    done = cli("sattn-run", model, f"replay:{data}", *options, "--journal", journal, "--json")
    assert done.code == 0
    # A window's middle, and two hops more until a label has led for three.
    assert done.json["algorithmic_delay_samples"] == 7.5 + 2 * HOP
    assert done.json["disorder_delay_samples"] == 3
    kinds = [row["kind"] for row in lines_of(journal, "event")]
    assert kinds[0] == "state_start"
    assert kinds[-1] == "state_end"
    assert lines_of(journal, "window")[0]["reason"] == "no label has held long enough"
    text = cli("sattn-run", model, f"replay:{data}", *options).out
    assert "up to 3 samples more where some are missing or out of order" in text
    assert "no label has held long enough" in text
