"""No sample is in both parts, whatever is known of the windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sattn_calibration.overlap import duplicates, effective_windows, overlapping, positions, sharing
from sattn_calibration.split import split
from sattn_edge.errors import RecordingError
from tests.sattn_calibration.helpers_windows import cut, cuts, walk, window_set


def shared_samples(made, found) -> set[int]:
    return set(made.samples[found.ranges].ravel().tolist()) & set(made.samples[found.judge].ravel().tolist())


def part_of(made, hop: int):
    return split(made.windows, made.windows.x.shape[2], hop)


@given(cuts(), st.sampled_from([1, 4, 8, 16, 40]))
def test_no_sample_is_in_both_parts(made, contract_hop):
    """The contract's hop need not be the one the windows were cut with."""
    try:
        found = part_of(made, contract_hop)
    except RecordingError:
        return
    assert len(found.ranges) > 0
    assert len(found.judge) > 0
    assert not shared_samples(made, found)
    assert (np.diff(found.ranges) > 0).all()
    assert (np.diff(found.judge) > 0).all()


@given(cuts(groups=False), st.randoms(use_true_random=False))
def test_nor_where_the_windows_are_in_no_order(made, random):
    """But for less than 8 samples, or an eighth of a window: that could be chance."""
    order = np.array(random.sample(range(len(made.samples)), len(made.samples)))
    w = made.windows
    shuffled = replace(w, x=w.x[order], y=None if w.y is None else w.y[order], start=None)
    try:
        found = split(shuffled, w.x.shape[2], w.x.shape[2])
    except RecordingError:
        return
    assert shared_by_pairs(made.samples[order], found) < 8


def shared_by_pairs(samples, found) -> int:
    """The most samples a window of one part shares with one of the other."""
    ranges = [set(row.tolist()) for row in samples[found.ranges]]
    return max(len(a & set(row.tolist())) for a in ranges for row in samples[found.judge])


def test_the_measure_sees_a_shared_sample():
    """The control: halves of overlapping windows, cut without leaving any out."""
    made = cut([400], 32, 8)
    half = len(made.samples) // 2
    found = replace(part_of(made, 8), ranges=np.arange(half), judge=np.arange(half, len(made.samples)))
    assert shared_samples(made, found)
    assert shared_by_pairs(made.samples, found) == 24


@given(cuts())
def test_the_same_windows_give_the_same_parts(made):
    try:
        one, two = part_of(made, 8), part_of(made, 8)
    except RecordingError:
        return
    assert np.array_equal(one.ranges, two.ranges)
    assert np.array_equal(one.judge, two.judge)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12))
def test_groups_stay_whole_and_the_judge_gets_one(sizes):
    names = np.repeat([f"s{i}" for i in range(len(sizes))], sizes)
    made = window_set(np.random.default_rng(0).normal(size=(len(names), 16, 2)), group=names)
    found = split(made, 16, 16)
    assert found.by == "group"
    assert len(found.ranges) + len(found.judge) == len(names)
    assert not set(names[found.ranges]) & set(names[found.judge])
    # Each group goes where there is less: the parts differ by one group's windows at most.
    assert abs(len(found.ranges) - len(found.judge)) <= max(sizes)
    assert "judge" in found.note


def test_a_rule_and_not_the_order_of_groups_decides():
    x = np.random.default_rng(0).normal(size=(6, 16, 2))
    one = split(window_set(x, group=list("aaabbc")), 16, 16)
    two = split(window_set(x[::-1], group=list("cbbaaa")), 16, 16)
    assert one.ranges.tolist() == [0, 1, 2]
    assert two.ranges.tolist() == [3, 4, 5]
    assert one.note == "3 and 3 windows, each part judged with ranges from the other, by group: b, c in the second"


@pytest.mark.parametrize("with_start", [True, False])
def test_classes_in_sequence_are_in_both_parts(with_start):
    y = np.repeat([0, 1, 2, 3], 10)
    signal = walk(41 * 16)
    start = np.arange(40) * 16
    x = np.stack([signal[s : s + 32] for s in start])
    found = split(window_set(x, y, start=start if with_start else None), 32, 16)
    assert found.by == "label"
    assert set(y[found.ranges]) == set(y[found.judge]) == {0, 1, 2, 3}
    assert len(found.ranges) + len(found.judge) == 36  # one is left out at each of four cuts, none between labels
    assert "4 left out, which share samples with both" in found.note


