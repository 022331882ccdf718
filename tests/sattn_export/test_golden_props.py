"""Which windows become golden, how synthetic ones are drawn, and what parity means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import QualityError
from sattn_edge.model_file import GOLDEN_MAX_BYTES, golden_limit
from sattn_edge.windows import WindowSet
from sattn_export.golden import DEFAULT_COUNT, choose_golden, draw_golden
from sattn_export.parity import TOLERANCE, compare, require
from tests.sattn_export.helpers_export import Case, make_contract


def window_set(labels: list[int] | None, count: int, window: int = 4) -> WindowSet:
    """Windows whose every value is their own index."""
    x = np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, 1, window, 3)).copy()
    y = None if labels is None else np.asarray(labels, np.int16)
    return WindowSet(x, y, None, None, "test", "sha256:0")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-1, 5), min_size=1, max_size=300), st.booleans())
def test_choice_of_golden_windows_props(labels: list[int], labelled: bool) -> None:
    windows = window_set(labels if labelled else None, len(labels))
    contract = make_contract(Case(window=4, classes=6))
    chosen = choose_golden(windows, contract)
    indices = chosen[:, 0, 0, 0].astype(int)
    assert len(indices) == min(DEFAULT_COUNT, len(labels))
    assert (np.diff(indices) > 0).all()  # each once, in the order they were recorded
    np.testing.assert_array_equal(chosen, windows.x[indices])
    if labelled:
        counts = {c: labels.count(c) for c in set(labels)}
        given_ = {c: int((np.asarray(labels)[indices] == c).sum()) for c in counts}
        fair = len(indices) // len(counts)
        assert all(given_[c] >= min(counts[c], fair) for c in counts)  # a rare class is there too
    np.testing.assert_array_equal(choose_golden(windows, contract), chosen)


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(1, 400),
    modal=st.integers(1, 12),
    mean=st.floats(-1e4, 1e4),
    std=st.floats(1e-3, 1e4),
    clip=st.booleans(),
)
def test_drawn_golden_windows_props(window: int, modal: int, mean: float, std: float, clip: bool) -> None:
    low, high = (mean - std, mean + std) if clip else (None, None)
    rows = [{"name": f"c{i}", "mean": mean, "std": std, "min": low, "max": high} for i in range(modal)]
    contract = make_contract(Case(window=window, modal=modal), channel=rows)
    x = draw_golden(contract)
    assert x.shape == (DEFAULT_COUNT, 1, window, modal)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(draw_golden(contract), x)
    if clip:
        margin = 1e-6 * (abs(mean) + std)
        assert x.min() >= mean - std - margin
        assert x.max() <= mean + std + margin


def test_drawn_windows_have_the_contracts_statistics() -> None:
    rows = [{"name": "a", "mean": 5.0, "std": 2.0}, {"name": "b", "mean": -30.0, "std": 0.1}]
    x = draw_golden(make_contract(Case(window=300, modal=2), channel=rows)).astype(np.float64)
    np.testing.assert_allclose(x.mean((0, 1, 2)), [5.0, -30.0], atol=0.6)
    np.testing.assert_allclose(x.std((0, 1, 2)), [2.0, 0.1], rtol=0.25)


@pytest.mark.parametrize(("window", "modal"), [(1, 1), (128, 6), (4096, 12), (20_000, 12)])
def test_golden_windows_fit_their_bound(window: int, modal: int) -> None:
    x = draw_golden(make_contract(Case(window=window, modal=modal)))
    assert 1 <= len(x) <= min(64, golden_limit(window, modal))
    assert x.nbytes <= GOLDEN_MAX_BYTES


def test_parity_is_of_the_logit_scale() -> None:
    theirs = np.array([[10.0, -50.0], [3.0, 4.0]], np.float32)
    ours = theirs + np.float32([[0.0, 0.004], [0.0, 0.0]])
    parity = compare(ours, theirs)
    assert (parity.windows, parity.logit_scale, parity.flips) == (2, 50.0, 0)
    assert parity.relative == pytest.approx(8e-5, rel=0.01)
    require(parity, "net", "the checkpoint's")


@pytest.mark.parametrize("wrong", [50.0 * TOLERANCE * 1.1, np.nan, np.inf])
def test_parity_that_does_not_hold_is_a_quality_error(wrong: float) -> None:
    theirs = np.array([[10.0, -50.0]], np.float32)
    parity = compare(theirs + np.float32([[wrong, 0.0]]), theirs)
    assert not parity.holds
    with pytest.raises(QualityError, match=r"net: its logits differ from the checkpoint's .*; at most 0.0001; no file"):
        require(parity, "net", "the checkpoint's")


def test_flips_are_counted() -> None:
    theirs = np.array([[1.0, 0.99999], [0.0, 1.0]], np.float32)
    assert compare(theirs[:, ::-1], theirs).flips == 2
    assert compare(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)).holds
