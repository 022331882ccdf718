"""Each check beside what breaks it; what only the running machine tells comes from a probe made by hand."""

from __future__ import annotations

import pytest

from sattn_edge.errors import UsageError
from sattn_runtime.doctor import examine
from sattn_runtime.doctor.probe import Gpu, Interpreter, Module, Probe, StoreFolder
from tests.sattn_runtime.doctor.helpers_boards import plant, plant_tree
from tests.sattn_runtime.doctor.helpers_cases import WELL, diagnosed, finding, told

GIB_KB = 1024 * 1024
DESKTOP = "rtx-desktop"


def test_a_board_on_which_all_is_well(tmp_path):
    """The control of all below: the probe they change gives nothing to mend."""
    diagnosis = diagnosed(tmp_path)
    assert {f.level for f in diagnosis.findings} == {"ok"}
    assert diagnosis.can_run("tensorrt")
    assert diagnosis.can_run("onnxruntime")
    assert told(diagnosis, "GPU") == ("ok", "Orin, compute capability 8.7, by cuda-python 12.6.0", "")
    assert told(diagnosis, "disk") == ("ok", "8.0 GiB free where the engine store is", "")
    assert diagnosis.not_examined == ()


# ---- L4T


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


# ---- CUDA, TensorRT


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


# ---- CUDA adapter, GPU


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


def test_tensorrt_rtx_never_runs_on_a_jetson(tmp_path):
    diagnosis = diagnosed(tmp_path, backend="tensorrt-rtx", tensorrt_rtx=Module("1.7.1"))
    assert told(diagnosis, "TensorRT-RTX")[::2] == ("problem", "sattn-build MODEL --backend tensorrt")
    assert diagnosis.can_run("tensorrt")


# ---- power mode, clocks


@pytest.mark.parametrize(
    ("modes", "active", "mend"),
    [
        ("0=MAXN 1=MODE_15W 2=MODE_30W 3=MODE_50W", 0, ""),
        ("0=MAXN 1=MODE_15W 2=MODE_30W 3=MODE_50W", 3, "sudo nvpmodel -m 0"),
        ("0=15W 1=25W 2=MAXN_SUPER 3=7W", 3, "sudo nvpmodel -m 2"),
        ("0=15W 1=25W 2=MAXN_SUPER 3=7W", 2, ""),
        ("0=MAXN 1=25W 2=MAXN_SUPER", 0, "sudo nvpmodel -m 2"),
        ("0=15W 1=7W", 1, "sudo nvpmodel -m 0"),
        ("0=MODE_15W_2CORE 2=MODE_15W_6CORE", 2, ""),  # as many watts: no advice
        ("0=OURS 1=THEIRS", 1, ""),  # names that tell nothing
        ("0=15W", 7, ""),  # a mode that the configuration does not have
    ],
)
def test_the_fastest_mode_goes_by_its_name(tmp_path, modes, active, mend):
    plant("jetpack6.1-agx-orin", tmp_path)
    rows = [mode.split("=") for mode in modes.split()]
    config = "# < POWER_MODEL ID=5 NAME=MAXN_SUPER >\n" + "".join(f"< POWER_MODEL ID={i} NAME={n} >\n" for i, n in rows)
    (tmp_path / "etc/nvpmodel.conf").write_text(config + "< PM_CONFIG DEFAULT=9 >\n")
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    (tmp_path / "var/lib/nvpmodel/status").write_text(f"pmode:{active:04d}")
    assert told(diagnosed(tmp_path), "power mode")[2] == mend


@pytest.mark.parametrize("unlocked", ["gpu", "cpu", None])
def test_clocks_are_locked_where_lowest_is_highest(tmp_path, unlocked):
    plant("jetpack6.1-agx-orin", tmp_path)
    if unlocked == "gpu":
        (tmp_path / "sys/class/devfreq/17000000.ga10b/min_freq").write_text("306000000\n")
    if unlocked == "cpu":
        (tmp_path / "sys/devices/system/cpu/cpu1/cpufreq/scaling_min_freq").write_text("729600\n")
    level, _, mend = told(diagnosed(tmp_path), "clocks")
    assert (level, mend) == (("ok", "") if unlocked is None else ("advice", "sudo jetson_clocks"))


# ---- memory, swap, store


