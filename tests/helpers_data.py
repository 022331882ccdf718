"""Contracts and data for tests: the recording that ships, and others that may be beside the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sattn_edge.contract import Channel, Contract

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
WATCH_TINY = ROOT / "sattn_edge" / "demo_data" / "watch_tiny.npz"


def make_contract(
    channels: tuple[str, ...] = ("a", "b"),
    *,
    rate_hz: float = 50.0,
    window: int = 8,
    hop: int = 4,
    labels: tuple[str, ...] = ("rest", "walk", "run"),
    units: tuple[str, ...] | None = None,
) -> Contract:
    """A small contract."""
    units = units or ("",) * len(channels)
    rows = tuple(Channel(name, unit) for name, unit in zip(channels, units, strict=True))
    return Contract(rate_hz, window, hop, labels, rows)


def contract_of(path: Path, window: int = 128, hop: int = 64) -> Contract:
    """The contract that takes a bundle as it is."""
    with np.load(path, allow_pickle=False) as z:
        return make_contract(
            tuple(str(c) for c in z["channels"]),
            rate_hz=float(z["fs"]),
            window=window,
            hop=hop,
            labels=tuple(str(c) for c in z["class_names"]),
            units=tuple(str(u) for u in z["units"]) if "units" in z else None,
        )


def shared_data(name: str) -> Path:
    """A file beside the repository; the test is skipped where it is not there."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {name} in {SHARED}")
    return path


def reference_reader() -> ModuleType:
    """The reader that came with the data."""
    spec = importlib.util.spec_from_file_location("sattn_data", shared_data("sattn_data.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_bundle(path: Path, parts: dict[str, np.ndarray], **keys: object) -> Path:
    """Saves int16 recordings [n, channels] one after another, plain unless `encoding` says delta."""
    signal = np.concatenate(list(parts.values()))
    if keys.get("encoding") == "delta":
        signal = np.concatenate([np.diff(p, axis=0, prepend=np.zeros_like(p[:1])) for p in parts.values()])
    length = np.array([len(p) for p in parts.values()])
    table: dict[str, object] = {
        "signal": signal,
        "rec_start": np.cumsum(length) - length,
        "rec_len": length,
        "rec_name": np.array(list(parts)),
        "scale": np.full(signal.shape[1], 0.5, np.float32),
    }
    # An npz is a zip: a key given as None is left out.
    kept = {k: np.asarray(v) for k, v in {**table, **keys}.items() if v is not None}
    np.savez_compressed(path, **kept)  # type: ignore[arg-type]
    return path
