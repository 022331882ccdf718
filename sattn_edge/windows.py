"""Windows, the input of calibration, parity and golden windows: from a windows.npz or cut from recordings.

What a windows.npz holds is in `windows_npz`, what a recording is in `recording`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError, UsageError
from sattn_edge.files import digest
from sattn_edge.npz_stream import NpzFile
from sattn_edge.recording import Recording, open_recordings, split_spec
from sattn_edge.recording_base import NO_LABEL, listed
from sattn_edge.windows_npz import read_windows

_WHAT = "x [n, series, modal] holds windows, signal [samples, channels] a recording"
GAP_PERIODS = 1.5  # a longer step between two samples means that at least one is missing


@dataclass(frozen=True, slots=True, eq=False)
class WindowSet:
    """Windows in physical units.

    x: float32 [n, 1, series, modal], C-contiguous, finite, n >= 1.
    y: int16 [n], indices into contract.labels, -1 = unscored; None if nothing is known of any.
    group: str [n], whom a window is of (subject), "" = not known.
    start: int64 [n], first sample of a window in its recording.
    digest: names x, its bytes and its shape.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int16] | None
    group: NDArray[np.str_] | None
    start: NDArray[np.int64] | None
    source: str
    digest: str
    notes: tuple[str, ...] = ()


