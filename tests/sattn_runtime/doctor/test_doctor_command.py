"""`sattn-doctor` as it is called: what it prints, how it ends, and that it changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sattn_runtime.doctor_commands import doctor_main
from tests.helpers_run import FOLDERS, run_code
from tests.sattn_runtime.doctor.helpers_boards import NAMES, plant
from tests.sattn_runtime.doctor.test_boards import CAN_RUN, EXPECTED

GPU_BACKENDS = ("tensorrt", "tensorrt-rtx")


def called(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        doctor_main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def contents(folder: Path) -> str:
    """A digest of everything below a folder: names, kinds, modes, times and bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.update(repr((str(path), status.st_mode, status.st_mtime_ns, data)).encode())
    return found.hexdigest()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", [None, "onnxruntime", *GPU_BACKENDS])
def test_exit_code(name, backend, tmp_path, capsys):
    """6 where what was asked of the GPU can't run, 0 for everything else: bad news are no failure of the doctor."""
    plant(name, tmp_path)
    code, out, err = called(capsys, "--root", tmp_path, *(() if backend is None else ("--backend", backend)))
    expected = 6 if backend in GPU_BACKENDS and backend not in CAN_RUN[name] else 0
    assert code == expected
    assert out.startswith(str(tmp_path))
    if expected:
        assert err.startswith(f"error: {backend}: can't run here, because of: ")
    else:
        assert err == ""


def test_the_reason_of_exit_6(tmp_path, capsys):
    plant("jetpack6.2-orin-nano", tmp_path)
    _, _, err = called(capsys, "--root", tmp_path, "--backend", "tensorrt")
    assert err == (
        "error: tensorrt: can't run here, because of: TensorRT, CUDA adapter; what can: onnxruntime; "
        "mend the problems above and ask again\n"
    )


@pytest.mark.parametrize("backend", [None, "tensorrt"])
def test_json_is_one_object(backend, tmp_path, capsys):
    plant("jetpack6.2-orin-nano", tmp_path)
    code, out, _ = called(capsys, "--root", tmp_path, "--json", *(() if backend is None else ("--backend", backend)))
    data = json.loads(out)
    assert code == (6 if backend else 0)
    assert data["backend"] == backend
    assert data["board"] == {
        "kind": "jetson",
        "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "soc": "tegra234",
        "compute_capability": "8.7",
        "l4t": "36.4.3",
        "jetpack": "6.2",
        "driver": None,
        "cuda": "12.6.11",
        "tensorrt": "10.3.0.30",
        "python": "3.10.12",
    }
    assert data["can_run"] == {"tensorrt": False, "tensorrt-rtx": False, "onnxruntime": True}
    rows = [(f["topic"], f["level"], f["found"], f["mend"] or "") for f in data["findings"]]
    assert rows == EXPECTED["jetpack6.2-orin-nano"]
    assert data["not_examined"]


@pytest.mark.parametrize("name", NAMES)
def test_text_fits_a_terminal(name, tmp_path, capsys, monkeypatch):
    """80 columns, but for commands: those are copied whole."""
    plant(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    _, out, _ = called(capsys, "--root", ".")
    lines = out.splitlines()[1:]
    long = [line for line in lines if len(line) > 80 and not line.startswith("         $ ")]
    assert long == []
    marks = {"ok": "ok", "advice": "advice", "problem": "PROBLEM"}
    heads = [line.split()[0] for line in lines if line[:1] not in ("", " ")]
    assert heads[: len(EXPECTED[name])] == [marks[level] for _, level, _, _ in EXPECTED[name]]
    commands = [line.removeprefix("         $ ") for line in lines if line.startswith("         $ ")]
    assert commands == [mend for _, _, _, mend in EXPECTED[name] if mend]


def test_the_verdict_counts(tmp_path, capsys):
    expected = {
        "jetpack6.2-orin-nano": "2 problems, 3 to improve",
        "jetpack7.0-thor": "1 problem, 3 to improve",
        "rtx-desktop": "no problem, 2 to improve",
        "jetpack6.1-agx-orin": "nothing to mend",
        "raspberry-pi": "1 problem",
    }
    for name, verdict in expected.items():
        _, out, _ = called(capsys, "--root", plant(name, tmp_path / name))
        assert out.splitlines()[0] == f"{tmp_path / name}: {verdict}"


MENDS = sorted({mend for rows in EXPECTED.values() for _, _, _, mend in rows if mend})


@pytest.mark.parametrize("mend", MENDS)
def test_a_command_is_one_a_shell_takes(mend):
    """Nothing to be filled in but the model file's name; the control is a command that no shell takes."""
    assert subprocess.run(["bash", "-n", "-c", mend], check=False).returncode == 0
    assert not re.search(r"[<>]\w", re.sub(r"'[^']*'", "", mend))
    assert subprocess.run(["bash", "-n", "-c", mend + " '"], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_changed(name, tmp_path, capsys):
    plant(name, tmp_path)
    before = contents(tmp_path)
    called(capsys, "--root", tmp_path, "--json")
    assert contents(tmp_path) == before
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/new").touch()
    assert contents(tmp_path) != before  # the control


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--root", "/no/such/folder"), "--root: '/no/such/folder' is not a folder"),
        (("--backend", "tensorflow"), "--backend: got 'tensorflow'; "),
    ],
)
def test_usage(args, message, capsys):
    code, out, err = called(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")


def test_this_machine_in_a_process_of_its_own(tmp_path):
    code = "from sattn_runtime.doctor_commands import doctor_main; doctor_main(['--json', '--backend', 'tensorrt'])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(FOLDERS), "PYTHONWARNINGS": "error"}
    environment["SATTN_EDGE_STORE"] = str(tmp_path / "engines")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    data = json.loads(done.stdout)
    assert done.returncode == (0 if data["can_run"]["tensorrt"] else 6), done.stderr
    assert data["can_run"]["onnxruntime"]
    assert data["board"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert data["not_examined"] == []
    assert list(tmp_path.iterdir()) == []


def test_the_help_loads_no_runtime():
    loaded = run_code("""
import contextlib, io, sys
from sattn_runtime.doctor_commands import doctor_main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    doctor_main(["--help"])
print(sorted({m.partition(".")[0] for m in sys.modules} & {"onnx", "onnxruntime", "torch", "cuda", "tensorrt"}))
""")
    assert loaded == "[]\n"


def test_a_diagnosis_loads_neither_onnx_nor_its_runtime(tmp_path):
    plant("jetpack6.2-orin-nano", tmp_path)
    loaded = run_code(f"""
import sys
from sattn_runtime.doctor import examine
examine({str(tmp_path)!r}); examine("/")
print(sorted({{m.partition(".")[0] for m in sys.modules}} & {{"onnx", "onnxruntime", "torch", "cuda", "tensorrt_rtx"}}))
""")
    assert loaded == "[]\n"
