"""`sattn-calibrate` as a user runs it: exit codes, stdout, stderr; a refusal leaves the model file alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sattn_calibration import report_html
from sattn_calibration.choice import Tried
from sattn_calibration.commands import calibrate_main
from sattn_calibration.progress import progress, progress_line
from sattn_edge import report_files
from sattn_edge.calibration_table import Agreement
from sattn_edge.model_file import load_model_file
from tests.helpers_data import ROOT
from tests.sattn_calibration.helpers_calibration import save_bench

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx, windows.npz and what is wrong with windows."""
    made = tmp_path_factory.mktemp("calibrate")
    _, data = save_bench(made, labels=tuple(f"l{i}" for i in range(7)))
    with np.load(data) as z:
        x = z["x"]
    broken = x.copy()
    broken[3, 0, 5, 1] = np.nan
    rng = np.random.default_rng(0)
    sets = {
        "nan": broken,
        "constant": np.full_like(x, 0.5),
        "zeros": np.zeros_like(x),
        "repeated": np.repeat(x[:1], len(x), axis=0),
        "few": x[:5],
        "noise": rng.normal(size=x.shape).astype(np.float32),
        "shape": x[:, :, :100],
    }
    for name, array in sets.items():
        np.savez(made / f"{name}.npz", x=array)
    (made / "text.onnx").write_text("no model")
    (made / "folder.onnx").mkdir()
    return made


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sattn_edge.command._printed_json", False)
        monkeypatch.chdir(folder)
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            calibrate_main(list(arguments), "sattn calibrate")
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


GOOD = ("model.onnx", "--data", "windows.npz", "--method", "minmax")


def test_in_a_pipe_there_is_the_report_and_nothing_else(folder: Path) -> None:
    path = os.pathsep.join(str(ROOT / p) for p in ("", "calibration"))
    code = "from sattn_calibration.commands import calibrate_main as main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *GOOD, "-o", "piped.onnx"],
        capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("piped.onnx: written with its calibration table, ")
    assert "within the budget" in done.stdout
    assert load_model_file(folder / "piped.onnx").calibration is not None
    assert load_model_file(folder / "model.onnx").calibration is None


def test_json_is_one_object_and_reports_are_files(run: Run, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    code, out, err = run(*GOOD, "-o", "out.onnx", "--report", "rep", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["output"] == "out.onnx"
    assert data["report"] == [f"rep/{name}" for name in report_html.NAMES]
    del data["report"]
    assert json.loads((folder / "rep" / "calibration.json").read_text()) == data
    assert sorted(p.name for p in (folder / "rep").iterdir()) == sorted(report_html.NAMES)


def test_the_model_file_itself_is_the_default(run: Run, folder: Path) -> None:
    own = folder / "own.onnx"
    own.write_bytes((folder / "model.onnx").read_bytes())
    before = load_model_file(own)
    assert run("own.onnx", *GOOD[1:])[0] == 0
    after = load_model_file(own)
    assert after.calibration is not None
    assert after.graph_digest == before.graph_digest
    written = own.read_bytes()
    assert run("own.onnx", *GOOD[1:])[0] == 0  # a table in the place of the one before, the same bytes
    assert own.read_bytes() == written


def test_a_budget_of_nothing_still_ends_well(run: Run) -> None:
    """Layers leave INT8 until FP32 is left, which agrees with itself; exit 0, and it is said."""
    code, out, _ = run(*GOOD, "--budget", "0", "-o", "zero.onnx")
    assert code == 0
    assert "NOT within" not in out


ERRORS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no data": (("model.onnx",), 2, "--data"),
    "no such method": (("model.onnx", "--data", "windows.npz", "--method", "best"), 2, "'best'"),
    "a budget below 0": ((*GOOD, "--budget", "-1"), 2, "--budget: got -1"),
    "a budget that is no number": ((*GOOD, "--budget", "nan"), 2, "--budget: got nan"),
    "an output of another kind": ((*GOOD, "-o", "out.trt"), 2, "a name that ends in .onnx"),
    "an output in no folder": ((*GOOD, "-o", "no/out.onnx"), 2, "folder 'no' is not there"),
    "an output that is a folder": ((*GOOD, "-o", "folder.onnx"), 2, "'folder.onnx' is a folder"),
    "a model that is not there": (("no.onnx", *GOOD[1:]), 3, "no.onnx: can't be read"),
    "a model that is none": (("text.onnx", *GOOD[1:]), 3, "text.onnx: is text"),
    "data that are not there": (("model.onnx", "--data", "no.npz"), 3, "no.npz"),
    "NaN": (("model.onnx", "--data", "nan.npz"), 3, "1 of 86400 values are not finite"),
    "constant": (("model.onnx", "--data", "constant.npz"), 3, "never changes"),
    "zeros": (("model.onnx", "--data", "zeros.npz"), 3, "holds only zeros"),
    "one window repeated": (("model.onnx", "--data", "repeated.npz"), 3, "are the same as an earlier one"),
    "too few": (("model.onnx", "--data", "few.npz"), 3, "holds 5 windows"),
    "random numbers": (("model.onnx", "--data", "noise.npz"), 3, "looks like random numbers"),
    "another shape": (("model.onnx", "--data", "shape.npz"), 3, "windows have 100 samples"),
    "a report in a file": ((*GOOD, "--report", "text.onnx"), 2, "--report: 'text.onnx' is a file"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_errors_have_their_code_and_write_nothing(name: str, as_json: bool, run: Run, folder: Path) -> None:
    arguments, code, text = ERRORS[name]
    if "--report" in arguments:
        pytest.importorskip("matplotlib")
    before = contents(folder)
    found, out, err = run(*arguments, *(["--json"] if as_json else []))
    assert found == code, err
    assert text in err
    assert "Traceback" not in err
    if as_json:
        report = json.loads(out)
        assert report["exit_code"] == code
        assert text in report["error"]["message"]
    else:
        assert out == ""
    assert contents(folder) == before


def test_a_missing_package_is_told_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_files, "find_spec", lambda name: None)
    monkeypatch.setattr("sattn_calibration.pipeline.calibrate", lambda *_: pytest.fail("the work began"))
    code, out, err = run(*GOOD, "--report", "never")
    assert (code, out) == (6, "")
    assert "pip install 'sattn-edge[report]'" in err


def test_a_disk_that_fails_is_no_bug(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sattn_calibration.pipeline.write_atomic", full)
    before = contents(folder)
    code, _, err = run(*GOOD)
    assert (code, contents(folder)) == (2, before)
    assert "No space left on device" in err


def test_the_line_names_the_candidate_and_the_best() -> None:
    def tried(target: str, what: str, score: float, within: bool) -> Tried:
        return Tried(target, what, Agreement(400, 3, 0.01, 0.1, 0.2), score, within)

    rows = [
        tried("onnxruntime", "a", 0.001, True),
        tried("tensorrt", "b", 0.02, True),
        tried("tensorrt", "c", 0.01, False),
    ]
    assert progress_line(rows) == "tensorrt 2: error 1.00% (best 2.00%), 3 of 400 differ: c"


def test_there_is_no_progress_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as listen:
        listen(Tried("tensorrt", "b", Agreement(400, 3, 0.01, 0.1, 0.2), 0.02, within_budget=True))
    assert capsys.readouterr().err == ""