@pytest.mark.parametrize(
    ("available", "disk", "memory", "swap"),
    [(2.0, 0, "ok", "advice"), (1.99, 0, "advice", "advice"), (1.99, 8, "ok", "ok")],
)
def test_memory_and_swap_of_a_small_board(tmp_path, available, disk, memory, swap):
    plant("jetpack6.1-agx-orin", tmp_path)
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal:        {8 * GIB_KB} kB\nMemAvailable:    {int(available * GIB_KB)} kB\n"
    )
    rows = f"/var/swapfile file {disk * GIB_KB} 0 -2\n" if disk else ""
    (tmp_path / "proc/swaps").write_text(f"Filename Type Size Used Priority\n/dev/zram0 partition 600000 0 5\n{rows}")
    diagnosis = diagnosed(tmp_path)
    assert (finding(diagnosis, "memory").level, finding(diagnosis, "swap").level) == (memory, swap)


def test_a_large_board_needs_no_swap_file(tmp_path):
    """The control of the above: 64 GB, zram only."""
    assert told(diagnosed(tmp_path), "swap")[0] == "ok"


STORE = "/home/it's/engines"


@pytest.mark.parametrize(
    ("store", "level", "mend", "stops"),
    [
        (StoreFolder(STORE, exists=True, ours=True, writable=True), "ok", "", ()),
        (StoreFolder(STORE, writable=True), "ok", "", ()),
        (
            StoreFolder(STORE, exists=True, ours=True, others_write=True, writable=True),
            "problem",
            "chmod 700 '/home/it'\"'\"'s/engines'",
            ("tensorrt", "tensorrt-rtx", "onnxruntime"),
        ),
        (
            StoreFolder(STORE, exists=True, ours=True, writable=True, open_inside=("/a", "/b")),
            "problem",
            "chmod -R go-w '/home/it'\"'\"'s/engines'",
            ("tensorrt", "tensorrt-rtx", "onnxruntime"),
        ),
        (
            StoreFolder(STORE, exists=True, ours=False, writable=True),
            "problem",
            "sudo chown -R \"$(id -u)\" '/home/it'\"'\"'s/engines'",
            ("tensorrt", "tensorrt-rtx", "onnxruntime"),
        ),
        (
            StoreFolder(STORE, writable=False),
            "problem",
            'export SATTN_EDGE_STORE="$HOME/sattn-engines"',
            ("tensorrt", "tensorrt-rtx"),
        ),
        (
            StoreFolder(STORE, exists=True, folder=False),
            "problem",
            'export SATTN_EDGE_STORE="$HOME/sattn-engines"',
            ("tensorrt", "tensorrt-rtx"),
        ),
        (StoreFolder(None), "problem", "export SATTN_EDGE_STORE=/FOLDER", ("tensorrt", "tensorrt-rtx")),
    ],
)
def test_the_engine_store_is_private(tmp_path, store, level, mend, stops):
    diagnosis = diagnosed(tmp_path, store=store)
    assert told(diagnosis, "engine store")[::2] == (level, mend)
    assert finding(diagnosis, "engine store").stops == stops


@pytest.mark.parametrize(("free", "level"), [((1 << 28) - 1, "advice"), (1 << 28, "ok")])
def test_room_for_engines(tmp_path, free, level):
    store = StoreFolder("/var/sattn", exists=True, ours=True, writable=True, free_bytes=free)
    assert told(diagnosed(tmp_path, store=store), "disk")[0] == level


# ---- ONNX Runtime, numpy, arguments


@pytest.mark.parametrize(
    ("version", "level"), [("1.22.9", "problem"), ("1.23.0", "ok"), ("1.31.1", "ok"), ("x", "problem")]
)
def test_an_onnxruntime_that_is_too_old(tmp_path, version, level):
    diagnosis = diagnosed(tmp_path, distributions={**WELL.distributions, "onnxruntime": version})
    assert told(diagnosis, "ONNX Runtime")[0] == level
    assert diagnosis.can_run("onnxruntime") == (level == "ok")


def test_no_interpreter_at_all(tmp_path):
    probe = Probe(live=False, python=None, store=StoreFolder(None))
    diagnosis = examine(plant("jetpack6.1-agx-orin", tmp_path), None, probe)
    assert told(diagnosis, "Python")[0] == "problem"
    assert not any(diagnosis.can_run(b) for b in ("tensorrt", "tensorrt-rtx", "onnxruntime"))


@pytest.mark.parametrize(
    ("root", "backend", "message"),
    [
        ("/no/such", None, "--root: '/no/such' is not a folder; /, or a copy of a machine's file tree"),
        ("/", "tensort", "--backend: got 'tensort'; did you mean 'tensorrt'?"),
        ("/", "", "--backend: got ''; known: onnxruntime, tensorrt, tensorrt-rtx"),
    ],
)
def test_wrong_arguments(root, backend, message):
    with pytest.raises(UsageError) as caught:
        examine(root, backend, WELL)
    assert str(caught.value) == message
