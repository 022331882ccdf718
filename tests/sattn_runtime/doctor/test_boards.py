"""Whole machines, and every finding that is expected of each: topics in order, levels, what is said, the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from sattn_runtime.doctor import Diagnosis, examine
from tests.sattn_runtime.doctor.helpers_boards import NAMES, plant

CLOCKS = "sudo jetson_clocks"
SWAP = (
    "sudo fallocate -l 8G /var/swapfile && sudo chmod 600 /var/swapfile && "
    "sudo mkswap /var/swapfile && sudo swapon /var/swapfile"
)
ON_CPU = "sattn-build MODEL --backend onnxruntime"
ZRAM_ONLY = "0.0 GiB on disk, 3.7 GiB of compressed memory (zram)"
NO_STORE = ("engine store", "ok", "~/.cache/sattn-edge/engines, not made yet", "")
RTX_NOT_87 = (
    "TensorRT-RTX",
    "ok",
    "does not compile for compute capability 8.7, but for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
    "",
)
ORT_ON_6 = [("ONNX Runtime", "ok", "1.23.2", ""), ("numpy", "ok", "2.2.6", "")]
ORT_ON_7 = [("ONNX Runtime", "ok", "1.31.1", ""), ("numpy", "ok", "2.4.6", "")]

# board -> (topic, level, found, mend) in order
EXPECTED: dict[str, list[tuple[str, str, str, str]]] = {
    "jetpack4-nano": [
        ("board", "ok", "NVIDIA Jetson Nano Developer Kit (tegra210, compute capability 5.3)", ""),
        ("JetPack", "problem", "4.6 (L4T 32.7.1): not supported for TensorRT engines", ON_CPU),
        ("CUDA", "ok", "10.2", ""),
        ("Python", "problem", "3.6 of the system", "pyenv install 3.12"),
        ("TensorRT", "problem", "8.2.1 for Python 3.6 is too old", ON_CPU),
        (
            "TensorRT-RTX",
            "ok",
            "does not compile for compute capability 5.3, but for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
            "",
        ),
        ("power mode", "ok", "MAXN (mode 0)", ""),
        ("clocks", "ok", "the GPU's are not told under /sys/class/devfreq", ""),
        ("memory", "ok", "2.9 of 3.9 GiB available", ""),
        NO_STORE,
    ],
    "jetpack5-agx-orin": [
        ("board", "ok", "Jetson AGX Orin Developer Kit (tegra234, compute capability 8.7)", ""),
        ("JetPack", "problem", "5.1.2 (L4T 35.4.1): not supported for TensorRT engines", "sdkmanager"),
        ("CUDA", "ok", "11.4.19", ""),
        ("Python", "problem", "3.8 of the system", "pyenv install 3.12"),
        ("TensorRT", "problem", "8.5.2 for Python 3.8 is too old", "sdkmanager"),
        RTX_NOT_87,
        # The configuration's default is mode 2; the one set last counts.
        ("power mode", "ok", "MAXN (mode 0)", ""),
        ("clocks", "advice", "GPU 306 to 1300 MHz, now 306 MHz, not locked", CLOCKS),
        ("memory", "ok", "57.2 of 61.4 GiB available", ""),
        NO_STORE,
    ],
    "jetpack5-xavier-nx": [
        ("board", "ok", "NVIDIA Jetson Xavier NX Developer Kit (tegra194, compute capability 7.2)", ""),
        ("JetPack", "problem", "5.1 (L4T 35.2.1): not supported for TensorRT engines", ON_CPU),
        ("CUDA", "ok", "11.4", ""),
        ("Python", "ok", "3.11.9 in /home/nvidia/.venv, without the system's packages", ""),
        ("TensorRT", "problem", "8.5.2 for Python 3.8 is too old", ON_CPU),
        (
            "TensorRT-RTX",
            "ok",
            "does not compile for compute capability 7.2, but for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
            "",
        ),
        ("power mode", "ok", "MODE_20W_6CORE (mode 8)", ""),
        ("clocks", "ok", "the GPU's are not told under /sys/class/devfreq", ""),
        ("memory", "ok", "4.8 of 6.8 GiB available", ""),
        NO_STORE,
        *ORT_ON_6,
    ],
    "jetpack6.0-orin-nano": [
        ("board", "ok", "NVIDIA Jetson Orin Nano Developer Kit (tegra234, compute capability 8.7)", ""),
        ("JetPack", "ok", "6.0 (L4T 36.3.0)", ""),
        ("CUDA", "ok", "12.2.140", ""),
        ("Python", "ok", "3.10.12 in /home/nvidia/app/.venv, with the system's packages", ""),
        ("TensorRT", "ok", "8.6.2", ""),
        RTX_NOT_87,
        ("CUDA adapter", "problem", "cuda-python 13.0.3 is for CUDA 13", "pip install 'sattn-edge[jetson6]'"),
        ("power mode", "advice", "7W (mode 1); the fastest here is 15W (mode 0)", "sudo nvpmodel -m 0"),
        ("clocks", "advice", "GPU 625 MHz, now 625 MHz, locked, but not those of 2 CPU cores", CLOCKS),
        ("memory", "advice", "1.4 of 7.4 GiB available", "sudo systemctl isolate multi-user.target"),
        ("swap", "advice", ZRAM_ONLY, SWAP),
        (
            "engine store",
            "problem",
            "others can write '/home/nvidia/.cache/sattn-edge/engines'",
            "chmod 700 /home/nvidia/.cache/sattn-edge/engines",
        ),
        *ORT_ON_6,
    ],
    "jetpack6.1-agx-orin": [
        ("board", "ok", "NVIDIA Jetson AGX Orin Developer Kit (tegra234, compute capability 8.7)", ""),
        ("JetPack", "ok", "6.1 (L4T 36.4.0)", ""),
        ("CUDA", "ok", "12.6", ""),
        ("Python", "ok", "3.10.12 in /opt/sattn, with the system's packages", ""),
        ("TensorRT", "ok", "10.3.0", ""),
        RTX_NOT_87,
        ("CUDA adapter", "ok", "cuda-python 12.6.0", ""),
        ("power mode", "ok", "MAXN (mode 0)", ""),
        ("clocks", "ok", "GPU 1300 MHz, now 1300 MHz, locked", ""),
        ("memory", "ok", "57.2 of 61.4 GiB available", ""),
        ("swap", "ok", "0.0 GiB on disk, 30.7 GiB of compressed memory (zram)", ""),
        ("engine store", "ok", "/root/.cache/sattn-edge/engines", ""),
        *ORT_ON_6,
    ],
    "jetpack6.2-orin-nano": [
        (
            "board",
            "ok",
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (tegra234, compute capability 8.7)",
            "",
        ),
        ("JetPack", "ok", "6.2 (L4T 36.4.3)", ""),
        ("CUDA", "ok", "12.6.11", ""),
        ("Python", "ok", "3.10.12 in /home/nvidia/.venv, without the system's packages", ""),
        (
            "TensorRT",
            "problem",
            "10.3.0.30 is installed, but its Python module is not visible in /home/nvidia/.venv",
            "/usr/bin/python3 -m venv --system-site-packages /home/nvidia/.venv",
        ),
        RTX_NOT_87,
        ("CUDA adapter", "problem", "neither cuda-python nor pycuda", "pip install 'sattn-edge[jetson6]'"),
        # Ids do not go by speed here: 15W is 0, 25W is 1, MAXN_SUPER is 2, 7W is 3.
        ("power mode", "advice", "25W (mode 1); the fastest here is MAXN_SUPER (mode 2)", "sudo nvpmodel -m 2"),
        ("clocks", "advice", "GPU 306 to 918 MHz, now 306 MHz, not locked", CLOCKS),
        ("memory", "ok", "5.0 of 7.4 GiB available", ""),
        ("swap", "advice", ZRAM_ONLY, SWAP),
        NO_STORE,
        *ORT_ON_6,
    ],
    "jetpack7.0-thor": [
        ("board", "ok", "NVIDIA Jetson AGX Thor Developer Kit (tegra264, compute capability 11.0)", ""),
        ("JetPack", "ok", "7.0 (L4T 38.2.0)", ""),
        ("CUDA", "ok", "13.0.0", ""),
        ("Python", "ok", "3.12.3 in /home/nvidia/.venv, with the system's packages", ""),
        ("TensorRT", "problem", "10.13.3.9 without its Python module", "sudo apt install python3-libnvinfer"),
        (
            "TensorRT-RTX",
            "ok",
            "does not compile for compute capability 11.0, but for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
            "",
        ),
        ("CUDA adapter", "advice", "cuda-python 12.9.4 is for CUDA 12", "pip install 'sattn-edge[jetson7]'"),
        ("power mode", "advice", "120W (mode 1); the fastest here is MAXN (mode 0)", "sudo nvpmodel -m 0"),
        ("clocks", "advice", "GPU 315 to 1575 MHz, now off, not locked", CLOCKS),
        ("memory", "ok", "110.0 of 122.8 GiB available", ""),
        ("swap", "ok", "0.0 GiB on disk, 0.0 GiB of compressed memory (zram)", ""),
        NO_STORE,
        *ORT_ON_7,
    ],
    "jetpack7.2-orin-nx": [
        (
            "board",
            "ok",
            "NVIDIA Jetson Orin NX Engineering Reference Developer Kit (tegra234, compute capability 8.7)",
            "",
        ),
        ("JetPack", "ok", "7.2 (L4T 39.2.1)", ""),
        ("CUDA", "ok", "13.2.2", ""),
        ("Python", "ok", "3.13.1 in /home/nvidia/.venv, with the system's packages", ""),
        (
            "TensorRT",
            "problem",
            "10.16.0.1 is for Python 3.12, and this is 3.13",
            "/usr/bin/python3 -m venv --system-site-packages .venv && .venv/bin/pip install 'sattn-edge[jetson7]'",
        ),
        RTX_NOT_87,
        ("CUDA adapter", "ok", "cuda-python 13.4.0", ""),
        ("power mode", "ok", "MAXN (mode 0)", ""),
        ("clocks", "advice", "GPU 306 to 918 MHz, now 510 MHz, not locked", CLOCKS),
        ("memory", "ok", "12.0 of 15.3 GiB available", ""),
        ("swap", "ok", "0.0 GiB on disk, 7.7 GiB of compressed memory (zram)", ""),
        NO_STORE,
        *ORT_ON_7,
    ],
    "rtx-desktop": [
        ("board", "ok", "NVIDIA GeForce RTX 4090, driver 580.95.05", ""),
        ("CUDA", "ok", "driver 580.95.05 runs CUDA 13", ""),
        ("Python", "ok", "3.12.3 in /home/ann/har/.venv, without the system's packages", ""),
        ("TensorRT", "advice", "not installed", "pip install 'tensorrt-cu13'"),
        ("TensorRT-RTX", "ok", "1.7.1.116", ""),
        ("CUDA adapter", "advice", "neither cuda-python nor pycuda", "pip install 'cuda-python>=13,<14'"),
        ("memory", "ok", "47.7 of 62.5 GiB available", ""),
        NO_STORE,
        *ORT_ON_7,
    ],
    "no-gpu": [
        ("board", "ok", "Standard PC (Q35 + ICH9, 2009): no NVIDIA GPU with a driver", ""),
        ("Python", "ok", "3.11.7 in /home/ann/.venv, without the system's packages", ""),
        ("TensorRT", "ok", "not installed", ""),
        ("memory", "ok", "1.0 of 1.9 GiB available", ""),
        NO_STORE,
        *ORT_ON_7,
    ],
    "raspberry-pi": [
        ("board", "ok", "Raspberry Pi 5 Model B Rev 1.0: no NVIDIA GPU with a driver", ""),
        ("Python", "ok", "3.11 of the system", ""),
        ("TensorRT", "ok", "not installed", ""),
        ("memory", "ok", "6.7 of 7.9 GiB available", ""),
        NO_STORE,
        ("ONNX Runtime", "ok", "1.23.2", ""),
        ("numpy", "problem", "1.24.2 is older than 1.26", "pip install --upgrade 'numpy>=1.26'"),
    ],
}

# board -> what can run there
CAN_RUN = {
    "jetpack4-nano": set(),
    "jetpack5-agx-orin": set(),  # its Python is 3.8
    "jetpack5-xavier-nx": {"onnxruntime"},
    "jetpack6.0-orin-nano": set(),  # no engine is looked up in a store that others can write
    "jetpack6.1-agx-orin": {"tensorrt", "onnxruntime"},
    "jetpack6.2-orin-nano": {"onnxruntime"},
    "jetpack7.0-thor": {"onnxruntime"},
    "jetpack7.2-orin-nx": {"onnxruntime"},
    "rtx-desktop": {"onnxruntime"},
    "no-gpu": {"onnxruntime"},
    "raspberry-pi": set(),
}


def examined(name: str, tmp_path: Path, backend: str | None = None) -> Diagnosis:
    return examine(plant(name, tmp_path), backend)


def test_every_board_has_its_expectations():
    assert NAMES == sorted(EXPECTED) == sorted(CAN_RUN)


@pytest.mark.parametrize("name", NAMES)
def test_findings_of_a_board(name, tmp_path):
    found = examined(name, tmp_path).findings
    assert [(f.topic, f.level, f.found, f.mend) for f in found] == EXPECTED[name]


@pytest.mark.parametrize("name", NAMES)
def test_what_can_run_on_a_board(name, tmp_path):
    diagnosis = examined(name, tmp_path)
    assert {b for b in ("tensorrt", "tensorrt-rtx", "onnxruntime") if diagnosis.can_run(b)} == CAN_RUN[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", [None, "tensorrt", "tensorrt-rtx", "onnxruntime"])
def test_what_can_be_mended_says_why_and_how(name, backend, tmp_path):
    for finding in examined(name, tmp_path, backend).findings:
        told = (bool(finding.why), bool(finding.mend))
        assert told == ((False, False) if finding.level == "ok" else (True, True)), finding


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
def test_what_can_run_does_not_depend_on_what_was_asked(name, backend, tmp_path):
    """What is asked for decides how serious a finding is, never what is so. A problem is what stops it."""
    diagnosis = examined(name, tmp_path, backend)
    assert diagnosis.can_run(backend) == (backend in CAN_RUN[name])
    assert {f.level for f in diagnosis.findings if backend in f.stops} <= {"problem"}
    assert {f.level for f in diagnosis.findings if backend not in f.stops} <= {"ok", "advice"}


def test_jetpack_5_is_named_unsupported_with_the_reason(tmp_path):
    (finding,) = [f for f in examined("jetpack5-agx-orin", tmp_path).findings if f.topic == "JetPack"]
    assert "TensorRT 8.5.2 has bindings for Python 3.8 only" in finding.why
    assert "needs Python 3.10 and TensorRT 8.6" in finding.why
    assert "Flash JetPack 6" in finding.why
    assert "--backend onnxruntime" in finding.why


def test_nobody_is_told_to_flash_what_does_not_exist_for_the_chip(tmp_path):
    """JetPack 6 is for Orin only."""
    (finding,) = [f for f in examined("jetpack5-xavier-nx", tmp_path).findings if f.topic == "JetPack"]
    assert "JetPack 5 is the last for Jetson Xavier" in finding.why
    assert "Flash" not in finding.why


def test_the_cpu_is_all_a_board_is_asked_for(tmp_path):
    """With --backend onnxruntime nothing about the GPU is a problem, and what hurts latency is still said."""
    levels = {f.topic: f.level for f in examined("jetpack5-xavier-nx", tmp_path, "onnxruntime").findings}
    assert levels["JetPack"] == levels["TensorRT"] == "ok"
    levels = {f.topic: f.level for f in examined("jetpack6.2-orin-nano", tmp_path / "b", "onnxruntime").findings}
    assert levels["power mode"] == levels["clocks"] == "advice"
