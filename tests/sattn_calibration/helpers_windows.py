"""Sets of windows for tests, which remember the samples they were cut from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from sattn_edge.windows import WindowSet


@dataclass(frozen=True)
class Cut:
    """Windows and, of each sample of each window, where it came from: int64 [n, window]."""

    windows: WindowSet
    samples: np.ndarray


def window_set(x: np.ndarray, y=None, group=None, start=None) -> WindowSet:
    """Windows [n, series, modal] as calibration gets them."""
    x = np.ascontiguousarray(np.asarray(x, np.float32)[:, None])
    return WindowSet(
        x,
        None if y is None else np.asarray(y, np.int16),
        None if group is None else np.asarray(group, np.str_),
        None if start is None else np.asarray(start, np.int64),
        "windows.npz",
        "sha256:0",
    )


def walk(length: int, modal: int = 2, seed: int = 0) -> np.ndarray:
    """A signal [length, modal] as sensors give them: each sample near the one before, around 0, std about 1."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(length + 20, modal)) * (1 + np.sin(np.arange(length + 20) / 50)[:, None])
    kernel = np.hanning(12) / np.sqrt((np.hanning(12) ** 2).sum())
    smooth = np.stack([np.convolve(drawn[:, i], kernel, mode="valid") for i in range(modal)], axis=1)
    return (smooth[:length] / smooth[:length].std()).astype(np.float32)


def cut(
    lengths: list[int],
    window: int,
    hop: int,
    *,
    labels: int | None = None,
    groups: list[str] | None = None,
    with_start: bool = True,
    seed: int = 0,
) -> Cut:
    """Recordings of these lengths cut into windows, one after another. Labels change at random places."""
    rng = np.random.default_rng(seed)
    x, y, group, start, samples = [], [], [], [], []
    offset = 0
    for i, length in enumerate(lengths):
        signal = walk(length, seed=seed + i)
        label = np.cumsum(rng.random(length) < 0.02) % (labels or 1)
        for s in range(0, length - window + 1, hop):
            x.append(signal[s : s + window])
            own = np.unique(label[s : s + window])
            y.append(int(own[0]) if len(own) == 1 else -1)
            group.append(groups[i] if groups else "")
            start.append(s)
            samples.append(offset + np.arange(s, s + window))
        offset += length
    made = window_set(np.stack(x), y if labels else None, group if groups else None, start if with_start else None)
    return Cut(made, np.stack(samples))


@st.composite
def cuts(draw: st.DrawFn, *, groups: bool = True) -> Cut:
    """Windows of 8 to 32 samples that overlap by 8 or more or not at all, with or without labels, groups, start."""
    window = draw(st.sampled_from([8, 16, 24, 32]))
    hops = [h for h in (1, 2, 3, 5, 8, 12, 16, 24) if h <= window - 8]
    hop = draw(st.sampled_from([*hops, window, window + 3]))
    lengths = draw(st.lists(st.integers(window, window + 30 * hop), min_size=1, max_size=4))
    lengths[0] = max(lengths[0], 2 * window + 2 * hop)
    names = draw(st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=len(lengths), max_size=len(lengths)))
    return cut(
        lengths,
        window,
        hop,
        labels=draw(st.sampled_from([None, 1, 2, 3])),
        groups=names if groups and draw(st.booleans()) else None,
        with_start=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
