"""A foreign checkpoint, calibrated on people it never saw, judged on others: INT8 and FP16 beside FP32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from sattn_calibration.judge import Judge
from sattn_calibration.pipeline import CalibrateOptions, calibrate
from sattn_edge.calibration_table import CLEAR_MARGIN, CalibrationTable
from sattn_edge.half_emulator import emulate
from sattn_edge.lowering import FORMS, Target, lower
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_export import ExportOptions, export
from tests.helpers_nets import CALIBRATION, SHARED, Net, load_net

pytestmark = [pytest.mark.torch, pytest.mark.skipif(not SHARED.is_dir(), reason="the recordings are not here")]

WINDOWS = 400


@dataclass(frozen=True, eq=False)
class Case:
    model: ModelFile
    table: CalibrationTable
    test: Net
    judge: Judge


@pytest.fixture(scope="module")
def hapt(tmp_path_factory) -> Case:
    folder: Path = tmp_path_factory.mktemp("hapt")
    net, test = load_net("hapt", CALIBRATION), load_net("hapt")
    (folder / "hapt.toml").write_text(net.contract)
    some = np.linspace(0, len(net.x) - 1, WINDOWS).astype(int)
    np.savez(folder / "windows.npz", x=net.x[some, 0], y=net.y[some], group=net.group[some].astype(str))
    path = folder / "hapt.onnx"
    export(ExportOptions(checkpoint=str(net.weights), contract=folder / "hapt.toml", output=path))
    result = calibrate(CalibrateOptions(path, str(folder / "windows.npz")))
    model = load_model_file(path)
    return Case(model, result.table, test, Judge(model.proto, test.x))


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_int8_gives_the_labels_of_fp32_on_people_nobody_saw(hapt, target):
    found = hapt.judge.judge(hapt.table.placements[target])
    assert len(hapt.table.placements[target].chosen()) >= 2
    assert found.agreement.flips <= max(3, 0.01 * len(hapt.test.x))
    assert found.agreement.worst_margin <= CLEAR_MARGIN
    fp32 = (hapt.judge.reference.argmax(1) == hapt.test.y).mean()
    assert abs((found.logits.argmax(1) == hapt.test.y).mean() - fp32) <= 0.01


def test_control_ranges_a_quarter_as_wide_are_noticed(hapt):
    placement = hapt.table.placements["onnxruntime"]
    narrow = tuple(msgspec.structs.replace(c, high=c.high / 4) for c in placement.layers)
    found = hapt.judge.judge(msgspec.structs.replace(placement, layers=narrow))
    assert found.agreement.flips > max(3, 0.01 * len(hapt.test.x))


@pytest.mark.parametrize("form", FORMS)
def test_fp16_is_within_a_thousandth_of_the_logit_scale(hapt, form):
    x = hapt.test.x[:256]
    half = emulate(lower(hapt.model.proto, Target("tensorrt", form, "fp16", batch=16)).model, x)
    reference = hapt.judge.reference[:256]
    assert not half.overflow
    assert np.abs(half.logits - reference).max() <= 1e-3 * hapt.judge.scale
    assert (half.logits.argmax(1) == reference.argmax(1)).all()
