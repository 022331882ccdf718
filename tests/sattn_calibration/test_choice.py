"""The search: which candidates are tried, when a layer leaves INT8, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from sattn_calibration.choice import Fold, Search
from sattn_calibration.collect import Observation, Product
from sattn_calibration.histogram import histogram
from sattn_calibration.judge import Judged, together
from sattn_calibration.recipe import ALL, EQUALISED, PLAIN, Kitchen, Recipe, recipes_for
from sattn_edge.calibration_table import Placement

LAYERS = ("one", "two", "three")


def observation(name: str, seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    values = rng.exponential(size=(20, 4, 6, 2)).astype(np.float32) * np.array([1, 10, 2, 5])[:, None, None]
    values = values.astype(np.float32)
    return Observation(
        name, histogram(values), float(values.min()), float(values.max()), values.min((0, 2, 3)), values.max((0, 2, 3))
    )


def kitchen_of(seed: int = 0) -> Kitchen:
    rng = np.random.default_rng(1)
    products = tuple(
        Product(name, "Conv", f"{name}.in", f"{name}.out", 1000, rng.normal(size=(8, 4, 3, 1)), 0) for name in LAYERS
    )
    seen = {v: observation(v, seed) for p in products for v in (p.input, p.output)}
    return Kitchen(products, seen, {}, frozenset(LAYERS))


class FakeJudge:
    """Judges a placement by a rule: largest logit error and the windows that flip, of 100."""

    def __init__(self, rule: Callable[[Mapping[str, str]], tuple[float, int]], margin: float = 0.01) -> None:
        self.rule, self.margin = rule, margin

    def judge(self, placement: Placement, attention: str | None = None) -> Judged:
        error, flips = self.rule({name: choice.method for name, choice in placement.chosen().items()})
        flipped = np.arange(100) < flips
        return Judged(np.zeros((100, 3), np.float32), np.full((100, 3), error), np.full(100, self.margin), flipped, ())


def search(rule, recipes=ALL, budget: float = 0.5, margin: float = 0.01, everything=None):
    judge = FakeJudge(rule, margin)
    folds = (Fold(kitchen_of(0), judge, judge), Fold(kitchen_of(1), judge, judge))
    one = Search("onnxruntime", folds, budget)
    return one, one.run(recipes, kitchen_of(2), everything or judge)


def test_the_recipe_with_the_smallest_error_wins_for_each_layer():
    wanted = {"one": "mse", "two": "entropy", "three": "minmax, equalised 0.5"}
    _, chosen = search(lambda menu: (0.01 + 0.004 * sum(menu.get(k) != v for k, v in wanted.items()), 0))
    assert {c.layer: c.method for c in chosen.placement.layers} == wanted
    assert chosen.placement.met_budget


def test_a_single_method_is_neither_mixed_nor_equalised():
    one, chosen = search(lambda menu: (0.01, 0), recipes_for("percentile"))
    assert len(one.tried) == 3
    assert len({c.method for c in chosen.placement.layers}) == 1
    assert all(not c.factors for c in chosen.placement.layers)


def test_a_candidate_over_the_budget_loses_to_a_worse_one_within():
    _, chosen = search(lambda menu: (0.001, 5) if "mse" in menu.values() else (0.02, 0))
    assert "mse" not in {c.method for c in chosen.placement.layers}


def test_hopeless_recipes_are_not_tried_layer_by_layer():
    one, _ = search(lambda menu: (1.0 if "entropy" in menu.values() else 0.01, 0))
    assert [row.what for row in one.tried if "entropy" in row.what] == ["all layers: entropy"]


def test_the_layer_that_hurts_most_leaves_int8_first_and_one_is_enough():
    _, chosen = search(lambda menu: (0.1 * ("two" in menu) + 0.01 * len(menu), 20 if "two" in menu else 0))
    by_name = {c.layer: c for c in chosen.placement.layers}
    assert [name for name, c in by_name.items() if c.int8] == ["one", "three"]
    assert by_name["two"].reason.startswith("with it in INT8 20 % of the labels differ from FP32's")
    assert "without it 0 %" in by_name["two"].reason
    assert chosen.placement.met_budget


def test_layers_leave_until_nothing_is_left_if_nothing_else_helps():
    _, chosen = search(lambda menu: (0.1 * len(menu), 2 * len(menu)), budget=0.0)
    assert not chosen.placement.chosen()
    assert chosen.placement.met_budget
    assert chosen.alone == {}


def test_a_flip_fp32_was_sure_of_is_over_any_budget():
    _, chosen = search(lambda menu: (0.01, 1 if "three" in menu else 0), budget=50.0, margin=0.06)
    assert "three" not in chosen.placement.chosen()
    _, kept = search(lambda menu: (0.01, 1 if "three" in menu else 0), budget=50.0, margin=0.04)
    assert "three" in kept.placement.chosen()


def test_the_ranges_are_those_over_all_windows():
    _, chosen = search(lambda menu: (0.01, 0), PLAIN[:1])
    seen = kitchen_of(2).observations["one.in"]
    assert chosen.placement.layers[0].high == pytest.approx(seen.maximum, rel=1e-6)


def test_a_budget_missed_over_all_windows_takes_layers_out_too():
    """Held-out windows agree, but over all windows layer three flips labels."""
    everything = FakeJudge(lambda menu: (0.01, 9 if "three" in menu else 0))
    one, chosen = search(lambda menu: (0.01, 0), PLAIN[:1], everything=everything)
    assert list(chosen.placement.chosen()) == ["one", "two"]
    assert [row.what for row in one.tried][-1] == "three stays in higher precision"
    assert chosen.placement.met_budget
    assert chosen.placement.final.flips == 0


def test_what_was_tried_is_told_as_it_happens():
    told = []
    judge = FakeJudge(lambda menu: (0.01, 0))
    Search("tensorrt", (Fold(kitchen_of(), judge, judge),), 0.5, told.append).run(PLAIN, kitchen_of(), judge)
    assert [row.what for row in told] == [f"all layers: {r.label}" for r in PLAIN]


def test_two_folds_are_judged_as_one():
    placement = kitchen_of().placement("onnxruntime", {name: Recipe() for name in LAYERS}, {})
    part = FakeJudge(lambda menu: (0.01, 1)).judge(placement)
    both = together([part, part])
    assert both.agreement.windows == 200
    assert both.agreement.flips == 2
    assert both.agreement.points == 1.0
    assert both.score == pytest.approx(0.01)


@pytest.mark.parametrize("strength", [0.5, 0.75])
def test_factors_even_out_maps_and_keep_their_mean(strength):
    kitchen = kitchen_of()
    menu = dict.fromkeys(LAYERS, Recipe("minmax", strength))
    choice = kitchen.placement("onnxruntime", menu, {}).layers[0]
    seen, weight = kitchen.observations["one.in"], kitchen.products[0].weight
    loudest = seen.map_maximum / np.array(choice.factors)
    assert np.exp(np.log(choice.factors).mean()) == pytest.approx(1.0, rel=1e-3)
    assert loudest.max() / loudest.min() < (seen.map_maximum.max() / seen.map_maximum.min())
    assert choice.high == pytest.approx(loudest.max(), rel=1e-5)
    raw = seen.map_maximum**strength / np.abs(weight).max(axis=(0, 2, 3)) ** (1 - strength)
    quotient = np.array(choice.factors) / raw
    assert np.ptp(quotient) / quotient.mean() < 1e-3


def test_headroom_widens_both_ends():
    kitchen = kitchen_of()
    plain, wide = (
        kitchen.placement("onnxruntime", dict.fromkeys(LAYERS, Recipe("minmax", 0.0, room)), {}).layers[0]
        for room in (1.0, 1.25)
    )
    assert wide.high == pytest.approx(1.25 * plain.high, rel=1e-6)
    assert wide.out_high == pytest.approx(1.25 * plain.out_high, rel=1e-6)


def test_labels_tell_recipes_apart():
    assert len({r.label for r in ALL}) == len(ALL)
    assert EQUALISED[1].label == "minmax, equalised 0.5, headroom 1.25"


def test_the_budget_is_judged_on_the_many_windows_not_on_the_few_of_the_search():
    search_says, verdict_says = FakeJudge(lambda menu: (0.01, 9)), FakeJudge(lambda menu: (0.01, 0))
    for quick, many, layers in ((search_says, verdict_says, 3), (verdict_says, search_says, 0)):
        folds = (Fold(kitchen_of(0), quick, many), Fold(kitchen_of(1), quick, many))
        chosen = Search("tensorrt", folds, 0.5).run(PLAIN[:1], kitchen_of(2), verdict_says)
        assert len(chosen.placement.chosen()) == layers
