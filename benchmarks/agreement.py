"""Is INT8 still right: calibrates the checkpoints that lie beside the repository, judges them on their test windows.

    python benchmarks/agreement.py [--networks hapt,cwru] [--limit N] [--json]

For each network: export, `sattn-calibrate --method auto` on the windows of the splits calib and val, and then, on
every test window, which had no part in any choice:

    flips     windows whose label is not FP32's, and the largest FP32 margin among them (of the logit scale)
    accuracy  of FP32 and of INT8
    fp16      the emulated float16 graph of TensorRT's form gemm: error of the logit scale, flips, overflow

for the ONNX Runtime placement (u8) and the TensorRT placement (s8, run by ONNX Runtime with the rest in float32). It
would catch a range, a scale or a layer chosen badly, on real recordings. Needs the data beside the repository and the
export extra; takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sattn_calibration.judge import Judge
from sattn_calibration.pipeline import CalibrateOptions, calibrate
from sattn_edge.calibration_table import Agreement, placement_for, read_table
from sattn_edge.half_emulator import emulate
from sattn_edge.lowering import Target, lower
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_edge.text import table
from sattn_export import ExportOptions, export
from tests.helpers_nets import CALIBRATION, SHARED, load_net

NETWORKS = ("hapt", "hapt12", "motionsense", "watch", "emg", "cwru", "mitdbtime")
PLACEMENTS = ("onnxruntime", "tensorrt")


def judge_network(name: str, folder: Path, limit: int | None) -> dict[str, Any]:
    """Exports, calibrates on the calibration splits, judges on the test split."""
    model, seconds = calibrated(name, folder)
    net = load_net(name)
    x, y = net.x[:limit], net.y[:limit]
    judge = Judge(model.proto, x)
    row: dict[str, Any] = {"network": name, "windows": len(x), "calibrate_s": round(seconds, 1)}
    row["accuracy_fp32"] = _accuracy(judge.reference, y)
    choices = read_table(model.calibration, model.name, model.graph_digest)
    for target in PLACEMENTS:
        placement = placement_for(choices, target, model.name)
        found = judge.judge(placement)
        row[target] = {
            **_agreement(found.agreement),
            "accuracy": _accuracy(found.logits, y),
            "int8_layers": len(placement.chosen()),
            "layers": len(placement.layers),
        }
    half = emulate(lower(model.proto, Target("tensorrt", "gemm", "fp16", batch=16)).model, x)
    error = np.abs(half.logits.astype(np.float64) - judge.reference) / judge.scale
    row["fp16"] = {
        "largest": float(error.max()),
        "flips": int((half.logits.argmax(1) != judge.reference.argmax(1)).sum()),
        "overflow": list(half.overflow),
    }
    return row


def calibrated(name: str, folder: Path) -> tuple[ModelFile, float]:
    """The checkpoint exported and calibrated on the splits calib and val, and how many seconds calibration took."""
    net = load_net(name, CALIBRATION)
    contract, windows, file = folder / f"{name}.toml", folder / f"{name}.npz", folder / f"{name}.onnx"
    contract.write_text(net.contract)
    np.savez(windows, x=net.x[:, 0], y=net.y, group=net.group.astype(str))
    export(ExportOptions(checkpoint=str(net.weights), contract=contract, output=file))
    began = monotonic()
    calibrate(CalibrateOptions(file, str(windows)))
    return load_model_file(file), monotonic() - began


def _accuracy(logits: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    return float((logits.argmax(1) == y).mean())


def _agreement(found: Agreement) -> dict[str, float]:
    return {
        "flips": found.flips,
        "worst_margin": found.worst_margin,
        "rms": found.rms,
        "largest": found.largest,
    }


def pooled(rows: list[dict[str, Any]], target: str) -> tuple[float, float, float]:
    """Agreement and the accuracy of FP32 and INT8 in percent over the windows of all networks."""
    total = sum(r["windows"] for r in rows)
    flips = sum(r[target]["flips"] for r in rows)
    fp32 = sum(r["accuracy_fp32"] * r["windows"] for r in rows)
    int8 = sum(r[target]["accuracy"] * r["windows"] for r in rows)
    return 100 - 100 * flips / total, 100 * fp32 / total, 100 * int8 / total


def as_text(rows: list[dict[str, Any]]) -> list[str]:
    """A table for each placement, and one for FP16."""
    lines = []
    for target in PLACEMENTS:
        body = [
            (
                r["network"],
                r["windows"],
                r[target]["flips"],
                f"{r[target]['worst_margin']:.4f}",
                f"{100 * r['accuracy_fp32']:.2f}",
                f"{100 * r[target]['accuracy']:.2f}",
                f"{r[target]['rms']:.4f}",
                f"{r[target]['largest']:.4f}",
                f"{r[target]['int8_layers']} of {r[target]['layers']}",
            )
            for r in rows
        ]
        header = ("network", "windows", "flips", "margin", "fp32 %", "int8 %", "rms", "largest", "int8 layers")
        agreement, fp32, int8 = pooled(rows, target)
        lines += [f"{target} placement", *table(body, header=header)]
        lines += [f"  pooled: {agreement:.3f} % agree, accuracy {fp32:.2f} % -> {int8:.2f} %", ""]
    half = [(r["network"], f"{r['fp16']['largest']:.1e}", r["fp16"]["flips"], len(r["fp16"]["overflow"])) for r in rows]
    return [*lines, "float16, emulated", *table(half, header=("network", "largest", "flips", "overflowing nodes"))]


def main() -> None:
    """Runs the networks asked for and prints the tables or a JSON list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"the data are not there: {SHARED}")
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in options.networks.split(","):
            rows.append(judge_network(name, Path(folder), options.limit))
            sys.stderr.write(f"{name}: {rows[-1]['onnxruntime']['flips']} flips in {rows[-1]['windows']} windows\n")
    print(json.dumps(rows, indent=2) if options.json else "\n".join(as_text(rows)))


if __name__ == "__main__":
    main()
