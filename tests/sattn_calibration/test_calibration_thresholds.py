"""Thresholds have what their method promises: checked against plain quantisation of the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sattn_calibration.histogram import FRACTION_BITS, histogram
from sattn_calibration.thresholds import (
    METHODS,
    PERCENTILES,
    SCHEMES,
    _Density,
    all_thresholds,
    divergence,
    quantile,
    thresholds,
)
from sattn_edge.passes.quantize import OF_NOTHING, s8_scale, u8_scale

COUNT = 60_000


def drawn(kind: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.normal(size=COUNT),
        "relu": lambda: np.maximum(rng.normal(size=COUNT), 0),
        "shifted": lambda: rng.normal(size=COUNT) + 2,
        "uniform": lambda: rng.uniform(-1, 1, COUNT),
        "laplace": lambda: rng.laplace(size=COUNT),
        "heavy": lambda: np.append(rng.normal(size=COUNT), [200.0, -180.0]),
        "tiny": lambda: rng.normal(size=COUNT) * 1e-5,
        "negative": lambda: -np.abs(rng.normal(size=COUNT)),
    }[kind]()
    return values.astype(np.float32)


KINDS = ("normal", "relu", "shifted", "uniform", "laplace", "heavy", "tiny", "negative")


def squared_error(values: np.ndarray, low: float, high: float, scheme: str) -> float:
    """Quantised and back, value by value."""
    v = values.astype(np.float64)
    if scheme == "u8":
        step, zero = u8_scale(low, high)
        back = (np.clip(np.rint(v / step) + zero, 0, 255) - zero) * step
    else:
        step = s8_scale(high)
        back = np.clip(np.rint(v / step), -127, 127) * step
    return float(((back - v) ** 2).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_ranges_hold_zero_and_lie_within_what_was_seen(kind, scheme):
    values = drawn(kind)
    found = all_thresholds(histogram(values), scheme)
    assert tuple(found) == METHODS
    for low, high in found.values():
        assert low <= 0 <= high
        assert high > low
        if scheme == "s8":
            assert low == -high
            assert high <= np.abs(values).max()
        else:
            assert min(values.min(), 0) <= low
            assert high <= max(values.max(), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_minmax_is_exact(kind):
    values = drawn(kind)
    assert thresholds(histogram(values), "minmax", "u8") == (min(values.min(), 0), max(values.max(), 0))
    assert thresholds(histogram(values), "minmax", "s8")[1] == np.abs(values).max()


@pytest.mark.parametrize("percent", PERCENTILES)
@pytest.mark.parametrize("kind", KINDS)
def test_percentiles_are_numpys_within_a_bin(kind, percent):
    values = drawn(kind).astype(np.float64)
    name = f"percentile-{percent:g}"
    low, high = thresholds(histogram(values), name, "u8")
    assert close(high, max(np.percentile(values, percent), 0))
    assert close(low, min(np.percentile(values, 100 - percent), 0))
    assert close(thresholds(histogram(values), name, "s8")[1], np.percentile(np.abs(values), percent))


def close(found: float, wanted: float) -> bool:
    return abs(found - wanted) <= abs(wanted) / 2**FRACTION_BITS


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.floats(0, 1))
def test_any_quantile_is_numpys_within_a_bin(values, share):
    values = np.array(values, np.float32)
    found, wanted = quantile(histogram(values), share), np.quantile(values.astype(np.float64), share)
    assert abs(found - wanted) <= np.abs(values).max() / 2**FRACTION_BITS + 1e-30
    assert values.min() - 1e-30 <= found <= values.max() + 1e-30


def test_a_percentile_can_miss():
    """The control: a bin's width is a bound that a neighbouring percentile breaks."""
    values = drawn("normal")
    assert not close(thresholds(histogram(values), "percentile-99.9", "s8")[1], np.percentile(np.abs(values), 99.8))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_mse_beats_its_neighbourhood_and_every_other_method(kind, scheme):
    values = drawn(kind)
    found = all_thresholds(histogram(values), scheme)
    low, high = found["mse"]
    best = squared_error(values, low, high, scheme)
    widest = found["minmax"]
    for factor in (0.3, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.5, 2.0):
        other = (max(low * factor, widest[0]), min(high * factor, widest[1]))
        assert best <= squared_error(values, *other, scheme) * 1.02
    for method in METHODS:
        assert best <= squared_error(values, *found[method], scheme) * 1.02


def test_mse_neighbourhood_can_be_better():
    """The control: minmax of a normal distribution is not the best there is."""
    values = drawn("normal")
    low, high = thresholds(histogram(values), "minmax", "s8")
    assert squared_error(values, low, high, "s8") > 1.02 * squared_error(values, low * 0.85, high * 0.85, "s8")