def load_windows(spec: str, contract: Contract, *, limit: int | None = None) -> WindowSet:
    """Reads a windows.npz, or cuts the recordings of PATH or PATH#NAME by the contract.

    limit: at most so many windows, spread evenly over all there are.

    Raises:
        RecordingError: no windows, non-finite values, or whatever does not fit the contract; exit code 3.
        UsageError: limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError("limit", f"is {limit}", "a number of windows, 1 or more")
    path, name = split_spec(spec)
    if path.suffix.lower() == ".npz":
        with NpzFile(path) as file:
            if "x" in file or "X" in file:
                return _from_file(file, name, contract, limit)
            if "signal" not in file:
                raise RecordingError(str(path), f"has neither 'x' nor 'signal' (it has {listed(file.keys)})", _WHAT)
    return _cut_all(spec, contract, limit)


def gaps(timestamp_s: NDArray[np.float64], rate_hz: float) -> NDArray[np.int64]:
    """The indices of the first samples after a gap: where time steps by more than 1.5 sample periods.

    A step back by as much counts too: the clock was set, and what lies between the two samples is not known.
    """
    steps = np.abs(np.diff(timestamp_s))
    return (np.flatnonzero(steps > GAP_PERIODS / rate_hz) + 1).astype(np.int64)


def cut(
    recording: Recording, contract: Contract, hop: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int16] | None, NDArray[np.int64]]:
    """Cuts windows at 0, hop, 2 hop ... of each stretch without a gap.

    hop: samples from window to window; the contract's if None.

    Returns:
        x float32 [n, 1, window, modal], a read-only view of the samples if there is no gap;
        y int16 [n], the common label of all samples of the window, else -1, or None without labels;
        start int64 [n], first samples. n may be 0.
    """
    hop = contract.hop if hop is None else hop
    if hop < 1:
        raise UsageError("hop", f"is {hop}", "a number of samples, 1 or more")
    start = window_starts(recording, contract, hop)
    if not len(start):
        return np.empty((0, 1, contract.window, contract.modal), np.float32), _no_labels(recording), start
    # [n, modal, window]: numpy puts the window's axis last.
    every = sliding_window_view(recording.samples, contract.window, axis=0)
    evenly = len(start) == 1 or bool((np.diff(start) == hop).all())
    x = every[start[0] : start[-1] + 1 : hop] if evenly else every[start]
    return x.transpose(0, 2, 1)[:, None], _common_labels(recording.labels, start, contract.window), start


def window_starts(recording: Recording, contract: Contract, hop: int) -> NDArray[np.int64]:
    """The first samples of the windows `cut` makes, int64 [n]."""
    samples = len(recording.samples)
    breaks: list[int] = []
    if recording.timestamp_s is not None:
        breaks = gaps(recording.timestamp_s, contract.rate_hz).tolist()
    stretches = zip([0, *breaks], [*breaks, samples], strict=True)
    return np.concatenate([np.arange(a, b - contract.window + 1, hop, dtype=np.int64) for a, b in stretches])


def _no_labels(recording: Recording) -> NDArray[np.int16] | None:
    return None if recording.labels is None else np.empty(0, np.int16)


def _common_labels(labels: NDArray[np.int16] | None, start: NDArray[np.int64], window: int) -> NDArray[np.int16] | None:
    if labels is None:
        return None
    run = np.concatenate([[0], np.cumsum(labels[1:] != labels[:-1])])  # which run of equal labels a sample is in
    same = run[start] == run[start + window - 1]
    return np.where(same, labels[start], NO_LABEL).astype(np.int16)


def even(count: int, limit: int | None) -> NDArray[np.int64]:
    """Up to `limit` of `count` indices, first and last among them, as far apart from each other as can be."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    if limit == 1:
        return np.array([count // 2], np.int64)
    return np.arange(limit, dtype=np.int64) * (count - 1) // (limit - 1)


def _from_file(file: NpzFile, name: str | None, contract: Contract, limit: int | None) -> WindowSet:
    if name is not None:
        raise RecordingError(file.subject, f"holds windows, not a recording '{name}'", "PATH without #NAME")
    found = read_windows(file, contract)
    _check_finite(found.x, contract, file.subject, np.arange(len(found.x)), "window {0}, sample {1}")
    keep = even(len(found.x), limit)
    x = found.x if len(keep) == len(found.x) else found.x[keep]
    y, group, start = (None if a is None else a[keep] for a in (found.y, found.group, found.start))
    return _window_set(x, y, group, start, source=file.subject, notes=found.notes)


def _cut_all(spec: str, contract: Contract, limit: int | None) -> WindowSet:
    """Cuts every recording. With a limit they are read twice, to count and to pick, so few are held."""
    keep: NDArray[np.int64] | None = None
    if limit is not None:
        counts = [len(window_starts(r, contract, contract.hop)) for r in open_recordings(spec, contract)]
        keep = even(sum(counts), limit)
    pieces = list(_cut_each(spec, contract, keep))
    x = np.concatenate([p.x for p in pieces])
    if not len(x):
        raise RecordingError(
            spec,
            "holds no window",
            f"gaps in timestamp_s leave no stretch of {contract.window} samples",
            "check that timestamp_s is in seconds and the rate right",
        )
    group = np.concatenate([np.repeat(np.array([p.subject or ""]), len(p.x)) for p in pieces])
    return _window_set(
        x,
        _joined_labels(pieces),
        group if any(p.subject for p in pieces) else None,
        np.concatenate([p.start for p in pieces]),
        source=spec,
        notes=tuple(note for p in pieces for note in p.notes),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """The windows of one recording that are kept."""

    x: NDArray[np.float32]
    y: NDArray[np.int16] | None
    start: NDArray[np.int64]
    subject: str | None
    notes: tuple[str, ...]


def _cut_each(spec: str, contract: Contract, keep: NDArray[np.int64] | None) -> Iterator[_Piece]:
    seen = 0
    for recording in open_recordings(spec, contract):
        x, y, start = cut(recording, contract)
        if not np.isfinite(recording.samples).all():  # windows overlap: this is the quicker look
            _check_finite(x, contract, f"{split_spec(spec)[0]}#{recording.name}", start, "sample {2}")
        if keep is not None:
            here = keep[(keep >= seen) & (keep < seen + len(x))] - seen
            seen += len(x)
            x, y, start = x[here], None if y is None else y[here], start[here]
        # A copy, or each view would keep its whole recording in memory.
        yield _Piece(np.array(x, order="C"), y, start, recording.subject, recording.notes)


def _joined_labels(pieces: list[_Piece]) -> NDArray[np.int16] | None:
    if all(p.y is None for p in pieces):
        return None
    return np.concatenate([np.full(len(p.x), NO_LABEL, np.int16) if p.y is None else p.y for p in pieces])


def _check_finite(
    x: NDArray[np.float32], contract: Contract, subject: str, start: NDArray[np.int64], where: str
) -> None:
    finite = np.isfinite(x)
    if finite.all():
        return
    window, _, time, channel = (int(i) for i in np.argwhere(~finite)[0])
    place = where.format(window, time, int(start[window]) + time)
    raise RecordingError(
        subject,
        f"{int((~finite).sum())} of {x.size} values are not finite, the first in {place}, "
        f"channel '{contract.channel_names[channel]}'",
        "finite values only",
        "leave those windows out, or fill them",
    )


def _window_set(
    x: NDArray[np.float32],
    y: NDArray[Any] | None,
    group: NDArray[Any] | None,
    start: NDArray[Any] | None,
    *,
    source: str,
    notes: tuple[str, ...],
) -> WindowSet:
    x = np.ascontiguousarray(x)
    name = digest(b"".join((f"float32 {list(x.shape)}\n".encode(), x.data.cast("B"))))
    return WindowSet(x, y, group, start, source, name, notes)
