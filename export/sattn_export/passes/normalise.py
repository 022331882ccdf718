"""Normalisation moves into the graph, so that windows go in as the sensor gives them.

    window -> network   =>   window -> Sub mean -> Div std -> network

mean and std are float32 [1, 1, 1, modal], in the contract's units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, helper

from sattn_edge.graph import Graph
from sattn_edge.passes import PassReport


class NormaliseInput:
    """Puts `(window - mean) / std` in front of the network."""

    name = "normalise-input"

    def __init__(self, means: Sequence[float], stds: Sequence[float]) -> None:
        self._means = np.asarray(means, np.float32).reshape(1, 1, 1, -1)
        self._stds = np.asarray(stds, np.float32).reshape(1, 1, 1, -1)

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1; nothing to do where every mean is 0 and every std is 1."""
        if not self._means.any() and (self._stds == 1).all():
            return PassReport(self.name, 0)
        graph = Graph(model)
        window = model.graph.input[0].name
        mean = graph.add_constant("normalise.mean", self._means)
        std = graph.add_constant("normalise.std", self._stds)
        centred, scaled = graph.fresh("centred"), graph.fresh("normalised")
        graph.rename(window, scaled)
        model.graph.node.insert(0, helper.make_node("Div", [centred, std], [scaled], name="normalise.scale"))
        model.graph.node.insert(0, helper.make_node("Sub", [window, mean], [centred], name="normalise.centre"))
        return PassReport(self.name, 1, (f"{self._means.size} channels",))
