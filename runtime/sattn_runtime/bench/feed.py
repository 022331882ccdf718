"""What the sensor of a benchmark sends: samples of real windows or recordings, round and round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.model_file import ModelFile
from sattn_edge.npz_stream import NpzFile
from sattn_edge.recording import open_recordings, split_spec
from sattn_edge.windows import load_windows

_MOST_SAMPLES = 1 << 20  # of a recording: far more than any cache holds


def load_samples(model: ModelFile, data: str | None) -> tuple[NDArray[np.float32], str]:
    """(samples float32 [n, modal] in physical units, where they are from).

    Windows are laid behind one another; recordings too, up to about a million samples.

    Raises:
        RecordingError: the file can't be used, or holds a value that is not finite.
    """
    if data is None:
        return _laid(model.golden.x), f"{len(model.golden.x)} golden windows"
    if _holds_windows(data):
        return _laid(load_windows(data, model.contract).x), data
    return _recorded(data, model.contract), data


def _laid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]))


def _holds_windows(data: str) -> bool:
    path, _ = split_spec(data)
    if path.suffix.lower() != ".npz":
        return False
    with NpzFile(path) as file:
        return "x" in file or "X" in file


def _recorded(data: str, contract: Contract) -> NDArray[np.float32]:
    parts, count = [], 0
    for recording in open_recordings(data, contract):
        part = recording.samples[: _MOST_SAMPLES - count]
        if not np.isfinite(part).all():
            # A window that can't be judged is never inferred: it would look fast.
            raise RecordingError(
                f"{data}#{recording.name}", "holds values that are not finite", "finite values only", "fill them"
            )
        parts.append(part)
        count += len(part)
        if count >= _MOST_SAMPLES:
            break
    return np.ascontiguousarray(np.concatenate(parts))


class Feed:
    """Consecutive samples without an end; behind the last comes the first.

    Args:
        samples: float32 [n, modal], n at least 1.
        size: samples of the largest piece that will be taken.
    """

    def __init__(self, samples: NDArray[np.float32], size: int) -> None:
        times = -(-size // len(samples))
        self._samples = np.tile(samples, (times, 1)) if times > 1 else samples
        self._at = 0

    def take(self, count: int) -> NDArray[np.float32]:
        """The next `count` samples [count, modal], a view. The rest before the end is left out where it is less."""
        if self._at + count > len(self._samples):
            self._at = 0
        self._at += count
        return self._samples[self._at - count : self._at]
