"""A small calibration on real windows, its labels and groups named as nobody should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sattn_calibration.pipeline import CalibrateOptions, Calibration, Flip, calibrate
from sattn_edge.windows import load_windows
from tests.helpers_data import WATCH_TINY, contract_of
from tests.helpers_model import model_file

WIDTHS = (12, 16, 16)  # the second and third convolution are large enough for INT8
NASTY = ("<b>x</b>", "a & 'b'", 'q"uote', "$\\frac{1}{2}$", "plain", "<script>alert(1)</script>", "未知")
GROUPS = ("</svg><i>seven</i>", "eight\x1b[31m")


def save_bench(folder: Path, *, labels: tuple[str, ...] = NASTY, windows: int = 72) -> tuple[Path, Path]:
    """A model file and real windows for it, in a folder: model.onnx, windows.npz."""
    contract = contract_of(WATCH_TINY, window=200, hop=100)
    found = load_windows(str(WATCH_TINY), contract, limit=windows)
    assert found.y is not None
    assert found.group is not None
    contract = replace_labels(contract, labels)
    model, data = folder / "model.onnx", folder / "windows.npz"
    model.write_bytes(model_file(contract, widths=WIDTHS, x=found.x[:6], source="watch_tiny.npz"))
    group = np.where(found.group == found.group[0], GROUPS[0], GROUPS[1])
    np.savez(data, x=found.x, y=found.y, group=group, start=found.start, channels=np.array(contract.channel_names))
    return model, data


def replace_labels(contract, labels: tuple[str, ...]):
    """The contract with other names for its classes."""
    import msgspec

    assert len(labels) == len(contract.labels)
    return msgspec.structs.replace(contract, labels=labels)


def make_calibration(folder: Path, method: str = "minmax") -> Calibration:
    """Calibrated for real; the flips are made up, since a network of random weights has none to show."""
    model, data = save_bench(folder)
    result = calibrate(CalibrateOptions(model, str(data), method, output=folder / "out.onnx"))
    return with_flips(result, {"onnxruntime": (3, 10, 11), "tensorrt": (3,)})


def with_flips(result: Calibration, windows: dict[str, tuple[int, ...]]) -> Calibration:
    """These windows change to the next label."""
    assert result.final_truth is not None
    truth, classes = result.final_truth, len(result.model.contract.labels)

    def flip(i: int) -> Flip:
        known = None if truth[i] < 0 else int(truth[i])
        return Flip(i, int(result.fp32[i]), (int(result.fp32[i]) + 1) % classes, known, 0.01 * (1 + i % 4))

    return replace(result, flips={name: tuple(flip(i) for i in rows) for name, rows in windows.items()})
