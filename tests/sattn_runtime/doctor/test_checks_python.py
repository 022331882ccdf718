"""TensorRT, the CUDA adapter, ONNX Runtime and numpy as the interpreter sees them, each check beside what breaks it."""

from __future__ import annotations

import pytest

from sattn_runtime.doctor.probe import Interpreter, Module
from tests.sattn_runtime.doctor.helpers_boards import plant
from tests.sattn_runtime.doctor.helpers_cases import DESKTOP, WELL, diagnosed, finding, told


def test_a_flashed_board_without_jetpacks_packages(tmp_path):
    plant("jetpack6.1-agx-orin", tmp_path)
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: nvidia-l4t-core\nStatus: install ok installed\nVersion: 36.4.0-1\n"
    )
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt/__init__.py").unlink()
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").rmdir()
    diagnosis = diagnosed(tmp_path, tensorrt=Module(error="there is no module 'tensorrt'"))
    assert told(diagnosis, "CUDA")[::2] == ("problem", "sudo apt install nvidia-jetpack")
    assert told(diagnosis, "TensorRT") == ("problem", "not installed", "sudo apt install tensorrt python3-libnvinfer")
    assert not diagnosis.can_run("tensorrt")
    assert diagnosis.can_run("onnxruntime")


def test_a_removed_package_is_not_an_installed_one(tmp_path):
    plant("jetpack6.1-agx-orin", tmp_path)
    status = tmp_path / "var/lib/dpkg/status"
    assert diagnosed(tmp_path).board.tensorrt == "10.3.0.30"
    status.write_text(status.read_text().replace("install ok installed", "deinstall ok config-files"))
    assert diagnosed(tmp_path).board.tensorrt is None


@pytest.mark.parametrize(
    ("version", "level", "found"),
    [
        ("10.3.0", "ok", "10.3.0"),
        ("10.13.3.9", "advice", "10.13.3.9 is what this Python imports; JetPack's is 10.3.0.30"),
        ("8.5.2.2", "problem", "8.5.2.2 is too old"),
        ("8.6.1", "advice", "8.6.1 is what this Python imports; JetPack's is 10.3.0.30"),
        ("unknown", "ok", "10.3.0.30"),
    ],
)
def test_version_of_the_imported_tensorrt(tmp_path, version, level, found):
    assert told(diagnosed(tmp_path, tensorrt=Module(version)), "TensorRT")[:2] == (level, found)


def test_the_module_is_there_and_does_not_import(tmp_path):
    broken = Module(error="libnvinfer.so.10: cannot open shared object file")
    diagnosis = diagnosed(tmp_path, tensorrt=broken)
    assert told(diagnosis, "TensorRT") == (
        "problem",
        "10.3.0.30, whose Python module does not import: libnvinfer.so.10: cannot open shared object file",
        "sudo apt install --reinstall python3-libnvinfer",
    )


@pytest.mark.parametrize(
    ("python", "mend"),
    [
        (
            Interpreter((3, 10, 12), "/home/n n/.venv", venv=True, system_packages=False),
            "/usr/bin/python3 -m venv --system-site-packages '/home/n n/.venv'",
        ),
        (
            Interpreter((3, 12, 1), "/opt/conda", venv=False),
            "/usr/bin/python3 -m venv --system-site-packages .venv && .venv/bin/pip install 'sattn-edge[jetson6]'",
        ),
    ],
)
def test_jetpacks_module_is_not_visible(tmp_path, python, mend):
    gone = Module(error="there is no module 'tensorrt'")
    level, _, command = told(diagnosed(tmp_path, tensorrt=gone, python=python), "TensorRT")
    assert (level, command) == ("problem", mend)


def test_ubuntu_24_allows_no_pip_into_the_system(tmp_path):
    system = Interpreter((3, 12, 3), "/usr")
    diagnosis = diagnosed(tmp_path, "jetpack7.0-thor", python=system, gpu=None, distributions={})
    mend = "/usr/bin/python3 -m venv --system-site-packages .venv && .venv/bin/pip install 'sattn-edge[jetson7]'"
    assert {finding(diagnosis, t).mend for t in ("CUDA adapter", "ONNX Runtime", "numpy")} == {mend}


@pytest.mark.parametrize(
    ("board", "version", "level"),
    [
        ("jetpack6.1-agx-orin", "12.9.4", "ok"),
        ("jetpack6.1-agx-orin", "13.0.3", "problem"),
        ("jetpack6.1-agx-orin", "11.8.7", "advice"),
        ("jetpack7.0-thor", "13.5.0", "ok"),
        ("jetpack7.0-thor", "12.9.4", "advice"),
        ("jetpack7.0-thor", "14.0.0", "problem"),
        (DESKTOP, "13.1.0", "ok"),
    ],
)
def test_major_version_of_the_adapter(tmp_path, board, version, level):
    found = {**WELL.distributions, "cuda-bindings": version, "cuda-python": "0.1"}
    diagnosis = diagnosed(tmp_path, board, "tensorrt", gpu=None, distributions=found)
    assert told(diagnosis, "CUDA adapter")[0] == level
    assert ("tensorrt" in finding(diagnosis, "CUDA adapter").stops) == (level == "problem")


def test_pycuda_is_an_adapter(tmp_path):
    found = {"sattn-edge": "0.1.0", "onnxruntime": "1.23.2", "numpy": "2.2.6", "pycuda": "2026.1"}
    diagnosis = diagnosed(tmp_path, gpu=None, distributions=found)
    assert told(diagnosis, "CUDA adapter")[0] == "ok"
    assert "pycuda 2026.1" in finding(diagnosis, "CUDA adapter").found


def test_tensorrt_rtx_never_runs_on_a_jetson(tmp_path):
    diagnosis = diagnosed(tmp_path, backend="tensorrt-rtx", tensorrt_rtx=Module("1.7.1"))
    assert told(diagnosis, "TensorRT-RTX")[::2] == ("problem", "sattn-build MODEL --backend tensorrt")
    assert diagnosis.can_run("tensorrt")


@pytest.mark.parametrize(
    ("version", "level"), [("1.22.9", "problem"), ("1.23.0", "ok"), ("1.31.1", "ok"), ("x", "problem")]
)
def test_an_onnxruntime_that_is_too_old(tmp_path, version, level):
    diagnosis = diagnosed(tmp_path, distributions={**WELL.distributions, "onnxruntime": version})
    assert told(diagnosis, "ONNX Runtime")[0] == level
    assert diagnosis.can_run("onnxruntime") == (level == "ok")
