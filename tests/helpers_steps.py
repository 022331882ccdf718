"""Steps over a signal, beside the whole window of every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from sattn_edge.incremental import Step

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


def evaluator(model: ModelProto) -> Run:
    """A graph run by onnx's reference evaluator."""
    made = ReferenceEvaluator(model)
    return lambda feed: made.run(None, feed)


def step_over(step: Step, signal: np.ndarray, phase: int, hop: int, run: Run) -> Iterator[tuple[int, np.ndarray]]:
    """The windows of one phase: (first sample, logits [streams, classes]). signal [streams, samples, modal].

    Before the signal's begin there is noise, which no window may show.
    """
    plan = step.plan
    series, start = plan.chain.series, phase * hop
    noise = np.random.default_rng(7).normal(size=(len(signal), plan.samples, signal.shape[2])).astype(signal.dtype)
    padded = np.concatenate([noise, signal], axis=1)
    states = [state.begin for state in step.states]
    names = [row.name for row in step.model.graph.input]
    end = start + series - (start + series - 1) // plan.advance * plan.advance
    while end <= signal.shape[1]:
        x = padded[:, None, end : end + plan.samples]
        logits, *states = run(dict(zip(names, [x, *states], strict=True)))
        if end >= start + series:
            yield end - series, logits
        end += plan.advance
