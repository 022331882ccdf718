"""A plan lowered for a backend and a precision: the step graph with what its full window has."""

from __future__ import annotations

from dataclasses import replace

from onnx import ModelProto

from sattn_edge.errors import UsageError
from sattn_edge.incremental.chain import NotIncremental, read_chain
from sattn_edge.incremental.plans import Plan, Plans, plans_for
from sattn_edge.incremental.quantize_states import QuantizeStates
from sattn_edge.incremental.step_graph import Step, write_step
from sattn_edge.lowering import Target, equalised, precision_passes
from sattn_edge.passes import Pass, run_passes
from sattn_edge.passes.prune import Prune


def plans_of(model: ModelProto, hop: int) -> Plans | NotIncremental:
    """The plans for a source graph, or what keeps it from having any."""
    try:
        return plans_for(read_chain(model), hop)
    except NotIncremental as reason:
        return reason


def lower_step(model: ModelProto, hop: int, plan: str, target: Target, streams: int = 1) -> Step:
    """The step of a plan. In INT8 the choices of the calibration serve it as they serve the whole window.

    Raises:
        UsageError: the network has no such plan for this hop.
    """
    source = equalised(model, target)
    found = plans_of(source, hop)
    if isinstance(found, NotIncremental) or plan not in found.plans:
        why = str(found) if isinstance(found, NotIncremental) else found.reasons.get(plan, "no such plan")
        raise UsageError(f"plan '{plan}'", "the network has none", why)
    return lower_plan(source, found.plans[plan], target, streams)


def lower_plan(source: ModelProto, plan: Plan, target: Target, streams: int = 1) -> Step:
    """The step of a plan of an equalised source graph."""
    integers = () if target.placement is None else target.placement.chosen()
    step = write_step(source, plan, streams, integers)
    passes: list[Pass] = list(precision_passes(target))
    if target.backend == "onnxruntime" and target.precision == "int8":
        passes.append(QuantizeStates())
    made, _ = run_passes(step.model, [*passes, Prune()])
    return replace(step, model=made)
