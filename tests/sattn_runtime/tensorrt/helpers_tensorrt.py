"""Model files and builds on the fake device, small and with times that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sattn_edge.engine_manifest import Candidate, Request
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_runtime.build import Built
from sattn_runtime.tensorrt.build import TensorRTBuild, build
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_data import ROOT
from tests.helpers_device import use_fake_device
from tests.helpers_model import save_model

API = ROOT / "tests" / "data" / "tensorrt_api.json"
RELEASES = ("8.6.1", "10.3.0", "10.7.0", "10.13.3.9", "11.0.0.114", "11.4.0.106")
RTX_RELEASE = "1.7.1.116"
ROUNDS = 4
# Each form has nodes that no other has: what the fake tells them apart by.
NODE = {"gemm": "normalised.rows", "taps": "attention.slice", "composed": "attention.composed"}


def fake(monkeypatch: pytest.MonkeyPatch, **config: Any) -> Path | None:
    """The fake device, with no more names than the release has."""
    return use_fake_device(monkeypatch, api=API, **config)


def save(folder: Path, *, calibrated: bool = True, name: str = "small.onnx", attention: bool = False) -> Path:
    """A small model file: windows of 32 x 3, two blocks, three classes."""
    path = save_model(folder, window=32, modal=3, name=name, attention=attention)
    return calibrate_by_hand(path) if calibrated else path


def build_one(
    path: Path | ModelFile, precision: str = "fp32", attention: str = "gemm", *, backend: str = "tensorrt", **more: Any
) -> Built:
    """Builds an engine with few rounds. more: fields of Request or of TensorRTBuild."""
    model = path if isinstance(path, ModelFile) else load_model_file(path)
    of_request = {k: v for k, v in more.items() if k in Request.__struct_fields__}
    rest = {k: v for k, v in more.items() if k not in Request.__struct_fields__ and k != "watcher"}
    request = Request(backend, precision, attention, **of_request)
    options = TensorRTBuild(request, **{"rounds": ROUNDS, **rest})
    return build(model, options, watcher=more.get("watcher"))


def candidate(built: Built, form: str, precision: str = "fp32") -> Candidate:
    """The one of a form and precision among those that were tried."""
    (row,) = (c for c in built.manifest.candidates if (c.form, c.precision) == (form, precision))
    return row