def test_mse_gives_up_a_lonely_outlier_where_that_is_cheaper():
    """A value v among n is worth keeping while v^2 / n exceeds the rounding error (v / 127)^2 / 12 it brings all."""
    body = np.random.default_rng(0).uniform(-1, 1, 1_000_000).astype(np.float32)
    kept = thresholds(histogram(np.append(body[:10_000], np.float32(50))), "mse", "s8")[1]
    dropped = thresholds(histogram(np.append(body, np.float32(2))), "mse", "s8")[1]
    assert kept > 40
    assert dropped < 1.1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entropy_keeps_everything_of_a_uniform_distribution(scheme):
    values = np.linspace(-1, 1, 200_001).astype(np.float32)  # evenly spread: clipping any of it shows
    low, high = thresholds(histogram(values), "entropy", scheme)
    assert high > 0.99
    assert low < -0.99


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entropy_lets_outliers_go(scheme):
    values = np.append(drawn("normal"), np.float32([500, -500]))
    low, high = thresholds(histogram(values), "entropy", scheme)
    assert min(-low, high) < 60  # minmax would leave the body two levels
    assert min(-low, high) > 2


def test_entropy_is_the_divergence_of_the_definition():
    """By a plain loop over levels, on values that fill each part of a level evenly or not at all."""
    rng = np.random.default_rng(1)
    parts = rng.integers(0, 4, 254 * 8)  # values in each of the 8 parts of a level, of 255 over [-1, 1]
    edges = np.linspace(-1, 1, 254 * 8 + 1)
    some = parts > 0
    density = _Density.made(edges[:-1][some], edges[1:][some], parts[some].astype(float))
    found = divergence(density, np.array([-1.0, -0.5]), np.array([1.0, 0.5]), 255)
    assert found[0] == pytest.approx(by_definition(parts.astype(float), 0, 0), abs=1e-9)
    # Over [-0.5, 0.5] the parts are half as wide: each of ours is two of them with half the values.
    inner = np.repeat(parts[254 * 2 : 254 * 6] / 2, 2)
    outer = parts[: 254 * 2].sum(), parts[254 * 6 :].sum()
    assert found[1] == pytest.approx(by_definition(inner, *outer), abs=1e-9)
    assert abs(found[1] - by_definition(inner, 0, 0)) > 1e-3  # the control: what is clipped counts


def by_definition(parts: np.ndarray, below: float, above: float) -> float:
    p = parts.copy()
    p[0] += below
    p[-1] += above
    q = np.zeros_like(p)
    for level in range(255):
        own = slice(max(level * 8 - 4, 0), min(level * 8 + 4, len(p)))
        occurs = p[own] > 0
        if occurs.any():
            q[own][occurs] = parts[own].sum() / occurs.sum()
    p, q = p / p.sum(), q / q.sum()
    return sum(a * np.log(a / max(b, 1e-12)) for a, b in zip(p, q, strict=True) if a > 0)


def test_zeros_change_nothing_for_entropy_and_mse():
    values = np.abs(drawn("normal")) + np.float32(1e-6)
    with_zeros = np.append(values, np.zeros(len(values), np.float32))
    for method in ("entropy", "mse"):
        found = thresholds(histogram(with_zeros), method, "u8")
        assert found == thresholds(histogram(values), method, "u8")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros(method, scheme):
    low, high = thresholds(histogram(np.zeros(9, np.float32)), method, scheme)
    assert (low, high) == (0, 0)
    assert str(low) == "0.0"
    assert u8_scale(low, high) == (OF_NOTHING, 0)
    assert s8_scale(high) == OF_NOTHING > 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3.0, -1.0, 1e-30, 1e-44])
def test_a_tensor_of_one_value(method, scheme, value):
    low, high = thresholds(histogram(np.full(9, value, np.float32)), method, scheme)
    bound = max(-low, high)
    assert bound == pytest.approx(abs(np.float32(value)), rel=0.01)
    assert s8_scale(bound) > 0


@given(st.floats(-1e30, 0), st.floats(0, 1e30))
def test_zero_is_a_level_and_both_ends_are_within_half_a_step(low, high):
    step, zero = u8_scale(low, high)
    assert step > 0
    assert float(np.float32(step)) == step
    assert 0 <= zero <= 255
    if high - low > 1e-30:
        assert -zero * step <= low + 0.501 * step
        assert (255 - zero) * step >= high - 0.501 * step


@given(st.floats(0, 1e38))
def test_s8_reaches_the_bound(bound):
    step = s8_scale(bound)
    assert step > 0
    assert 127 * step >= bound * (1 - 1e-6)


def test_what_is_not_known_is_a_bug():
    seen = histogram(np.ones(3, np.float32))
    for method, scheme in (("median", "u8"), ("minmax", "u4"), ("percentile-50", "u8")):
        with pytest.raises(ValueError, match="known are"):
            thresholds(seen, method, scheme)
    with pytest.raises(ValueError, match="empty"):
        thresholds(histogram(np.array([np.nan], np.float32)), "minmax", "u8")
