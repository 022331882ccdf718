from __future__ import annotations

import numpy as np
import pytest

from sattn_edge.axes import recorded_model, window_features
from sattn_edge.axis_statistics import axis_statistics, stretch_windows, student_quantile
from tests.helpers_axes import STRETCH, WINDOW, axes_contract, exchanged, people, person


def watched(**changes) -> list[tuple[int, int]] | None:
    count = changes.pop("count", 10)
    record = axis_statistics(people(count, **changes), axes_contract())
    return None if record is None else [pair.channels for pair in record.pairs]


@pytest.mark.parametrize(
    ("freedom", "tail", "wanted"),
    [
        (1, 0.025, 12.706),
        (2, 0.025, 4.303),
        (3, 0.001, 10.215),
        (4, 0.001, 7.173),
        (10, 0.05, 1.812),
        (30, 0.005, 2.750),
    ],
)
def test_students_t_as_in_the_tables(freedom, tail, wanted):
    assert student_quantile(freedom, tail) == pytest.approx(wanted, abs=6e-4)


def test_a_stretch_is_a_minute_within_limits():
    assert stretch_windows(axes_contract(window=32)) == STRETCH
    assert stretch_windows(axes_contract(window=8)) == 128
    assert stretch_windows(axes_contract(window=1000)) == 8


def test_pairs_that_differ_are_watched_and_those_that_do_not_are_not():
    record = axis_statistics(people(), axes_contract())
    assert record is not None
    assert [pair.channels for pair in record.pairs] == [(0, 1), (0, 2)]
    assert all(pair.seen > 0.5 and pair.margin >= 1 for pair in record.pairs)


def test_fewer_than_four_people_say_nothing_of_another():
    assert watched(count=3) is None
    assert watched(count=4) is not None


def test_recordings_stand_for_people_who_are_not_known():
    assert watched(group=None) == [(0, 1), (0, 2)]
    assert watched(group=None, start=None) is None
    assert watched(group=None, start=np.arange(3000) * WINDOW) is None  # one recording of ten


def test_people_of_less_than_a_stretch_do_not_count():
    x = np.concatenate([person(i, STRETCH - 1).reshape(-1, 1, WINDOW, 4) for i in range(10)])
    group = np.repeat([f"p{i}" for i in range(10)], STRETCH - 1)
    assert watched(x=x, group=group, start=None) is None


def test_people_who_differ_make_the_margin_wide():
    """Half of them wear it turned: then neither is the right way."""
    x = np.concatenate([(exchanged(person(i), 0, 1) if i % 2 else person(i)) for i in range(10)])
    assert (0, 1) not in (watched(x=x.reshape(-1, 1, WINDOW, 4)) or [])


def test_what_one_does_now_and_then_one_may_do_for_long():
    """In every fifth window ax and ay change places: over a stretch of training that is never the most."""
    x = np.concatenate([person(i, 600).reshape(-1, 1, WINDOW, 4) for i in range(10)])
    often = np.arange(len(x)) % 5 == 0
    x[often] = exchanged(x[often].reshape(-1, 4), 0, 1).reshape(-1, 1, WINDOW, 4)
    labels = np.where(often, 1, 0).astype(np.int16)
    group = np.repeat([f"p{i}" for i in range(10)], 600)
    assert (0, 1) in (watched(x=x, y=np.zeros_like(labels), group=group, start=None) or [])
    assert (0, 1) not in (watched(x=x, y=labels, group=group, start=None) or [])


def test_channels_that_never_move_say_nothing():
    x = people().x.copy()
    x[..., 3] = 0.5
    assert watched(x=x) is None


def test_overlapping_windows_are_more_in_a_stretch():
    """Windows that overlap by half are twice as many in a stretch."""
    x = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(person(i, 60), WINDOW, axis=0)[:: WINDOW // 2] for i in range(10)]
    )
    x = np.ascontiguousarray(x.transpose(0, 2, 1)[:, None])
    each = len(x) // 10
    start = np.tile(np.arange(each) * (WINDOW // 2), 10)
    group = np.repeat([f"p{i}" for i in range(10)], each)
    assert each > STRETCH  # but not two of them
    assert watched(x=x, group=group, start=start) is None
    assert watched(x=x, group=group, start=start * 2) is not None


def test_what_lies_still_may_lie_any_way_up():
    """With every other person the still half has ax and ay change places: watched is what moves."""
    x = people().x.copy()
    still = np.square(x).mean(axis=(1, 2, 3)) < np.median(np.square(x).mean(axis=(1, 2, 3)))
    turned = still & (np.arange(3000) // 300 % 2 == 0)
    x[turned] = exchanged(x[turned].reshape(-1, 4), 0, 1).reshape(-1, 1, WINDOW, 4)
    record = axis_statistics(people(x=x, y=np.where(still, 1, 0).astype(np.int16)), axes_contract())
    assert record is not None
    assert record.least_level is not None
    assert (0, 1) in [pair.channels for pair in record.pairs]


def test_a_margin_is_no_less_than_half_of_what_an_exchange_shows():
    record = axis_statistics(people(), axes_contract())
    assert record is not None
    x = exchanged(person(40), 0, 1).reshape(-1, WINDOW, 4).astype(np.float64)
    features = window_features(x.mean(axis=1), np.square(x).mean(axis=1), np.array(record.floor))
    shown = recorded_model(record).scores(features)[0][:, 0].mean()
    assert shown > 4
    assert record.pairs[0].margin > 0.4 * shown


def test_more_pairs_make_wider_margins():
    """The chance of a false alarm is that of all pairs together. Here people differ, so that it is what counts."""
    louder = np.exp(np.random.default_rng(5).normal(size=10) * 0.35)
    x = people().x.reshape(10, -1, 4).copy()
    x[..., 0] *= louder[:, None]
    margins = []
    for units in (("g", "g", "V", "rad/s"), ("g", "g", "g", "rad/s")):
        record = axis_statistics(people(x=x.reshape(-1, 1, WINDOW, 4)), axes_contract(units))
        assert record is not None
        assert record.pairs[0].channels == (0, 1)
        margins.append(record.pairs[0].margin)
    assert margins[0] + 0.01 < margins[1]