def test_recordings_of_one_class_each_are_in_both_parts():
    made = cut([400] * 4, 32, 16)
    y = np.repeat([0, 1, 2, 3], len(made.samples) // 4)
    found = split(replace(made.windows, y=y.astype(np.int16)), 32, 16)
    assert set(y[found.ranges]) == set(y[found.judge]) == {0, 1, 2, 3}


def test_single_windows_of_a_class_take_turns():
    made = cut([40] * 12, 32, 16)
    y = np.tile([0, 1], 6).astype(np.int16)
    found = split(replace(made.windows, y=y), 32, 16)
    assert np.bincount(y[found.ranges]).tolist() == np.bincount(y[found.judge]).tolist() == [3, 3]


def test_without_labels_blocks_of_time_take_turns():
    made = cut([32 + 16 * 79], 32, 16)
    found = part_of(made, 16)
    assert found.by == "time"
    changes = np.diff(np.isin(np.arange(80), found.judge).astype(int))
    assert (changes != 0).sum() >= 4
    assert len(found.ranges) + len(found.judge) >= 0.8 * 80
    assert 0.7 < len(found.ranges) / len(found.judge) < 1.4


def test_without_start_the_note_says_what_was_assumed():
    x = np.random.default_rng(0).normal(size=(40, 16, 2))
    found = split(window_set(x), 16, 8)
    assert found.note.endswith("; taken to be in the order of time, since there is no 'start'")
    assert "order of time" not in split(window_set(x, start=np.arange(40) * 16), 16, 8).note


@pytest.mark.parametrize(
    "made",
    [
        window_set(np.ones((1, 16, 2))),
        window_set(walk(40)[None, :32].repeat(2, 0) + np.float32(1)),
        window_set(np.stack([walk(64)[s : s + 32] for s in (0, 8, 16)]), start=[0, 8, 16]),
    ],
)
def test_what_cannot_be_parted(made):
    with pytest.raises(RecordingError, match=r"windows.npz: its \d windows can't be parted.*'start' or 'group'"):
        split(made, made.x.shape[2], 8)


@given(cuts())
def test_positions_tell_which_windows_overlap(made):
    window = made.windows.x.shape[2]
    places = positions(made.windows, window)
    if places.source == "order":
        return
    counts = np.bincount(made.samples.ravel())
    really = (counts[made.samples] > 1).any(axis=1)
    assert np.array_equal(overlapping(places, window), really)


@given(cuts())
def test_effective_windows_are_the_samples_there_are(made):
    window = made.windows.x.shape[2]
    places = positions(made.windows, window)
    if places.source == "order":
        return
    assert effective_windows(made.windows, places) == pytest.approx(len(np.unique(made.samples)) / window)


def test_the_hop_is_found_in_the_samples():
    made = cut([600, 700], 64, 24, with_start=False)
    places = positions(made.windows, 64)
    assert places.source == "samples"
    assert np.diff(places.start).tolist()[0] == 24
    assert len(np.unique(places.recording)) == 2


def test_a_signal_that_stands_still_tells_nothing():
    still = window_set(np.ones((40, 32, 2)))
    assert positions(still, 32).source == "order"
    assert not sharing(still.x[:20, 0], still.x[20:, 0]).any()


def test_duplicates_are_the_later_ones():
    x = np.random.default_rng(0).normal(size=(3, 8, 2))
    found = duplicates(np.float32(x[[0, 1, 0, 2, 1]]))
    assert found.tolist() == [False, False, True, False, True]
    assert effective_windows(window_set(x[[0, 1, 0, 2, 1]]), positions(window_set(x[[0, 1, 0, 2, 1]]), 8)) == 3


@given(st.integers(8, 24), st.integers(0, 2**16), st.booleans())
def test_sharing_finds_an_overlap_of_any_length_from_8_on(overlap, seed, earlier):
    signal = walk(64, seed=seed)
    first, second = signal[:24], signal[24 - overlap : 48 - overlap]
    strangers = walk(240, seed=seed + 1).reshape(-1, 24, 2)
    one, other = (first, second) if earlier else (second, first)
    assert sharing(one[None], np.concatenate([strangers, other[None]])).tolist() == [True]
    assert sharing(one[None], strangers).tolist() == [False]
