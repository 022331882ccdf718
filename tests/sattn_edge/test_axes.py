from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sattn_edge.axes import (
    MOST_NATS,
    axes_text,
    candidates,
    flat,
    level,
    model_of,
    read_axes,
    recorded_model,
    window_features,
)
from sattn_edge.axis_statistics import axis_statistics
from tests.helpers_axes import axes_contract, axes_statistics, people

PAIRS = [(0, 1), (0, 2), (1, 2)]


def model_and_features() -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    root = rng.normal(size=(6, 6))
    covariance = root @ root.T + np.eye(6)
    deviation = np.sqrt(np.diag(covariance))
    mean = rng.normal(size=6)
    model = model_of(mean, deviation, covariance / np.outer(deviation, deviation), PAIRS)
    return model, mean, covariance, rng.normal(size=(40, 6)) + mean, rng


def swap(features: np.ndarray, a: int, b: int) -> np.ndarray:
    out = features.copy()
    out[:, [a, b, a + 3, b + 3]] = features[:, [b, a, b + 3, a + 3]]
    return out


def test_scores_are_what_exchanging_the_features_does_to_the_likelihood():
    model, mean, covariance, features, _ = model_and_features()

    def nats(x: np.ndarray) -> np.ndarray:
        z = x - mean
        return -(4 + 6) / 2 * np.log1p((z * np.linalg.solve(covariance, z.T).T).sum(axis=1) / 4)

    scores, back, here = model.scores(features)
    for i, pair in enumerate(PAIRS):
        wanted = np.clip(nats(swap(features, *pair)) - nats(features), -MOST_NATS, MOST_NATS)
        np.testing.assert_allclose(scores[:, i], wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(back[:, i], -nats(swap(features, *pair)) / 5, rtol=1e-9)
    np.testing.assert_allclose(here, -nats(features) / 5, rtol=1e-9)


@pytest.mark.parametrize("pair", [0, 1, 2])
def test_exchanged_channels_have_the_score_with_the_other_sign(pair):
    """What lets training windows, none of them exchanged, tell how often an exchange would be seen."""
    model, _, _, features, _ = model_and_features()
    scores, back, here = model.scores(features)
    other, _, there = model.scores(swap(features, *PAIRS[pair]))
    np.testing.assert_allclose(other[:, pair], -scores[:, pair], atol=1e-9)
    np.testing.assert_allclose(there, back[:, pair], atol=1e-9)
    assert not np.allclose(there, here)


def test_features_are_means_and_log_deviations():
    x = np.random.default_rng(0).normal(size=(5, 200, 2)) * [1.0, 3.0] + [0.5, -2.0]
    found = window_features(x.mean(axis=1), np.square(x).mean(axis=1), np.zeros(2))
    np.testing.assert_allclose(found, np.concatenate([x.mean(axis=1), np.log(x.std(axis=1))], axis=1), rtol=1e-9)
    np.testing.assert_allclose(level(found), np.log(x.std(axis=1)).mean(axis=1), rtol=1e-9)


def test_a_channel_that_does_not_move_is_flat_whatever_its_offset():
    for value in (0.0, 0.5, 1e5):
        x = np.full((64, 1), value, np.float32)
        assert flat(x.mean(axis=0, dtype=np.float64), np.square(x).mean(axis=0, dtype=np.float64)).all()
    x = np.random.default_rng(0).normal(size=(64, 1))
    assert not flat(x.mean(axis=0), np.square(x).mean(axis=0)).any()


def test_only_channels_of_one_unit_are_taken_for_one_another():
    assert candidates(axes_contract(("g", "g", "g", "rad/s"))) == [(0, 1), (0, 2), (1, 2)]
    assert candidates(axes_contract(("g", "rad/s", "g", "rad/s"))) == [(0, 2), (1, 3)]
    assert candidates(axes_contract(("", "", "", ""))) == []


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return json.loads(json.dumps(axes_statistics()))


def test_what_is_written_is_read(known):
    record = read_axes(known, 4)
    assert record is not None
    assert [pair.channels for pair in record.pairs] == [(0, 1), (0, 2)]
    assert recorded_model(record).pairs == ((0, 1), (0, 2))
    assert len(json.dumps(known["axes"])) < 1000


def put(*path: Any, value: Any) -> Any:
    def change(axes: dict[str, Any]) -> None:
        inner: Any = axes
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


MALFORMED = {
    "a stretch of nothing": put("stretch_windows", value=0),
    "a stretch without end": put("stretch_windows", value=10**9),
    "no distance": put("most_distance", value=0.0),
    "a margin of nothing": put("pairs", 0, "margin", value=0.0),
    "a margin below 0": put("pairs", 0, "margin", value=-1.0),
    "a channel there is not": put("pairs", 0, "channels", value=[0, 4]),
    "a channel with itself": put("pairs", 0, "channels", value=[1, 1]),
    "a channel before the first": put("pairs", 0, "channels", value=[-1, 1]),
    "a channel that is no number": put("pairs", 0, "channels", value=["ax", "ay"]),
    "a tiny deviation": put("deviation", 2, value=1e-300),
    "a deviation of 0": put("deviation", 2, value=0.0),
    "no covariance": put("correlation", value=[0.99] * 27 + [-0.99]),
    "too few correlations": put("correlation", value=[0.0] * 27),
    "too few means": put("mean", value=[0.0] * 7),
    "a huge floor": put("floor", value=[1e400] * 4),
    "text": put("floor", value="wide"),
    "too many pairs": put("pairs", value=[{"channels": [0, 1], "margin": 1.0, "seen": 1.0}] * 65),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_what_can_not_be_is_not_used(known, change):
    raw = json.loads(json.dumps(known))
    change(raw["axes"])
    assert read_axes(known, 4) is not None
    assert read_axes(raw, 4) is None


@pytest.mark.parametrize("raw", [None, {}, {"axes": None}, {"axes": 3}, {"axes": {}}, {"axes": []}])
def test_files_that_know_nothing_of_axes(raw):
    assert read_axes(raw, 4) is None


def test_statistics_of_other_channels(known):
    assert read_axes(known, 3) is None


def test_what_is_told_of_them(known):
    contract = axes_contract()
    assert axes_text(known, contract) == "exchanges are told of ax/ay, ax/az; not of ay/az"
    few = "not watched: that takes windows of 4 people or recordings, and up to 32 channels"
    assert axes_text({"windows": 3}, contract) == few
    assert axes_text(None, contract) is None
    assert axes_text(known, axes_contract(("", "", "", ""))) is None
    nothing = {**known, "axes": {**known["axes"], "pairs": []}}
    assert axes_text(nothing, contract) == "no exchange can be told"


def test_it_does_not_depend_on_how_the_people_are_ordered():
    whole = people()
    order = np.arange(3000).reshape(10, 300)[[3, 1, 4, 0, 5, 9, 2, 6, 8, 7]].ravel()
    assert whole.group is not None
    again = axis_statistics(people(x=np.ascontiguousarray(whole.x[order]), group=whole.group[order]), axes_contract())
    first = axis_statistics(whole, axes_contract())
    assert first is not None
    assert again is not None
    assert [p.channels for p in again.pairs] == [p.channels for p in first.pairs]
    assert [p.margin for p in again.pairs] == pytest.approx([p.margin for p in first.pairs], abs=2e-3)
