"""What `sattn-run` refuses: model files, options and recordings, with exit code and message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from sattn_edge.engine import BACKENDS
from tests.helpers_data import save_bundle
from tests.helpers_model import save_model
from tests.helpers_run import Done, lines_of
from tests.helpers_run_cli import HOP, NAMES, WINDOW, save_labelled


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=WINDOW, hop=HOP)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_labelled(tmp_path_factory.mktemp("data"))


def fails(done: Done, code: int, *texts: str) -> None:
    assert done.code == code, done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for text in texts:
        assert text in done.err
    assert done.out == ""


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


@pytest.mark.parametrize(
    "options", [("--max-p99-ms", "nan"), ("--max-p99-ms", "-1"), ("--deadline-ms", "-1"), ("--deadline-ms", "0")]
)
def test_budgets_that_cannot_be(cli, model, data, options):
    assert cli("sattn-run", model, f"replay:{data}", *options).code == 2


def test_what_typer_itself_refuses(cli, model, data):
    assert cli("sattn-run").code == 2
    assert cli("sattn-run", model, f"replay:{data}", "--hop", "x").code == 2
    assert cli("sattn-run", model, f"replay:{data}", "--hopp", "3").code == 2


@pytest.mark.parametrize("options", [("--hop", "x"), ("--hopp", "3")])
def test_json_for_what_typer_refuses(cli, model, data, options):
    done = cli("sattn-run", model, f"replay:{data}", "--json", *options)
    assert (done.code, done.json["exit_code"]) == (2, 2)


def test_a_backend_that_is_not_installed(cli, model, data, monkeypatch):
    monkeypatch.setitem(BACKENDS, "no_such_backend", "no_such_backend:open_engine")
    done = cli("sattn-run", model, f"replay:{data}", "--backend", "no_such_backend")
    fails(done, 6, "backend 'no_such_backend': is not installed; install it: pip install no_such_backend")


def test_a_wrong_source(cli, model, data):
    fails(cli("sattn-run", model, str(data)), 2, "has no scheme", f"try replay:{data}")
    fails(cli("sattn-run", model, f"reply:{data}"), 2, "unknown scheme 'reply'; did you mean 'replay'?")


def test_a_journal_that_is_none(cli, model, data, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine\n")
    fails(cli("sattn-run", model, f"replay:{data}", "--journal", path), 2, "exists and is no journal")
    assert path.read_text() == "mine\n"


def test_a_usage_error_comes_before_anything_is_written(cli, model, data, tmp_path):
    assert cli("sattn-run", model, f"replay:{data}", "--smooth", "0", "--journal", tmp_path / "j").code == 2
    assert not (tmp_path / "j").exists()


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
