"""Contracts for the foreign checkpoints beside the repository, and the windows their test splits hold."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NETS = ("basicmotions", "cwru", "emg", "hapt", "hapt12", "mitdb", "mitdbtime", "motionsense", "watch")
# network -> the bundle it was trained on, its rate after thinning out, how it was cut
_BUNDLES = {"hapt12": "hapt", "mitdbtime": "mitdb"}
_THIN = {"mitdb": 2, "mitdbtime": 2, "emg": 5}


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
    """A foreign checkpoint: its weights, its contract as TOML, windows [n, 1, series, modal], labels and subjects."""

    name: str
    weights: Path
    contract: str
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    group: NDArray[np.int64]


TEST = ("test",)
CALIBRATION = ("calib", "val")  # what the networks were neither trained nor tested on


def load_net(name: str, splits: tuple[str, ...] = TEST) -> Net:
    """Everything one foreign checkpoint needs, with the windows of some splits of its bundle."""
    card = json.loads((SHARED / f"{name}_net.json").read_text())
    bundle = _BUNDLES.get(name, name)
    path = SHARED / (f"{bundle}.npz" if bundle == "basicmotions" else f"{bundle}_dev.npz")
    data = sattn_data().load(path)
    channels, rate = [str(c) for c in data["channels"]], float(data["fs"])
    units = [str(u) for u in data["units"]] if "units" in data else [""] * len(channels)
    if name == "mitdb":
        channels, units = channels[:1], ["window std"]
    if card["channels"]:
        channels, units = [channels[i] for i in card["channels"]], [units[i] for i in card["channels"]]
    x, y, group = _windows(name, card, data, splits)
    return Net(name, SHARED / f"{name}_net.pt", toml(card, channels, units, rate / _THIN.get(name, 1)), x, y, group)


def signals_of(name: str) -> Iterator[NDArray[np.float32]]:
    """Whole test recordings [samples, modal] as a foreign checkpoint takes them, to be streamed."""
    card = json.loads((SHARED / f"{name}_net.json").read_text())
    data = sattn_data().load(SHARED / f"{_BUNDLES.get(name, name)}_dev.npz")
    for _, _, signal, _ in sattn_data().recordings(data, "test"):
        if card["channels"]:
            signal = signal[:, card["channels"]]
        factor = _THIN.get(name, 1)
        if name == "emg":
            signal = signal[::factor]
        elif factor > 1:
            signal = signal[: len(signal) // factor * factor].reshape(-1, factor, signal.shape[1]).mean(1)
        if len(signal) >= card["window"]:
            yield np.ascontiguousarray(signal, np.float32)


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


def _windows(name: str, card: dict[str, Any], data: dict[str, Any], splits: tuple[str, ...]) -> tuple[Any, Any, Any]:
    reader = sattn_data()
    length, step = card["window"], card["train_step"]
    if name == "basicmotions":
        test = data["split"] == "test" if splits == TEST else data["split"] != "test"
        return data["X"][test][:, None], data["y"][test], np.zeros(int(test.sum()), np.int64)
    if name == "mitdb":
        x, y, group = reader.ecg_windows(data, 2048, 1024, list(splits), positive="LRVEF")
        x = _halved(x[..., :1])
        x = (x - x.mean(2, keepdims=True)) / np.maximum(x.std(2, keepdims=True), 0.05)
        return x.astype(np.float32), y, group
    if name == "mitdbtime":  # split in time: the same patients
        span = (0.7, 1.0) if splits == TEST else (0.6, 0.7)
        x, y, group = reader.ecg_rhythm_windows(data, 2048, 1024, ["train", "calib", "val", "test"], span=span)
        return _halved(x), y, group
    if name == "emg":
        data["signal"], data["label"] = data["signal"][::5], data["label"][::5]
        data["rec_start"], data["rec_len"] = _thinned(data["rec_start"], data["rec_len"], 5)
    purity = 0.6 if name == "hapt12" else 1.0
    classes = range(len(card["classes"]))
    windows: tuple[Any, Any, Any] = reader.windows(data, length, step, list(splits), classes, purity, card["channels"])
    return windows


def _halved(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of two neighbouring samples."""
    n, one, length, modal = x.shape
    return x.reshape(n, one, length // 2, 2, modal).mean(3).astype(np.float32)


def _thinned(start: NDArray[Any], length: NDArray[Any], factor: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where recordings lie once every `factor`-th row of the whole log is kept."""
    first = -(-start // factor)
    return first, -(-(start + length) // factor) - first
