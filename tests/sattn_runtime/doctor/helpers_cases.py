"""A machine made of a few files, and a probe made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sattn_runtime.doctor import Diagnosis, Finding, examine
from sattn_runtime.doctor.probe import Gpu, Interpreter, Module, Probe, StoreFolder
from tests.sattn_runtime.doctor.helpers_boards import plant

DESKTOP = "rtx-desktop"
VENV = Interpreter((3, 10, 12), "/opt/sattn", venv=True, system_packages=True)
# A JetPack 6 board on which everything is well.
WELL = Probe(
    live=True,
    python=VENV,
    store=StoreFolder("/var/sattn", exists=True, ours=True, writable=True, free_bytes=1 << 33),
    tensorrt=Module("10.3.0", where="/usr/lib/python3.10/dist-packages/tensorrt/__init__.py"),
    tensorrt_rtx=Module(error="there is no module 'tensorrt_rtx'"),
    distributions={"sattn-edge": "0.1.0", "onnxruntime": "1.23.2", "numpy": "2.2.6", "cuda-python": "12.6.0"},
    gpu=Gpu("Orin", "8.7", "12.6", "cuda-python 12.6.0"),
)


def diagnosed(
    folder: Path, board: str = "jetpack6.1-agx-orin", backend: str | None = None, **changed: Any
) -> Diagnosis:
    """A board's files with a live probe on which everything is well but what is changed."""
    if not any(folder.iterdir()):
        plant(board, folder)
    return examine(folder, backend, replace(WELL, **changed))


def finding(diagnosis: Diagnosis, topic: str) -> Finding:
    """The one finding of a topic."""
    (found,) = [f for f in diagnosis.findings if f.topic == topic]
    return found


def told(diagnosis: Diagnosis, topic: str) -> tuple[str, str, str]:
    """(level, found, mend) of the one finding of a topic."""
    found = finding(diagnosis, topic)
    return found.level, found.found, found.mend
