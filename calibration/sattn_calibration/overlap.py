"""Which windows share samples: where each lies in time, as far as the data tell."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sattn_edge.windows import WindowSet

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
Source = Literal["start", "samples", "order"]

_PAIRS = 64  # pairs of neighbours the hop is looked for in
_LEAST_SHARED = 8  # samples two windows share at least before it counts as more than chance
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd: its powers have inverses modulo 2^64
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Windows of different recordings share no sample; of the same one, where their starts are closer than a window.

    recording, start: int64 [n]. source: "start" as the file says, "samples" where the end of one window is the
    beginning of the next, "order" where neither tells: then windows are taken to follow each other at the
    contract's hop, which may be too near and is never too far.
    """

    recording: Indices
    start: Indices
    source: Source


def positions(windows: WindowSet, hop: int) -> Positions:
    """Where windows x [n, 1, series, modal] lie in time. hop: the contract's, in samples."""
    count, length = len(windows.x), windows.x.shape[2]
    cut = _changes(windows.group, count)
    if windows.start is not None:
        # Recordings stand one after another: where the start does not grow, another one begins.
        cut[1:] |= np.diff(windows.start) <= 0
        return Positions(np.cumsum(cut), windows.start.astype(np.int64), "start")
    found, linked = _linked(windows.x[:, 0], ~cut[1:], hop)
    if found is None:
        return Positions(np.cumsum(cut), np.arange(count, dtype=np.int64) * min(hop, length), "order")
    cut[1:] |= ~linked
    return Positions(np.cumsum(cut), np.arange(count, dtype=np.int64) * found, "samples")


def _changes(group: NDArray[np.str_] | None, count: int) -> Mask:
    changes = np.zeros(count, np.bool_)
    if group is not None:
        changes[1:] = group[1:] != group[:-1]
    return changes


def _linked(x: NDArray[np.float32], same: Mask, hop: int) -> tuple[int | None, Mask]:
    """The hop the windows were cut with, and which pairs of neighbours share the rest: bool [n - 1]."""
    found = _hop_of(x, same, hop)
    if found is None:
        return None, np.zeros_like(same)
    linked = same & (x[:-1, found:] == x[1:, : x.shape[1] - found]).all(axis=(1, 2))
    return found, linked


def _hop_of(x: NDArray[np.float32], same: Mask, hop: int) -> int | None:
    length = x.shape[1]
    neighbours = np.flatnonzero(same)
    if not len(neighbours):
        return None
    picked = neighbours[np.linspace(0, len(neighbours) - 1, min(_PAIRS, len(neighbours))).astype(np.int64)]
    votes = np.zeros(length, np.int64)
    for i in picked:
        first, second = x[i], x[i + 1]
        candidates = np.flatnonzero((first == second[0]).all(axis=1))
        for h in candidates[(candidates > 0) & (candidates <= length - min(_LEAST_SHARED, length // 2 + 1))]:
            shared = second[: length - h]
            # What does not change looks the same at any shift and tells nothing.
            if (first[h:] == shared).all() and (shared != shared[0]).any():
                votes[h] += 1
                break
    best = hop if hop < length and votes[hop] == votes.max() else int(votes.argmax())
    return best if votes[best] else None


def overlapping(places: Positions, window: int) -> Mask:
    """The windows that share samples with another one by their positions, bool [n]."""
    order = np.lexsort((places.start, places.recording))
    recording, start = places.recording[order], places.start[order]
    near = (np.diff(recording) == 0) & (np.diff(start) < window)
    found = np.zeros(len(order), np.bool_)
    found[order[1:][near]] = True
    found[order[:-1][near]] = True
    return found


def duplicates(x: NDArray[np.float32]) -> Mask:
    """The windows that are bit for bit an earlier one, bool [n]."""
    seen: set[bytes] = set()
    found = np.zeros(len(x), np.bool_)
    for i, one in enumerate(x):
        name = hashlib.blake2b(np.ascontiguousarray(one).data, digest_size=16).digest()
        found[i] = name in seen
        seen.add(name)
    return found


def effective_windows(windows: WindowSet, places: Positions) -> float:
    """How many windows without overlap hold the same samples: those an overlap repeats count once.

    Windows whose place is not known (source "order") count as one each unless they are equal.
    """
    length = windows.x.shape[2]
    once = ~duplicates(windows.x)
    if places.source == "order":
        return float(once.sum())
    recording, start = places.recording[once], places.start[once]
    order = np.lexsort((start, recording))
    step = np.diff(start[order])
    follows = np.diff(recording[order]) == 0
    fresh = np.where(follows, np.minimum(step, length), length)
    return float(1.0 + fresh.sum() / length)


def sharing(x: NDArray[np.float32], others: NDArray[np.float32]) -> Mask:
    """The windows of x [n, series, modal] that share an eighth of a window or more with any of `others`: bool [n].

    By samples alone, whatever the order: the first or the last samples of a window stand somewhere in another one.
    What does not change over time looks alike everywhere and is not counted, nor is an overlap below 8 samples.
    """
    length = x.shape[1]
    block = min(max(_LEAST_SHARED, length // 8), length)
    ends = np.concatenate([_keys(x[:, :block], block)[:, 0], _keys(x[:, -block:], block)[:, 0]])
    flat = np.concatenate([_flat(x[:, :block]), _flat(x[:, -block:])])
    wanted = np.unique(ends)
    seen = np.zeros(len(wanted), np.bool_)
    for begin in range(0, len(others), 256):
        keys = _keys(others[begin : begin + 256], block).reshape(-1)
        at = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
        seen[at[wanted[at] == keys]] = True
    found = seen[np.searchsorted(wanted, ends)] & ~flat
    return np.asarray(found[: len(x)] | found[len(x) :])


def _flat(x: NDArray[np.float32]) -> Mask:
    return np.asarray((x == x[:, :1]).all(axis=(1, 2)))


def _keys(x: NDArray[np.float32], block: int) -> NDArray[np.uint64]:
    """A 64-bit name for each run of `block` samples, uint64 [n, series - block + 1].

    A polynomial over the samples modulo 2^64, as differences of running sums, brought to the same power.
    """
    length, modal = x.shape[1:]
    bits = np.ascontiguousarray(x + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0.0 becomes 0.0
    with np.errstate(over="ignore"):
        weight = np.cumprod(np.full(modal, _PRIME))
        row = ((bits + np.uint64(1)) * weight).sum(axis=2, dtype=np.uint64)
        row = (row ^ (row >> np.uint64(31))) * _MIX
        row ^= row >> np.uint64(29)
        power = np.cumprod(np.full(length, _PRIME))
        back = np.cumprod(np.full(length, np.uint64(pow(int(_PRIME), -1, 1 << 64))))
        upto = np.cumsum(row * power, axis=1, dtype=np.uint64)
        before = np.concatenate([np.zeros((len(x), 1), np.uint64), upto[:, : length - block]], axis=1)
        keys: NDArray[np.uint64] = (upto[:, block - 1 :] - before) * back[: length - block + 1]
    return keys
