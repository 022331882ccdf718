"""`sattn-export` as a user runs it: exit codes, what stands on stdout, and that a failure leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from sattn_export.commands import export_main
from tests.helpers_data import ROOT
from tests.sattn_export.helpers_export import Bench, contract_dict, draw_windows, make_bench, write_toml

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("cli"))


def command(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / p) for p in ("", "export", "calibration", "runtime"))
    return subprocess.run(
        [sys.executable, "-m", "sattn_edge", "export", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=bench.folder,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.fixture
def run(bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sattn_edge.command._printed_json", False)
        monkeypatch.chdir(bench.folder)
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            export_main(list(arguments), "sattn export")
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


GOOD = ("net.pt", "--contract", "contract.toml", "-o", "out.onnx")


def test_text_on_stdout_and_a_file(bench: Bench) -> None:
    done = command(bench, *GOOD)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("out.onnx: written, ")
    for part in ("attention blocks: 2", "parity ", "multiply-adds", "golden ", "output per class"):
        assert part in done.stdout
    assert bench.output.is_file()
    assert bench.leftovers() == ["out.onnx"]


def test_json_is_one_object(bench: Bench) -> None:
    np.savez(bench.folder / "w.npz", x=draw_windows(bench.case, 12), y=np.arange(12) % 4)
    done = command(bench, *GOOD, "--data", "w.npz", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["output"] == "out.onnx"
    assert len(report["blocks"]) == 2
    assert report["parity"]["relative"] < 1e-4


@pytest.mark.parametrize("as_json", [True, False])
def test_an_error_in_a_process_of_its_own(as_json: bool, bench: Bench) -> None:
    bench.output.unlink(missing_ok=True)
    done = command(bench, "nobody.pt", *GOOD[1:], *(["--json"] if as_json else []))
    assert done.returncode == 3
    assert done.stderr.startswith("error: nobody.pt: is not there; ")
    assert "Traceback" not in done.stderr
    if as_json:
        report = json.loads(done.stdout)
        assert (report["exit_code"], report["error"]["kind"]) == (3, "CheckpointError")
        assert f"error: {report['error']['message']}\n" == done.stderr
    else:
        assert done.stdout == ""
    assert bench.leftovers() == []


def test_help_needs_no_torch(bench: Bench) -> None:
    check = (
        "import sys; from sattn_export.commands import export_main\n"
        "try: export_main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    path = os.pathsep.join(str(ROOT / p) for p in ("", "export"))
    done = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0
    assert "CHECKPOINT" in done.stdout


def _write(bench: Bench, name: str, data: bytes) -> str:
    (bench.folder / name).write_bytes(data)
    return name


ERRORS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "text as .onnx": (("text.onnx", *GOOD[1:]), 3, "text.onnx: is text, not an ONNX model"),
    "empty .safetensors": (("empty.safetensors", *GOOD[1:]), 3, "empty.safetensors: is empty"),
    "a .pt2 that nobody trusts": (("any.pt2", *GOOD[1:]), 2, "any.pt2: a .pt2 archive can run code"),
    "a factory without weights": (("module:factory", *GOOD[1:]), 2, "module:factory: there are no weights"),
    "weights for a state_dict": ((*GOOD, "--weights", "net.pt"), 2, "--weights: given with 'net.pt'"),
    "a key that nobody knows": (("net.pt", "-c", "odd.toml", "-o", "out.onnx"), 2, "did you mean 'window'?"),
    "a contract that is not there": (("net.pt", "-c", "no.toml", "-o", "out.onnx"), 2, "no.toml: can't be read"),
    "an output of another kind": (("net.pt", "-c", "contract.toml", "-o", "out.trt"), 2, "a name that ends in .onnx"),
    "an output below a file": (("net.pt", "-c", "contract.toml", "-o", "net.pt/out.onnx"), 2, "folder 'net.pt' is not"),
    "an output in no folder": (("net.pt", "-c", "contract.toml", "-o", "no/out.onnx"), 2, "folder 'no' is not there"),
    "data that is not there": ((*GOOD, "--data", "no.npz"), 3, "no.npz"),
    "data of another shape": ((*GOOD, "--data", "shape.npz"), 3, "windows have 31 samples; the contract says 32"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_errors_have_their_code_and_write_nothing(name: str, as_json: bool, run: Any, bench: Bench) -> None:
    arguments, code, text = ERRORS[name]
    _write(bench, "text.onnx", b"hello, this is no model\n")
    _write(bench, "empty.safetensors", b"")
    _write(bench, "any.pt2", b"PK")
    write_toml(bench.folder / "odd.toml", contract_dict(bench.case, windw=3))
    np.savez(bench.folder / "shape.npz", x=np.zeros((4, 31, 3), np.float32))
    bench.output.unlink(missing_ok=True)
    before = sorted(p.name for p in bench.folder.iterdir())
    found, out, err = run(*arguments, *(["--json"] if as_json else []))
    assert found == code, err
    assert err.startswith("error: ")
    assert text in err
    assert "Traceback" not in err
    if as_json:
        report = json.loads(out)
        assert report["exit_code"] == code
        assert f"error: {report['error']['message']}\n" == err
    else:
        assert out == ""
    assert sorted(p.name for p in bench.folder.iterdir()) == before


def test_a_failed_parity_has_exit_code_4(run: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sattn_export.parity.TOLERANCE", -1.0)
    bench.output.write_bytes(b"the old file")
    code, out, err = run(*GOOD, "--json")
    assert code == 4
    assert json.loads(out)["error"]["kind"] == "QualityError"
    assert "no file was written" in err
    assert bench.output.read_bytes() == b"the old file"


def test_the_library_does_what_the_command_does(run: Any, bench: Bench) -> None:
    code, _, _ = run(*GOOD, "--golden", "synthetic")
    assert code == 0
    written = bench.output.read_bytes()
    bench.export()
    assert bench.output.read_bytes() == written
