"""`sattn-run` as its users meet it: exit codes, messages, and what goes to which stream."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from sattn_edge.contract import Contract
from sattn_edge.engine import BACKENDS
from sattn_runtime.testing import FakeEngine
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_data import save_bundle
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import save_model
from tests.helpers_run import Done, finish, lines_of, start

HOP, WINDOW = 8, 16
NAMES = ["c0", "c1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=WINDOW, hop=HOP)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 samples, labelled l0 and then l1."""
    path = tmp_path_factory.mktemp("data") / "rec.npz"
    signal = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    label = (np.arange(100) >= 50).astype(np.int16)
    np.savez(path, signal=signal, label=label, class_names=["l0", "l1", "l2"], fs=50.0, channels=NAMES)
    return path


def fails(done: Done, code: int, *texts: str) -> None:
    assert done.code == code, done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for text in texts:
        assert text in done.err
    assert done.out == ""


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


# ------------------------------------------------------------------ the model file


def test_a_missing_model(cli, data, tmp_path):
    path = tmp_path / "no.onnx"
    fails(cli("sattn-run", path, f"replay:{data}"), 3, f"{path}: can't be read (No such file or directory)")


def test_what_is_no_model_file(cli, model, data, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("hello\n")
    fails(cli("sattn-run", path, f"replay:{data}"), 3, "m.onnx: is text, not an ONNX model")
    proto = onnx.load(model)
    del proto.metadata_props[:]
    path.write_bytes(proto.SerializeToString())
    fails(cli("sattn-run", path, f"replay:{data}"), 3, "m.onnx: carries no sattn_edge.format", "sattn-export")
    path.write_bytes(model.read_bytes()[:-40])
    fails(cli("sattn-run", path, f"replay:{data}"), 3, "m.onnx: ")


def test_a_newer_format(cli, model, data, tmp_path):
    proto = onnx.load(model)
    (entry,) = (p for p in proto.metadata_props if p.key == "sattn_edge.format")
    entry.value = "2"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    text = "m.onnx: has format 2; this version reads up to format 1; upgrade sattn-edge"
    fails(cli("sattn-run", tmp_path / "m.onnx", f"replay:{data}"), 3, text)


def test_mutated_models_end_with_3_or_run(cli, model, data, tmp_path):
    rng, whole = np.random.default_rng(0), model.read_bytes()
    path, codes = tmp_path / "m.onnx", []
    for _ in range(60):
        mutated = bytearray(whole)
        mutated[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(mutated)
        codes.append(cli("sattn-run", path, f"replay:{data}").code)
    assert set(codes) == {0, 3}


# ------------------------------------------------------------------ options

OPTIONS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "backend": (("--backend", "onnxrt"), 2, "backend: got 'onnxrt'; did you mean 'onnxruntime'?"),
    "precision": (("--precision", "fp8"), 6, "precision 'fp8': is not available on onnxruntime; known: fp32"),
    "hop": (("--hop", "0"), 2, "--hop: got 0; a number of samples, 1 or more"),
    "negative hop": (("--hop", "-3"), 2, "--hop: got -3"),
    "speed": (("--speed", "fast"), 2, "--speed: got 'fast'; max, or a factor above 0 (1.0 is real time)"),
    "speed 0": (("--speed", "0"), 2, "--speed: got 0.0; max, or a factor above 0"),
    "speed -1": (("--speed", "-1"), 2, "--speed: got -1.0"),
    "speed nan": (("--speed", "nan"), 2, "--speed: got nan"),
    "threads": (("--threads", "0"), 2, "threads: got 0; 1 or more"),
    "smooth": (("--smooth", "0"), 2, "got 0 windows; 1 or more"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_wrong_option(cli, model, data, case):
    options, code, text = OPTIONS[case]
    fails(cli("sattn-run", model, f"replay:{data}", *options), code, text)
    done = cli("sattn-run", model, f"replay:{data}", *options, "--json")
    assert (done.code, done.json["exit_code"]) == (code, code)
    assert text in done.json["error"]["message"]
    assert set(done.json) == {"error", "exit_code"}


def test_a_backend_that_is_not_installed(cli, model, data, monkeypatch):
    monkeypatch.setitem(BACKENDS, "no_such_backend", "no_such_backend:open_engine")
    done = cli("sattn-run", model, f"replay:{data}", "--backend", "no_such_backend")
    fails(done, 6, "backend 'no_such_backend': is not installed; install it: pip install no_such_backend")


def test_a_wrong_source(cli, model, data):
    fails(cli("sattn-run", model, str(data)), 2, "has no scheme", f"try replay:{data}")
    fails(cli("sattn-run", model, f"reply:{data}"), 2, "unknown scheme 'reply'; did you mean 'replay'?")


def test_what_typer_itself_refuses(cli, model, data):
    assert cli("sattn-run").code == 2
    assert cli("sattn-run", model, f"replay:{data}", "--hop", "x").code == 2
    assert cli("sattn-run", model, f"replay:{data}", "--hopp", "3").code == 2


def test_a_journal_that_is_none(cli, model, data, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine\n")
    fails(cli("sattn-run", model, f"replay:{data}", "--journal", path), 2, "exists and is no journal")
    assert path.read_text() == "mine\n"


# ------------------------------------------------------------------ recordings

ONES = np.ones((40, 2), np.float32)
RECORDINGS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"signal": ONES, "channels": ["c0", "x"]}, "channel 'c1' is missing; it has c0, x"),
    "count": ({"signal": np.ones((40, 3), np.float32)}, "3 channels"),
    "NaN": ({"signal": ONES * [1, np.nan]}, "channel 'c1' has no finite value"),
    "all NaN": ({"signal": ONES * np.nan}, "has no finite value at all"),
    "rate": ({"signal": ONES, "fs": 100.0}, "sampled at 100 Hz (by its fs); the contract says 50 Hz"),
    "short": ({"signal": ONES[:15]}, "has 15 samples; a window is 16; give a longer recording"),
    "int16": ({"signal": ONES.astype(np.int16)}, "signal is int16 without 'scale'"),
    "keys": ({"data": ONES}, "there is no 'signal' (it has data)"),
}


@pytest.mark.parametrize("case", RECORDINGS)
def test_a_wrong_recording(cli, model, tmp_path, case):
    keys, text = RECORDINGS[case]
    np.savez(tmp_path / "r.npz", **{k: np.asarray(v) for k, v in keys.items()})
    journal = tmp_path / "j"
    fails(cli("sattn-run", model, f"replay:{tmp_path / 'r.npz'}", "--journal", journal), 3, text)
    assert not journal.exists()


def test_a_bad_recording_in_a_bundle_costs_nothing_before_it(cli, model, tmp_path):
    signal = np.ones((80, 2), np.float32)
    signal[40:, 1] = np.nan
    keys = {"rec_start": [0, 40], "rec_len": [40, 40], "rec_name": ["good", "bad"], "channels": NAMES}
    np.savez(tmp_path / "b.npz", signal=signal, **{k: np.asarray(v) for k, v in keys.items()})
    done = cli("sattn-run", model, f"replay:{tmp_path / 'b.npz'}", "--journal", tmp_path / "j")
    fails(done, 3, "b.npz#bad: channel 'c1' has no finite value")
    assert [(row["type"], row["stream"]) for row in lines_of(tmp_path / "j")] == [
        *[("start", "good")],
        *[("window", "good")] * 4,
    ]


def test_a_name_that_is_not_there(cli, model, tmp_path):
    path = save_bundle(tmp_path / "b.npz", {n: np.ones((40, 2), np.int16) for n in ("walk", "run")})
    fails(cli("sattn-run", model, f"replay:{path}#wakl"), 3, "there is no recording 'wakl'; did you mean 'walk'?")


def test_gaps_that_leave_no_window(cli, model, tmp_path):
    stamps = np.where(np.arange(40) % 10 == 0, 1.0, 0.02).cumsum()
    np.savez(tmp_path / "r.npz", signal=ONES, timestamp_s=stamps, channels=NAMES)
    done = cli("sattn-run", model, f"replay:{tmp_path / 'r.npz'}")
    fails(done, 3, "40 samples made no window; a window has 16")


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


def test_a_bug_of_ours_is_told_as_one(cli, model, data, monkeypatch):
    def broken(contract: Contract) -> FakeEngine:
        return FakeEngine(contract, lambda window: [1 / 0])

    add_backend(monkeypatch, broken)
    done = cli("sattn-run", model, f"replay:{data}", "--backend", BACKEND, "--json")
    assert done.code == 1
    assert "This is a bug in sattn-edge" in done.err
    assert done.json == {"error": {"kind": "Bug", "message": "ZeroDivisionError: division by zero"}, "exit_code": 1}


def test_the_help_names_every_exit_code(cli):
    done = cli("sattn-run", "--help")
    assert done.code == 0
    for code in ("0 ok", "2 usage", "3 bad input", "5 a budget", "6 device", "130 interrupted"):
        assert code in " ".join(done.out.split())


def test_stdin_that_is_a_file(model, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("c0,c1\n" + "1,2\n" * 32)
    with path.open("rb") as file:
        done = finish(start("sattn-run", model, "-", "--json", stdin=file.fileno()))
    assert done.code == 0, done.err
    assert done.json["windows"] == 3


# ------------------------------------------------------------------ what does not hold yet


def test_json_and_a_journal_do_not_share_stdout(cli, model, data):
    done = cli("sattn-run", model, f"replay:{data}", "--journal", "-", "--json")
    kinds = [json.loads(line)["type"] for line in done.out.splitlines()]
    assert done.code == 2 or kinds == ["start"] + ["window"] * 11


@pytest.mark.parametrize("options", [("--hop", "x"), ("--hopp", "3")])
def test_json_for_what_typer_refuses(cli, model, data, options):
    done = cli("sattn-run", model, f"replay:{data}", "--json", *options)
    assert (done.code, done.json["exit_code"]) == (2, 2)


@pytest.mark.parametrize(
    "options", [("--max-p99-ms", "nan"), ("--max-p99-ms", "-1"), ("--deadline-ms", "-1"), ("--deadline-ms", "0")]
)
def test_budgets_that_cannot_be(cli, model, data, options):
    assert cli("sattn-run", model, f"replay:{data}", *options).code == 2


def test_a_usage_error_comes_before_anything_is_written(cli, model, data, tmp_path):
    assert cli("sattn-run", model, f"replay:{data}", "--smooth", "0", "--journal", tmp_path / "j").code == 2
    assert not (tmp_path / "j").exists()


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


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--gap", "glue"), "gap policy: got 'glue'; known: hold, interpolate, split"),
        (("--reorder", "-1"), "reorder: got -1; a number of samples, 0 or more"),
        (("--dwell", "-1"), "dwell: got -1.0; seconds, 0 or more"),
        (("--hysteresis", "2"), "hysteresis: got 2.0; a score, 0 to 1"),
        (("--abstain-below", "-0.5"), "abstain below: got -0.5; a score, 0 to 1"),
        (("--queue", "5", "--overload", "all"), "--overload: got 'all'; known: newest, oldest"),
    ],
)
def test_options_of_time_that_can_not_be(cli, model, data, options, text):
    fails(cli("sattn-run", model, f"replay:{data}", *options), 2, text)
