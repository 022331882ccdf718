"""What runs in INT8, and with which ranges: chosen by measurement on windows that gave no ranges.

The windows are in two parts. Each is judged with ranges from the other, so that every window counts and none gives
the range it is judged with.

1. Each recipe for all layers alike; the best one by (within the budget, score).
2. Layer by layer, every other recipe that was not hopeless; a better score is kept (`auto` only).
3. While the budget is not met, on as many windows as there are: the layer that helps most by staying in higher
   precision stays there.
4. The same choices with ranges over all windows; where those miss the budget on all windows, back to 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec

from sattn_calibration.judge import Judge, Judged, together
from sattn_calibration.recipe import Kitchen, Recipe
from sattn_edge.calibration_table import Agreement, Placement
from sattn_edge.lowering import FORMS, Target


@dataclass(frozen=True)
class Tried:
    """One candidate: what it was, and how it did on the windows that gave no ranges."""

    target: str
    what: str
    agreement: Agreement
    score: float
    within_budget: bool


@dataclass(frozen=True, eq=False)
class Chosen:
    """The result for one target.

    placement: with ranges over all windows. judged: the choices on windows that gave no ranges; final: the placement
    on all windows. alone: what each INT8 layer does to the logits when only it runs in INT8.
    """

    placement: Placement
    judged: Judged
    final: Judged
    alone: dict[str, Agreement]
    tried: tuple[Tried, ...]


@dataclass(frozen=True, eq=False)
class Fold:
    """Ranges from one part of the windows, and judges that hold windows of the other.

    judge: some hundred telling windows, for the search. verdict: as many as there are, up to thousands, for the budget.
    """

    kitchen: Kitchen
    judge: Judge
    verdict: Judge


Menu = Mapping[str, Recipe]
_HOPELESS = 3.0


@dataclass
class Search:
    """The search for one target. `listen` is told of each candidate as it is judged."""

    target: str
    folds: tuple[Fold, ...]
    budget_points: float
    listen: Callable[[Tried], None] = lambda _: None
    tried: list[Tried] = field(default_factory=list)

    def run(self, recipes: tuple[Recipe, ...], refit: Kitchen, everything: Judge) -> Chosen:
        """Searches among recipes. `refit` and `everything`: ranges from, and judgement on, all windows."""
        best, menu, promising = self._one_recipe(recipes)
        if any(recipe.equalise for recipe in recipes):
            menu = self._by_layer(promising, best, menu)
        kept: dict[str, str] = {}
        held_out = self._verdict(menu, kept)
        while menu and not held_out.within(self.budget_points):
            held_out, menu = self._keep_one_out(held_out, menu, kept, self._verdict)

        def with_all_ranges(menu: Menu, kept: Mapping[str, str]) -> Judged:
            return everything.judge(refit.placement(self.target, menu, kept))

        final = with_all_ranges(menu, kept)
        while menu and not final.within(self.budget_points):
            final, menu = self._keep_one_out(final, menu, kept, with_all_ranges)
            held_out = self._verdict(menu, kept)
        placement = refit.placement(self.target, menu, kept)
        placement = msgspec.structs.replace(
            placement,
            judged=held_out.agreement,
            final=final.agreement,
            met_budget=held_out.within(self.budget_points) and final.within(self.budget_points),
            forms=self._forms(placement),
        )
        alone = {layer: self._alone(layer, menu) for layer in menu}
        return Chosen(placement, held_out, final, alone, tuple(self.tried))

    def _one_recipe(self, recipes: tuple[Recipe, ...]) -> tuple[Judged, Menu, tuple[Recipe, ...]]:
        """The best recipe for all layers alike, and those not far behind, which may be better for one layer."""
        layers = self.folds[0].kitchen.candidates()
        menus = [dict.fromkeys(layers, recipe) for recipe in recipes]
        results = [self._try(f"all layers: {r.label}", m, {}) for r, m in zip(recipes, menus, strict=True)]
        best = min(range(len(menus)), key=lambda i: self._rank(results[i]))
        near = _HOPELESS * results[best].score
        promising = tuple(r for r, result in zip(recipes, results, strict=True) if result.score <= near)
        return results[best], menus[best], promising

    def _by_layer(self, recipes: tuple[Recipe, ...], best: Judged, menu: Menu) -> Menu:
        for layer in list(menu):
            for recipe in [r for r in recipes if r != menu[layer]]:
                other = {**menu, layer: recipe}
                result = self._try(f"{layer}: {recipe.label}", other, {})
                if self._rank(result) < self._rank(best):
                    best, menu = result, other
        return menu

    def _keep_one_out(
        self, best: Judged, menu: Menu, kept: dict[str, str], judge: Callable[[Menu, Mapping[str, str]], Judged]
    ) -> tuple[Judged, Menu]:
        """Takes the layer out of INT8 that the labels are best without; adds it to `kept` with the reason."""
        results = {}
        for layer in menu:
            rest = {name: recipe for name, recipe in menu.items() if name != layer}
            results[layer] = self._told(f"{layer} stays in higher precision", judge(rest, {**kept, layer: "tried"}))
        worst = min(results, key=lambda name: self._rank(results[name]))
        without = results[worst].agreement
        kept[worst] = (
            f"with it in INT8 {best.agreement.points:.2g} % of the labels differ from FP32's (largest margin "
            f"{best.agreement.worst_margin:.2g}), without it {without.points:.2g} % ({without.worst_margin:.2g})"
        )
        return results[worst], {name: recipe for name, recipe in menu.items() if name != worst}

    def _alone(self, layer: str, menu: Menu) -> Agreement:
        others = {name: "one layer at a time" for name in self.folds[0].kitchen.candidates() if name != layer}
        return self._judge({layer: menu[layer]}, others).agreement

    def _forms(self, placement: Placement) -> dict[str, Agreement]:
        """The same choices in the forms `sattn-build` may find faster; a TensorRT build judges its own."""
        if self.target != "onnxruntime" or not placement.chosen():
            return {}
        usual = Target("onnxruntime", None, "int8").form
        forms = [form for form in FORMS if form != usual]
        return {form: together([f.verdict.judge(placement, form) for f in self.folds]).agreement for form in forms}

    def _judge(self, menu: Menu, kept: Mapping[str, str]) -> Judged:
        return self._on_folds(menu, kept, lambda fold: fold.judge)

    def _verdict(self, menu: Menu, kept: Mapping[str, str]) -> Judged:
        return self._on_folds(menu, kept, lambda fold: fold.verdict)

    def _on_folds(self, menu: Menu, kept: Mapping[str, str], judge_of: Callable[[Fold], Judge]) -> Judged:
        def one(fold: Fold) -> Judged:
            return judge_of(fold).judge(fold.kitchen.placement(self.target, menu, kept))

        # One thread a fold: each session runs on one, and two cores are what most machines have to spare.
        with ThreadPoolExecutor(len(self.folds)) as pool:
            return together(list(pool.map(one, self.folds)))

    def _try(self, what: str, menu: Menu, kept: Mapping[str, str]) -> Judged:
        return self._told(what, self._judge(menu, kept))

    def _told(self, what: str, result: Judged) -> Judged:
        row = Tried(self.target, what, result.agreement, result.score, result.within(self.budget_points))
        self.tried.append(row)
        self.listen(row)
        return result

    def _rank(self, result: Judged) -> tuple[bool, float]:
        return not result.within(self.budget_points), result.score
