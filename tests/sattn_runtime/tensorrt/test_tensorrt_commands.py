"""`sattn-build`, `sattn-verify` and `sattn-run` with an engine of a GPU, on the fake device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers_device import calls
from tests.helpers_run import lines_of
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one, fake, save

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "signal.npz"
    signal = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    np.savez(file, signal=signal, channels=np.array(["c0", "c1", "c2"]), rate_hz=50.0)
    return file


TENSORRT = ("--backend", "tensorrt")
GEMM = ("--attention", "gemm")


# ------------------------------------------------------------------ build


def test_build_tells_what_it_did(cli, path, monkeypatch, store):
    fake(monkeypatch)
    done = cli("sattn-build", path, *TENSORRT, "--precision", "fp16")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "small.onnx on TensorRT 10.3.0, fp16: gemm"
    assert lines[2].split() == ["form", "precision", "kernels", "median", "us", "rounds", "won", "difference"]
    assert f"store     {store}/" in done.out
    forms = ("gemm", "reference", "folded", "taps", "mean-conv", "composed")
    timing = ["timing 6 engines on the GPU", "timing the ways to call it"]
    assert done.err.splitlines() == [*(f"building {form}, fp16" for form in forms), *timing]
    again = cli("sattn-build", path, *TENSORRT, "--precision", "fp16")
    assert again.err == ""
    assert "remembered; --retune measures again" in again.out


def test_build_as_json(cli, path, monkeypatch):
    fake(monkeypatch)
    done = cli("sattn-build", path, *TENSORRT, *GEMM, "--batch-range", "1,2,4", "--workspace", "64", "--json")
    assert done.code == 0, done.err
    report = done.json
    assert (report["accepted"], report["remembered"], report["form"], report["precision"]) == (
        True,
        False,
        "gemm",
        "fp32",
    )
    request = report["subject"]["request"]
    assert (request["batch_range"], request["workspace_mib"]) == ([1, 2, 4], 64)
    assert (
        Path(report["path"]).parent.joinpath(report["plan"].partition(":")[2] + ".plan").stat().st_mode & 0o777 == 0o600
    )


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("--batch-range", "1,2"), 2, "--batch-range: got '1,2'; three numbers, MIN,OPT,MAX: 1,1,8"),
        (("--precision", "best"), 2, "--precision best: got no --data"),
        (("--budget", "1"), 2, "--budget: got --precision fp32; it is for --precision best"),
        (("--arch", "sm86"), 2, "tensorrt builds for the GPU it runs on"),
        (("--threads", "2"), 2, "tensorrt runs on the GPU"),
    ],
)
def test_build_is_not_asked_for_that(cli, path, monkeypatch, store, args, code, text):
    fake(monkeypatch)
    done = cli("sattn-build", path, *TENSORRT, *args)
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert not store.exists()


@pytest.mark.parametrize("option", ["--batch", "--batch-range", "--workspace", "--data", "--budget", "--arch"])
def test_what_is_for_tensorrt_is_refused_elsewhere(cli, path, option):
    done = cli("sattn-build", path, option, "1")
    assert done.code == 2
    assert f"{option}: got --backend onnxruntime; it is for tensorrt and tensorrt-rtx" in done.err


def test_build_of_nothing(cli):
    done = cli("sattn-build")
    assert done.code == 2
    assert "MODEL: is missing; a model file made by sattn-export; or use --list or --prune" in done.err


# ------------------------------------------------------------------ verify


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_verify_replays_the_golden_windows(cli, path, monkeypatch, precision):
    fake(monkeypatch)
    build_one(path, precision)
    done = cli("sattn-verify", path, *TENSORRT, *GEMM, "--precision", precision)
    assert done.code == 0, done.err
    assert "engine" in done.out
    assert f"tensorrt, {precision}, form gemm" in done.out


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_verify_finds_an_engine_that_went_wrong(cli, path, monkeypatch, precision):
    """It was accepted, and then the device began to err."""
    fake(monkeypatch)
    build_one(path, precision)
    fake(monkeypatch, faults={"logits": 0.5})
    done = cli("sattn-verify", path, *TENSORRT, *GEMM, "--precision", precision)
    assert done.code == 4
    assert "golden windows are beyond the tolerance" in done.err


# ------------------------------------------------------------------ run


def test_run_on_the_gpu(cli, path, recording, monkeypatch, tmp_path):
    fake(monkeypatch, log=tmp_path / "calls")
    build_one(path, "fp16")
    before = len(calls(tmp_path / "calls"))
    journal = tmp_path / "j.jsonl"
    done = cli("sattn-run", path, f"replay:{recording}", *TENSORRT, *GEMM, "--precision", "fp16", "--journal", journal)
    assert done.code == 0, done.err
    assert "tensorrt 10.3.0, fp16, form gemm, Fake Orin, " in done.out
    assert "FELL BACK" not in done.out
    (start,) = lines_of(journal, "start")
    assert (start["backend"], start["precision"], "fell_back" in start) == ("tensorrt", "fp16", False)
    here = cli("sattn-run", path, f"replay:{recording}", "--journal", tmp_path / "k.jsonl")
    assert here.code == 0
    mine, cpus = lines_of(journal, "window"), lines_of(tmp_path / "k.jsonl", "window")
    assert [w["label"] for w in mine] == [w["label"] for w in cpus]
    made = calls(tmp_path / "calls")[before:]
    assert made.count("Runtime.deserialize_cuda_engine") == 1
    assert "Builder.build_serialized_network" not in made  # a run never builds


STALE = [
    ({"release": "10.7.0"}, "TensorRT was 10.3.0 and is 10.7.0"),
    ({"driver": 12080}, "the CUDA driver was 12.6 and is 12.8"),
    ({"gpu": "Other Orin"}, "the GPU was Fake Orin and is Other Orin"),
    ({"compute_capability": "8.6"}, "its compute capability was 8.7 and is 8.6"),
]


@pytest.mark.parametrize(("change", "why"), STALE)
def test_run_says_why_an_engine_does_not_fit_and_how_to_build_it(cli, path, recording, monkeypatch, change, why):
    fake(monkeypatch)
    build_one(path, "fp16", "auto", batch=2)
    fake(monkeypatch, **change)
    done = cli("sattn-run", path, f"replay:{recording}", *TENSORRT, "--precision", "fp16")
    assert (done.code, done.out) == (6, "")
    assert f"does not fit: {why};" in done.err
    assert f"build it: sattn-build {path} --backend tensorrt --precision fp16 --batch 2" in done.err


def test_run_where_none_was_built(cli, path, recording, monkeypatch):
    fake(monkeypatch)
    done = cli("sattn-run", path, f"replay:{recording}", *TENSORRT)
    assert done.code == 6
    assert "engine for small.onnx: none was built in fp32; TensorRT runs what was built" in done.err
    build_one(path, "fp16", "auto")
    done = cli("sattn-run", path, f"replay:{recording}", *TENSORRT)
    assert done.code == 6
    assert "none was built in fp32, only in fp16" in done.err
    assert f"sattn-build {path} --backend tensorrt --precision fp32\n" in done.err


def test_run_with_a_damaged_engine(cli, path, recording, monkeypatch, store):
    fake(monkeypatch)
    build_one(path)
    (plan,) = store.glob("*/*.plan")
    plan.write_bytes(plan.read_bytes() + b"x")
    done = cli("sattn-run", path, f"replay:{recording}", *TENSORRT, *GEMM)
    assert done.code == 7
    assert (
        f"build it again: sattn-build {path} --backend tensorrt --precision fp32 --attention gemm --retune" in done.err
    )


# ------------------------------------------------------------------ fallback


@pytest.mark.parametrize(
    ("asked", "runs"), [("fp32", "fp32"), ("fp16", "fp32"), ("int8", "int8")], ids=lambda v: str(v)
)
def test_the_cpu_only_where_it_is_allowed_and_then_it_is_told(cli, path, recording, monkeypatch, tmp_path, asked, runs):
    fake(monkeypatch, visible=False)
    line = ("sattn-run", path, f"replay:{recording}", *TENSORRT, "--precision", asked)
    assert cli(*line).code == 6
    journal = tmp_path / "j.jsonl"
    done = cli(*line, "--fallback", "cpu", "--journal", journal)
    assert done.code == 0, done.err
    reason = "cudaErrorNoDevice"
    assert done.err.startswith("note: running on the CPU in place of tensorrt: CUDA: ")
    assert reason in done.err
    (told,) = (row for row in done.out.splitlines() if row.startswith("FELL BACK"))
    assert f"to the CPU, from tensorrt in {asked}: " in told
    assert reason in told
    assert "onnxruntime 1." in done.out
    (start,) = lines_of(journal, "start")
    assert (start["backend"], start["precision"]) == ("onnxruntime", runs)
    assert reason in start["fell_back"]
    as_json = cli(*line, "--fallback", "cpu", "--json").json
    assert reason in as_json["fell_back"]
    assert as_json["engine"]["backend"] == "onnxruntime"


def test_int8_without_a_table_falls_back_to_fp32(cli, recording, monkeypatch, tmp_path):
    fake(monkeypatch, visible=False)
    path = save(tmp_path, calibrated=False)
    done = cli(
        "sattn-run", path, f"replay:{recording}", *TENSORRT, "--precision", "int8", "--fallback", "cpu", "--json"
    )
    assert done.json["engine"]["precision"] == "fp32"


def test_a_damaged_engine_is_a_reason_to_fall_back(cli, path, recording, monkeypatch, store):
    fake(monkeypatch)
    build_one(path, attention="auto", rounds=1)
    (plan,) = store.glob("*/*.plan")
    plan.write_bytes(b"")
    done = cli("sattn-run", path, f"replay:{recording}", *TENSORRT, "--fallback", "cpu")
    assert done.code == 0, done.err
    assert "its manifest says" in done.err


def test_without_the_bindings_it_falls_back_too(cli, path, recording):
    done = cli("sattn-run", path, f"replay:{recording}", *TENSORRT, "--fallback", "cpu")
    assert done.code == 0, done.err
    assert "backend 'tensorrt': is not installed" in done.err


def test_an_engine_that_fits_is_used_although_a_fallback_is_allowed(cli, path, recording, monkeypatch):
    fake(monkeypatch)
    build_one(path)
    done = cli("sattn-run", path, f"replay:{recording}", *TENSORRT, *GEMM, "--fallback", "cpu", "--json")
    assert done.json["engine"]["backend"] == "tensorrt"
    assert done.json["fell_back"] is None


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((*TENSORRT, "--fallback", "gpu"), "--fallback: got 'gpu'; cpu"),
        (("--fallback", "cpu"), "--fallback: got --backend onnxruntime; it is for engines of a GPU; leave it out"),
    ],
)
def test_a_fallback_that_is_none(cli, path, recording, args, text):
    done = cli("sattn-run", path, f"replay:{recording}", *args)
    assert done.code == 2
    assert text in done.err


def test_a_broken_model_file_is_no_reason_to_fall_back(cli, recording, monkeypatch, tmp_path):
    fake(monkeypatch)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x00")
    done = cli("sattn-run", broken, f"replay:{recording}", *TENSORRT, "--fallback", "cpu")
    assert done.code == 3
