"""Files for runs of the command `sattn-run`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HOP, WINDOW = 8, 16
NAMES = ["c0", "c1"]


def save_labelled(folder: Path) -> Path:
    """A recording of 100 samples, labelled l0 and then l1."""
    path = folder / "rec.npz"
    signal = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    label = (np.arange(100) >= 50).astype(np.int16)
    np.savez(path, signal=signal, label=label, class_names=["l0", "l1", "l2"], fs=50.0, channels=NAMES)
    return path
