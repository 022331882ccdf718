from __future__ import annotations

from pathlib import Path

import pytest

from sattn_edge import cpu

X86 = """processor\t: 0
model name\t: Some CPU @ 2 GHz
flags\t\t: fpu avx2 avx512f avx512_vnni rdtscp

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a machine: what cpuinfo says, the board's name, the architecture."""

    def make(text: str | None, board: str | None = None, architecture: str = "x86_64") -> None:
        for name, content in (("cpuinfo", text), ("model", board)):
            if content is not None:
                (tmp_path / name).write_text(content)
        monkeypatch.setattr(cpu, "_PROC", tmp_path / "cpuinfo")
        monkeypatch.setattr(cpu, "_BOARD", tmp_path / "model")
        monkeypatch.setattr("platform.machine", lambda: architecture)
        monkeypatch.setattr("platform.processor", lambda: "")
        cpu.cpu_name.cache_clear()
        cpu.cpu_features.cache_clear()

    yield make
    cpu.cpu_name.cache_clear()
    cpu.cpu_features.cache_clear()


def test_an_x86(machine):
    machine(X86)
    assert cpu.cpu_name() == "Some CPU @ 2 GHz"
    assert cpu.cpu_features() == ("avx2", "avx512f", "avx512_vnni")
    assert not cpu.int8_saturates()


def test_an_x86_without_vnni(machine):
    machine(X86.replace("avx512_vnni", ""))
    assert cpu.int8_saturates()


def test_a_jetson(machine):
    machine(ARM, "NVIDIA Jetson Orin Nano\0", "aarch64")
    assert cpu.cpu_name() == "NVIDIA Jetson Orin Nano"
    assert cpu.cpu_features() == ("asimddp", "i8mm")
    assert not cpu.int8_saturates()


def test_an_arm_without_a_board(machine):
    machine(ARM, None, "aarch64")
    assert cpu.cpu_name() == "0x41 0xd42"


def test_a_machine_that_tells_nothing(machine):
    machine(None)
    assert (cpu.cpu_name(), cpu.cpu_features()) == ("unknown", ())
    assert cpu.int8_saturates()  # the safe side
    machine(None, None, "arm64")
    assert not cpu.int8_saturates()
