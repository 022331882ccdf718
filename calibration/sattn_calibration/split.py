"""Windows in two parts: one gives the ranges, the other judges them. No sample is in both.

Where it is known whom windows are of, whole groups go to one part or the other. Otherwise each stretch of one label
is cut in the middle, and where no label is known the time is cut into blocks; either way every recording gives to
both parts, and the windows across a cut are left out. Nothing is drawn: the same windows give the same parts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sattn_calibration.overlap import Indices, Mask, Positions, positions, sharing
from sattn_edge.errors import RecordingError
from sattn_edge.windows import WindowSet

By = Literal["group", "label", "time"]
Bits = NDArray[np.int8]

_RANGES, _JUDGE = 0, 1
_BLOCK = 5  # windows of a block in time, times those that share a sample: a cut leaves out a fifth at most


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """ranges, judge: int64 indices in ascending order, at least one each. note: what was done, for the report."""

    ranges: Indices
    judge: Indices
    by: By
    note: str


def split(windows: WindowSet, window: int, hop: int) -> Split:
    """Parts windows x [n, 1, series, modal] about half and half. window, hop: the contract's, in samples.

    Raises:
        RecordingError: there is no way to part them that leaves a window on either side; exit code 3.
    """
    places = positions(windows, hop)
    by, part = _assigned(windows, places, window)
    kept = _apart(places, part, window)
    judge = np.flatnonzero(kept & (part == _JUDGE))
    ranges = np.flatnonzero(kept & (part == _RANGES))
    if len(judge) and len(ranges):
        # Positions may be wrong, or the windows in no order at all: the samples have the last word.
        judge = judge[~sharing(windows.x[judge, 0], windows.x[ranges, 0])]
    if not len(judge) or not len(ranges):
        raise RecordingError(
            windows.source,
            f"its {len(windows.x)} windows can't be parted into two that share no samples",
            "one part gives the ranges, the other judges them",
            "give more windows, in the order of time, with 'start' or 'group'",
        )
    return Split(ranges, judge, by, _note(windows, ranges, judge, by, places))


def _assigned(windows: WindowSet, places: Positions, window: int) -> tuple[By, Bits]:
    names = windows.group
    if names is not None and len(np.unique(names)) > 1:
        return "group", _by_group(names)
    if windows.y is not None and len(np.unique(windows.y)) > 1:
        return "label", _by_label(windows.y, places, window)
    return "time", _by_time(places, window)


def _by_group(names: NDArray[np.str_]) -> Bits:
    """The largest group first, each to the part that has fewer windows so far, the ranges' if both have as many."""
    sizes = Counter(names.tolist())
    has, judged = [0, 0], set()
    for name, size in sorted(sizes.items(), key=lambda row: (-row[1], row[0])):
        to = _JUDGE if has[_JUDGE] < has[_RANGES] else _RANGES
        has[to] += size
        if to == _JUDGE:
            judged.add(name)
    return np.array([name in judged for name in names.tolist()], np.int8)


def _by_label(y: NDArray[np.int16], places: Positions, window: int) -> Bits:
    """Each stretch of one label in one recording is cut in half, or goes to the part that has less of the label.

    Halves alternate (ranges judge, judge ranges, ...), so that no cut is needed where one stretch meets the next.
    """
    part = np.zeros(len(y), np.int8)
    has: dict[int, list[int]] = {}
    last, recording = _RANGES, -1
    for stretch in _stretches(y, places):
        label = int(y[stretch[0]])
        count = has.setdefault(label, [0, 0])
        if recording != places.recording[stretch[0]]:
            # A new recording starts where it likes: with the part that has less of its label.
            last, recording = int(count[_JUDGE] < count[_RANGES]), int(places.recording[stretch[0]])
        half = _middle(places.start[stretch], window)
        if half is None:
            last = last if count[_RANGES] == count[_JUDGE] else int(count[_JUDGE] < count[_RANGES])
            part[stretch] = last
            count[last] += len(stretch)
        else:
            part[stretch[:half]], part[stretch[half:]] = last, 1 - last
            count[last] += half
            count[1 - last] += len(stretch) - half
            last = 1 - last
    return part


def _stretches(y: NDArray[np.int16], places: Positions) -> list[Indices]:
    """Neighbours in time of one recording and one label, as indices in the order of time."""
    order = np.lexsort((places.start, places.recording))
    new = (np.diff(places.recording[order]) != 0) | (np.diff(y[order]) != 0)
    return [np.asarray(piece) for piece in np.split(order, np.flatnonzero(new) + 1)]


def _middle(start: Indices, window: int) -> int | None:
    """Where to cut a stretch so that either half keeps a window, None where it is too short for that."""
    half = (len(start) + 1) // 2
    return half if len(start) > 1 and start[-1] - start[half - 1] >= window else None


def _by_time(places: Positions, window: int) -> Bits:
    """Blocks in turn, so long that the cuts leave out a fifth at most; two or more where a recording allows."""
    part = np.zeros(len(places.start), np.int8)
    turn = _RANGES
    for one in np.unique(places.recording):
        inside = np.flatnonzero(places.recording == one)
        inside = inside[np.argsort(places.start[inside], kind="stable")]
        steps = np.diff(places.start[inside])
        across = -(-window // max(int(np.median(steps)), 1)) if len(steps) else 1  # windows that share one sample
        blocks = max(2 * (len(inside) // (2 * _BLOCK * across)), 1 if len(inside) <= across else 2)
        number = np.arange(len(inside)) * blocks // len(inside)
        part[inside] = (number + turn) % 2
        turn = int(part[inside[-1]]) if blocks > 1 else 1 - turn
    return part


def _apart(places: Positions, part: Bits, window: int) -> Mask:
    """The windows that stay: of those across a cut the later ones go."""
    order = np.lexsort((places.start, places.recording))
    kept = np.ones(len(order), np.bool_)
    end, current = [0, 0], -1
    for i in order.tolist():
        start, recording, own = int(places.start[i]), int(places.recording[i]), int(part[i])
        if recording != current:
            end, current = [start, start], recording
        if start < end[1 - own]:
            kept[i] = False
        else:
            end[own] = start + window
    return kept


def _note(windows: WindowSet, ranges: Indices, judge: Indices, by: By, places: Positions) -> str:
    parts = f"{len(ranges)} and {len(judge)} windows, each part judged with ranges from the other"
    if by == "group" and windows.group is not None:
        second = np.unique(windows.group[judge])
        parts += f", by group: {', '.join(name or '(not known)' for name in second)} in the second"
    else:
        parts += ", each stretch of a label cut in half" if by == "label" else ", in blocks of time"
    left = len(windows.x) - len(ranges) - len(judge)
    if left:
        parts += f"; {left} left out, which share samples with both"
    if places.source == "order" and by != "group":
        parts += "; taken to be in the order of time, since there is no 'start'"
    return parts
