"""Windows that were cut before: the keys of a windows.npz.

x (or X)     [n, series, modal] or [n, 1, series, modal], float32 or float64 in physical units
y            [n] label names, or indices into class_names (the contract's labels without); <0 or 255 = none
class_names  [classes]         group  [n] whom a window is of        start  [n] first sample
channels     [modal] names     units  [modal]                        rate_hz (or fs)  a number
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.npz_checks import check_file_rate, file_channels, file_class_names
from sattn_edge.npz_stream import Array, NpzFile
from sattn_edge.recording_base import label_notes, map_labels


@dataclass(frozen=True, slots=True, eq=False)
class WindowArrays:
    """x float32 [n, 1, series, modal]; y int16 [n], group str [n], start int64 [n] where they are known."""

    x: NDArray[np.float32]
    y: NDArray[np.int16] | None
    group: NDArray[np.str_] | None
    start: NDArray[np.int64] | None
    notes: tuple[str, ...]


def read_windows(file: NpzFile, contract: Contract) -> WindowArrays:
    """Reads and checks everything but whether the values are finite.

    Raises:
        RecordingError: no windows, or whatever does not fit the contract.
    """
    x, notes = _read_x(file, "x" if "x" in file else "X", contract)
    y, told = _read_y(file, len(x), contract)
    return WindowArrays(x, y, _read_group(file, len(x)), _read_start(file, len(x)), notes + told)


def _read_x(file: NpzFile, key: str, contract: Contract) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    stream = file.stream(key)
    shape = stream.header.shape
    if stream.header.dtype.newbyteorder("=") not in (np.float32, np.float64):
        raise RecordingError(
            file.subject, f"{key} is {stream.header.dtype}", "float32 in physical units", "convert it first"
        )
    _check_shape(shape, key, contract, file.subject)
    channels, notes = file_channels(file, shape[-1], contract)
    check_file_rate(file, contract)
    x = stream.rows(0, shape[0]).reshape(shape[0], 1, *shape[-2:])
    if channels.columns != tuple(range(shape[-1])):
        x = x[..., list(channels.columns)]
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which is found as such
        return x.astype(np.float32, order="C", copy=False), notes


def _check_shape(shape: tuple[int, ...], key: str, contract: Contract, subject: str) -> None:
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] != 1):
        raise RecordingError(subject, f"{key} is {list(shape)}", "[n, series, modal] or [n, 1, series, modal]")
    if shape[0] == 0:
        raise RecordingError(subject, "holds no windows", "at least one")
    if shape[-2] != contract.window:
        turned = shape[-2:] == (contract.modal, contract.window)
        raise RecordingError(
            subject,
            f"windows have {shape[-2]} samples",
            f"the contract says {contract.window}",
            f"it looks transposed: save {key}.swapaxes(-1, -2)" if turned else "cut them anew",
        )


def _read_y(file: NpzFile, count: int, contract: Contract) -> tuple[NDArray[np.int16] | None, tuple[str, ...]]:
    if "y" not in file:
        return None, ()
    values, names = _per_window(file, "y", count), file_class_names(file)
    y = map_labels(values, names, contract, f"{file.subject}, 'y'")
    used = [str(n) for n in np.unique(values)] if values.dtype.kind == "U" else names or ()
    return y, label_notes(used, contract, file.subject)


def _read_group(file: NpzFile, count: int) -> NDArray[np.str_] | None:
    return _per_window(file, "group", count).astype(np.str_) if "group" in file else None


def _read_start(file: NpzFile, count: int) -> NDArray[np.int64] | None:
    if "start" not in file:
        return None
    start = _per_window(file, "start", count)
    if start.dtype.kind not in "iu":
        raise RecordingError(file.subject, f"start is {start.dtype}", "whole numbers, in samples")
    return start.astype(np.int64)


def _per_window(file: NpzFile, key: str, count: int) -> Array:
    values = file.read(key)
    if values.shape != (count,):
        raise RecordingError(file.subject, f"{key} is {list(values.shape)} for {count} windows", "one per window")
    return values
