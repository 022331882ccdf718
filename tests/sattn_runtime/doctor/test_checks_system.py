"""Board, JetPack, CUDA and the GPU, each check beside what breaks it."""

from __future__ import annotations

import pytest

from sattn_runtime.doctor.probe import Gpu, Module
from tests.sattn_runtime.doctor.helpers_boards import plant, plant_tree
from tests.sattn_runtime.doctor.helpers_cases import DESKTOP, diagnosed, finding, told


@pytest.mark.parametrize(
    ("line", "level", "found"),
    [
        ("# R36 (release), REVISION: 5.0, GCID: 1", "ok", "6.2 (L4T 36.5.0)"),
        (
            "# R41 (release), REVISION: 1.0, GCID: 1",
            "advice",
            "L4T 41.1.0 is newer than this version of sattn-edge knows (up to 39)",
        ),
        ("# R37 (release), REVISION: 1.0, GCID: 1", "advice", "L4T 37.1.0 is not a release that is known here"),
    ],
)
def test_l4t_known_newer_and_unknown(tmp_path, line, level, found):
    plant("jetpack6.1-agx-orin", tmp_path)
    (tmp_path / "etc/nv_tegra_release").write_text(line + "\n")
    diagnosis = diagnosed(tmp_path)
    assert told(diagnosis, "JetPack")[:2] == (level, found)
    assert diagnosis.can_run("tensorrt")  # an unknown release is no error


def test_a_container_on_a_jetson_has_no_release(tmp_path):
    plant_tree({"files": {"proc/device-tree/compatible": "nvidia,p3767-0005\0nvidia,tegra234\0"}}, tmp_path)
    diagnosis = diagnosed(tmp_path)
    assert diagnosis.board.kind == "jetson"
    assert told(diagnosis, "JetPack")[0] == "advice"
    assert finding(diagnosis, "board").found == "Jetson Orin (tegra234, compute capability 8.7)"


@pytest.mark.parametrize(("package", "name"), [("6.2.2+b24", "6.2.2"), ("5.1-b1", "6.1"), ("junk", "6.1")])
def test_the_package_of_jetpack_names_it_where_it_fits_the_l4t(tmp_path, package, name):
    plant("jetpack6.1-agx-orin", tmp_path)
    status = tmp_path / "var/lib/dpkg/status"
    entry = f"Package: nvidia-jetpack\nStatus: install ok installed\nVersion: {package}\n"
    status.write_text(status.read_text() + "\n" + entry)
    assert diagnosed(tmp_path).board.jetpack_name == name


def test_another_cuda_than_jetpacks(tmp_path):
    plant("jetpack6.1-agx-orin", tmp_path)
    (tmp_path / "usr/local/cuda").mkdir(parents=True)
    (tmp_path / "usr/local/cuda/version.json").write_text('{"cuda": {"version": "12.9.1"}}')
    level, found, mend = told(diagnosed(tmp_path), "CUDA")
    assert (level, found, mend) == (
        "advice",
        "12.9.1; JetPack 6.1 comes with 12.6",
        "sudo apt install nvidia-jetpack",
    )


def test_an_old_driver_of_a_desktop(tmp_path):
    plant(DESKTOP, tmp_path)
    driver = tmp_path / "proc/driver/nvidia/version"
    text = driver.read_text()
    for version, tensorrt, rtx in (
        ("580.95.05", "ok", "ok"),
        ("570.195.03", "ok", "problem"),
        ("470.1.2", "problem", "problem"),
    ):
        driver.write_text(text.replace("580.95.05", version))
        cuda = told(diagnosed(tmp_path, backend="tensorrt"), "CUDA")
        assert (cuda[0], cuda[2]) == (tensorrt, "sudo ubuntu-drivers install" if tensorrt == "problem" else "")
        found = diagnosed(tmp_path, backend="tensorrt-rtx", tensorrt_rtx=Module("1.7.1"), gpu=None)
        stopped = not found.can_run("tensorrt-rtx")
        assert stopped == (rtx == "problem")


def test_a_card_without_a_driver(tmp_path):
    card = "sys/bus/pci/devices/0000:01:00.0"
    plant_tree({"files": {f"{card}/vendor": "0x10de\n", f"{card}/class": "0x030000\n"}}, tmp_path)
    diagnosis = diagnosed(tmp_path, gpu=None)
    assert told(diagnosis, "board")[::2] == ("advice", "sudo ubuntu-drivers install")
    assert not diagnosis.can_run("tensorrt")
    # The controls: a sound device of NVIDIA's, and another maker's card.
    (tmp_path / card / "class").write_text("0x040300\n")
    assert told(diagnosed(tmp_path, gpu=None), "board")[0] == "ok"
    (tmp_path / card / "class").write_text("0x030000\n")
    (tmp_path / card / "vendor").write_text("0x1002\n")
    assert told(diagnosed(tmp_path, gpu=None), "board")[0] == "ok"


def test_a_gpu_that_answers_is_there_without_its_drivers_files(tmp_path):
    gpu = Gpu("NVIDIA RTX 4000", "8.9", "12.8", "cuda-python 12.9.4")
    diagnosis = diagnosed(tmp_path, "no-gpu", "tensorrt", gpu=gpu)
    assert told(diagnosis, "board") == ("ok", "NVIDIA RTX 4000", "")
    assert told(diagnosis, "CUDA") == ("ok", "the driver runs CUDA 12.8", "")
    assert diagnosis.can_run("tensorrt")
    assert not diagnosed(tmp_path, "no-gpu", "tensorrt", gpu=Gpu(error="none")).can_run("tensorrt")  # the control


@pytest.mark.parametrize(
    ("gpu", "denied", "mend"),
    [
        (
            Gpu(error="CUDA: cudaGetDeviceCount gave cudaErrorInsufficientDriver", code="cudaErrorInsufficientDriver"),
            (),
            "pip install 'sattn-edge[jetson6]'",
        ),
        (
            Gpu(error="CUDA: cudaGetDeviceCount gave cudaErrorNoDevice", code="cudaErrorNoDevice"),
            (),
            "sudo dmesg | grep -i -e nvgpu -e nvrm",
        ),
        (
            Gpu(error="CUDA: cudaGetDeviceCount gave cudaErrorNoDevice", code="cudaErrorNoDevice"),
            ("/dev/nvhost-gpu",),
            'sudo usermod -aG video,render "$USER"',
        ),
    ],
)
def test_a_gpu_that_does_not_answer(tmp_path, gpu, denied, mend):
    diagnosis = diagnosed(tmp_path, gpu=gpu, denied=denied)
    level, found, command = told(diagnosis, "GPU")
    assert (level, command) == ("problem", mend)
    assert ("cudaError" in found) != bool(denied)
    assert not diagnosis.can_run("tensorrt")
    assert diagnosis.can_run("onnxruntime")


def test_the_gpu_of_a_desktop_may_be_none_of_tensorrt_rtx(tmp_path):
    for capability, runs in (("8.9", True), ("12.0", True), ("9.0", False), ("7.0", False)):
        gpu = Gpu("GPU", capability, "13.0", "cuda-python 13.0.3")
        diagnosis = diagnosed(tmp_path, DESKTOP, "tensorrt-rtx", gpu=gpu, tensorrt_rtx=Module("1.7.1"))
        assert diagnosis.can_run("tensorrt-rtx") == runs, capability
