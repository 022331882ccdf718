"""From what was observed to ranges: one recipe per layer, and the placement they make together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from sattn_calibration.collect import Observation, Product
from sattn_calibration.thresholds import METHODS, thresholds
from sattn_edge.calibration_table import Agreement, LayerChoice, Placement, Scheme
from sattn_edge.graph import Graph
from sattn_edge.passes.equalise import equalisable

SCHEMES: dict[str, Scheme] = {"onnxruntime": "u8", "tensorrt": "s8"}
FAMILIES = {
    family: tuple(method for method in METHODS if method.partition("-")[0] == family)
    for family in ("minmax", "percentile", "entropy", "mse")
}
LEAST_SHARE = 0.01
"""A product with less than this part of all multiply-adds stays in higher precision."""
LEAST_TERMS = 32
"""So does one whose sums are shorter than this: of the raw signal's one plane, for instance."""
_NOTHING = Agreement(0, 0, 0.0, 0.0, 0.0)
_QUIETEST = 1e-3  # a map that was never louder than this of the loudest one may be so tomorrow


@dataclass(frozen=True)
class Recipe:
    """How the range of a layer's input is found.

    equalise: 0 leaves the maps as they are, 1 makes their maxima equal, between lies a compromise with the weights.
    headroom: the range is made so many times as wide as what was seen.
    """

    method: str = "minmax"
    equalise: float = 0.0
    headroom: float = 1.0

    @property
    def label(self) -> str:
        """As it stands in reports."""
        parts = [self.method]
        if self.equalise:
            parts.append(f"equalised {self.equalise:g}")
        if self.headroom != 1:
            parts.append(f"headroom {self.headroom:g}")
        return ", ".join(parts)


PLAIN = tuple(Recipe(method) for method in METHODS)
WIDE = (Recipe("minmax", 0.0, 1.25),)
EQUALISED = tuple(Recipe("minmax", alpha, room) for alpha in (0.5, 0.75) for room in (1.0, 1.25))
ALL = (*PLAIN, *WIDE, *EQUALISED)


def recipes_for(method: str) -> tuple[Recipe, ...]:
    """What a `--method` tries: everything for auto, else the recipes of that name."""
    return ALL if method == "auto" else tuple(Recipe(name) for name in FAMILIES[method])


@dataclass(frozen=True, eq=False)
class Kitchen:
    """Products and observations of one model; makes placements from recipes.

    kept: layers that stay in higher precision whatever happens, with the reason. scalable: those whose maps can be
    equalised.
    """

    products: tuple[Product, ...]
    observations: Mapping[str, Observation]
    kept: Mapping[str, str]
    scalable: frozenset[str]
    cache: dict[tuple[str, str, str], tuple[float, float]] = field(default_factory=dict)

    def candidates(self) -> tuple[str, ...]:
        """The layers that may run in INT8, in graph order."""
        return tuple(p.name for p in self.products if p.name not in self.kept)

    def placement(self, target: str, recipes: Mapping[str, Recipe], kept: Mapping[str, str]) -> Placement:
        """The choices for a target. `recipes` by layer; `kept`: layers left in higher precision, with the reason."""
        rows = []
        for product in self.products:
            reason = self.kept.get(product.name) or kept.get(product.name)
            if reason is not None:
                rows.append(LayerChoice(product.name, int8=False, reason=reason))
            else:
                rows.append(self._choice(product, SCHEMES[target], recipes[product.name]))
        return Placement(target, SCHEMES[target], tuple(rows), _NOTHING, _NOTHING, met_budget=False)

    def _choice(self, product: Product, scheme: Scheme, recipe: Recipe) -> LayerChoice:
        seen = self.observations[product.input]
        factors = self._factors(product, seen, recipe.equalise) if product.name in self.scalable else None
        if factors is None:
            low, high = self._thresholds(product.input, scheme, recipe.method)
        else:
            low, high = float((seen.map_minimum / factors).min()), float((seen.map_maximum / factors).max())
        out_low, out_high = self._thresholds(product.output, scheme, recipe.method)
        room = recipe.headroom
        return LayerChoice(
            layer=product.name,
            int8=True,
            method=recipe.label,
            low=short(min(low, 0.0) * room),
            high=short(max(high, 0.0) * room),
            out_low=short(min(out_low, 0.0) * room),
            out_high=short(max(out_high, 0.0) * room),
            factors=() if factors is None else tuple(float(f) for f in factors),
        )

    def _thresholds(self, value: str, scheme: Scheme, method: str) -> tuple[float, float]:
        key = (value, scheme, method)
        if key not in self.cache:
            self.cache[key] = thresholds(self.observations[value].histogram, method, scheme)
        return self.cache[key]

    def _factors(self, product: Product, seen: Observation, strength: float) -> NDArray[np.float64] | None:
        """max_c^a / w_c^(1-a), with w_c the largest weight that reads map c, around a geometric mean of 1."""
        if not strength:
            return None
        loudest = np.maximum(np.abs(seen.map_maximum), np.abs(seen.map_minimum))
        loudest = np.maximum(loudest, max(_QUIETEST * float(loudest.max()), 1e-12))
        axes = tuple(i for i in range(product.weight.ndim) if i != 1)
        weights = np.abs(product.weight).max(axis=axes)
        weights = np.maximum(weights, max(_QUIETEST * float(weights.max()), 1e-12))
        raw = loudest**strength / weights ** (1 - strength)
        raw = raw / np.exp(np.log(raw).mean())
        return np.array([short(f, 4) for f in raw])


def short(value: float, digits: int = 7) -> float:
    """A number of so many digits: a range needs no more, and the file stays small."""
    return float(f"{value:.{digits}g}")


def kitchen(model: ModelProto, products: tuple[Product, ...], observations: Mapping[str, Observation]) -> Kitchen:
    """Sorts the products: which may run in INT8, which stay and why, which can be equalised."""
    graph = Graph(model)
    total = sum(p.multiply_adds for p in products) or 1
    kept, scalable = {}, set()
    names = [p.name for p in products]
    nodes = {n.name: n for n in model.graph.node}
    for product in products:
        share = product.multiply_adds / total
        if not product.name or names.count(product.name) > 1:
            kept[product.name] = "it has no name of its own in the graph"
        elif share < LEAST_SHARE:
            kept[product.name] = f"{100 * share:.2g} % of the multiply-adds: INT8 would win nothing"
        elif product.terms < LEAST_TERMS:
            kept[product.name] = f"its sums have {product.terms} terms: integer products are made for long ones"
        elif not isinstance(equalisable(graph, nodes[product.name]), str):
            scalable.add(product.name)
    return Kitchen(products, observations, kept, frozenset(scalable))
