"""Contracts for the foreign checkpoints beside the repository, and the windows their test splits hold."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NETS = ("basicmotions", "cwru", "emg", "hapt", "hapt12", "mitdb", "mitdbtime", "motionsense", "watch")
# network -> the bundle it was trained on, its rate after thinning out, how it was cut
_BUNDLES = {"hapt12": "hapt", "mitdbtime": "mitdb"}


def sattn_data() -> Any:
    """The reader that lies beside the data."""
    spec = importlib.util.spec_from_file_location("sattn_data", SHARED / "sattn_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Net:
    """A foreign checkpoint: its weights, its contract as TOML, test windows [n, 1, series, modal] and labels."""

    name: str
    weights: Path
    contract: str
    x: NDArray[np.float32]
    y: NDArray[np.int64]


def load_net(name: str) -> Net:
    """Everything one foreign checkpoint needs."""
    card = json.loads((SHARED / f"{name}_net.json").read_text())
    bundle = _BUNDLES.get(name, name)
    path = SHARED / (f"{bundle}.npz" if bundle == "basicmotions" else f"{bundle}_dev.npz")
    x, y, channels, units, rate = _windows(name, card, path)
    return Net(name, SHARED / f"{name}_net.pt", toml(card, channels, units, rate), x, y)


def toml(card: dict[str, Any], channels: list[str], units: list[str], rate: float) -> str:
    """The card of a checkpoint as a contract."""
    labels = ", ".join(json.dumps(c) for c in card["classes"])
    lines = [
        f"rate_hz = {rate}",
        f"window = {card['window']}",
        f"hop = {card['train_step']}",
        f"labels = [{labels}]",
    ]
    for name, unit, mean, std in zip(channels, units, card["mean"], card["std"], strict=True):
        lines += ["[[channel]]", f"name = {json.dumps(name)}", f"unit = {json.dumps(unit)}"]
        lines += [f"mean = {mean!r}", f"std = {std!r}"]
    return "\n".join(lines) + "\n"


def _windows(name: str, card: dict[str, Any], path: Path) -> tuple[Any, Any, list[str], list[str], float]:
    reader = sattn_data()
    data = reader.load(path)
    channels, rate = [str(c) for c in data["channels"]], float(data["fs"])
    units = [str(u) for u in data["units"]] if "units" in data else [""] * len(channels)
    length, step = card["window"], card["train_step"]
    if name == "basicmotions":
        test = data["split"] == "test"
        return data["X"][test][:, None], data["y"][test], channels, units, rate
    if name == "mitdb":
        x, y, _ = reader.ecg_windows(data, 2048, 1024, "test", positive="LRVEF")
        x = _halved(x[..., :1])
        x = (x - x.mean(2, keepdims=True)) / np.maximum(x.std(2, keepdims=True), 0.05)
        return x.astype(np.float32), y, channels[:1], ["window std"], rate / 2
    if name == "mitdbtime":
        splits = ["train", "calib", "val", "test"]
        x, y, _ = reader.ecg_rhythm_windows(data, 2048, 1024, splits, span=(0.7, 1.0))
        return _halved(x), y, channels, units, rate / 2
    if name == "emg":
        data["signal"], data["label"] = data["signal"][::5], data["label"][::5]
        data["rec_start"], data["rec_len"] = _thinned(data["rec_start"], data["rec_len"], 5)
        rate /= 5
    classes = range(len(card["classes"]))
    purity = 0.6 if name == "hapt12" else 1.0
    x, y, _ = reader.windows(data, length, step, "test", classes, purity, card["channels"])
    keep = card["channels"] or range(len(channels))
    return x, y, [channels[i] for i in keep], [units[i] for i in keep], rate


def _halved(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of two neighbouring samples."""
    n, one, length, modal = x.shape
    return x.reshape(n, one, length // 2, 2, modal).mean(3).astype(np.float32)


def _thinned(start: NDArray[Any], length: NDArray[Any], factor: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where recordings lie once every `factor`-th row of the whole log is kept."""
    first = -(-start // factor)
    return first, -(-(start + length) // factor) - first
