"""The histogram is numpy's on its own edges, whatever the order and the batches, and keeps the body under a tail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sattn_calibration.histogram import FRACTION_BITS, HistogramBuilder, PerMapMaximum, histogram

# Below 2^-135 the sign is not kept; that has a test of its own.
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
ANY = st.floats(width=32)
VALUES = arrays.arrays(np.float32, st.integers(0, 60), elements=FINITE)


def same(one, other) -> bool:
    return one.digest() == other.digest() and np.array_equal(one.count, other.count)


@given(VALUES)
def test_every_value_is_in_its_bin_as_numpy_counts(values):
    found = histogram(values)
    low, high = found.edges()
    nonzero = values[values != 0].astype(np.float64)
    assert found.count.sum() == nonzero.size
    assert found.zeros == values.size - nonzero.size
    assert (low < high).all()
    assert (high[:-1] <= low[1:]).all()
    for a, b, count in zip(low, high, found.count, strict=True):
        # A float32's magnitude is cut downwards: negative bins are open at their lower edge.
        inside = (nonzero >= a) & (nonzero < b) if b > 0 else (nonzero > a) & (nonzero <= b)
        assert inside.sum() == count


def test_counts_equal_numpys_on_the_same_edges():
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    found = histogram(values)
    low, high = found.edges()
    edges = np.unique(np.concatenate([low, high]))
    counts, _ = np.histogram(values, edges)
    ours = dict(zip(low.tolist(), found.count.tolist(), strict=True))
    assert [ours.get(a, 0) for a in edges[:-1].tolist()] == counts.tolist()
    shifted, _ = np.histogram(values, edges + 1e-3)
    assert [ours.get(a, 0) for a in edges[:-1].tolist()] != shifted.tolist()  # the control


@given(arrays.arrays(np.float32, st.integers(0, 60), elements=ANY), st.data())
def test_neither_order_nor_batches_matter(values, data):
    order = data.draw(st.permutations(range(len(values))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    builder = HistogramBuilder()
    for piece in np.split(values[order], cuts):
        builder.add(piece)
    assert same(builder.finish(), histogram(values))


def test_the_digest_sees_every_part():
    """The control of the test above."""
    base = np.array([1.0, -2.0, 0.0, 3.0], np.float32)
    changed = [
        np.append(base, 0),  # one more zero
        np.append(base, 1),  # one more in a bin
        np.append(base, np.nan),
        np.append(base, 4),
        -base,
        np.array([1.0, -2.0, 0.0, 3.0001], np.float32),  # the same bins, another maximum
    ]
    names = {histogram(v).digest() for v in [base, *changed]}
    assert len(names) == len(changed) + 1


@given(arrays.arrays(np.float32, st.integers(1, 60), elements=ANY))
def test_extremes_zeros_and_what_is_not_finite(values):
    found = histogram(values)
    finite = values[np.isfinite(values)]
    assert found.non_finite == values.size - finite.size
    assert found.total == finite.size
    assert found.minimum == (finite.min() if finite.size else 0)
    assert found.maximum == (finite.max() if finite.size else 0)
    assert found.zeros == (finite == 0).sum()


def test_zeros_of_both_signs_and_the_smallest_values():
    found = histogram(np.array([0.0, -0.0, 1e-45, -1e-45, 1e-40], np.float32))
    assert found.zeros == 2
    assert found.count.sum() == 3
    assert histogram(np.array([-0.0], np.float32)).digest() == histogram(np.array([0.0], np.float32)).digest()


@given(VALUES)
def test_absolute_is_the_histogram_of_absolute_values(values):
    found, wanted = histogram(values).absolute(), histogram(np.abs(values))
    assert np.array_equal(found.index, wanted.index)
    assert np.array_equal(found.count, wanted.count)
    assert found.maximum == wanted.maximum
    assert 0 <= found.minimum <= wanted.minimum


@pytest.mark.parametrize("tail", [1.0, 200.0, 1e6])
def test_a_tail_costs_the_body_no_bins(tail):
    body = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    found = histogram(np.append(body, np.float32(tail * body.max())))
    low, high = found.edges()
    inside = (low > 0.5) & (high < 2)
    assert inside.sum() >= 2**FRACTION_BITS
    assert ((high - low)[inside] <= low[inside] / 2**FRACTION_BITS).all()


def test_many_values_at_once_are_counted_in_pieces():
    values = np.random.default_rng(0).normal(size=(3, 1 << 19)).astype(np.float32)
    parts = HistogramBuilder()
    for row in values:
        parts.add(row[: 1 << 18])
        parts.add(row[1 << 18 :])
    assert same(parts.finish(), histogram(values))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**16))
def test_maxima_by_map(batches, maps, size, seed):
    x = np.random.default_rng(seed).normal(size=(batches, 2, maps, size, 3)).astype(np.float32)
    found = PerMapMaximum()
    for batch in x:
        found.add(batch)
    low, high = found.finish()
    whole = x.reshape(-1, maps, size, 3)
    assert np.array_equal(low, whole.min(axis=(0, 2, 3)))
    assert np.array_equal(high, whole.max(axis=(0, 2, 3)))


def test_maxima_of_what_a_linear_layer_reads():
    found = PerMapMaximum()
    found.add(np.array([[1, -2], [3, -4]], np.float32))
    low, high = found.finish()
    assert low.tolist() == [1, -4]
    assert high.tolist() == [3, -2]


def test_maxima_of_nothing():
    with pytest.raises(ValueError, match="no batch"):
        PerMapMaximum().finish()
