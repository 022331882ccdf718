"""Which plan infers a stream's windows: whole, or by steps that share what overlapping windows share.

    asked for > measured by sattn-build on this device > counted

Counting is cautious: it takes steps only where they are clearly less work, nodes of the graph included, since a small
network spends its time on those. What it leaves undecided a measurement decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import ModelProto

from sattn_edge.calibration_table import placement_of
from sattn_edge.engine import EngineInfo, EngineOptions
from sattn_edge.engine_manifest import IncrementalChoice, subject_of
from sattn_edge.engine_onnxruntime import BACKEND, VERSION, request_of
from sattn_edge.engine_store import default_store
from sattn_edge.errors import ModelFileError, UsageError, did_you_mean
from sattn_edge.incremental.chain import NotIncremental
from sattn_edge.incremental.engine import StepEngine, open_steps
from sattn_edge.incremental.lower_step import lower_plan, plans_of
from sattn_edge.incremental.step_graph import Step
from sattn_edge.lowering import Target, equalised, lower
from sattn_edge.plan_names import AUTO, FULL, INCREMENTAL, OFF
from sattn_edge.text import millions

if TYPE_CHECKING:
    from sattn_edge.model_file import ModelFile

CLEARLY_LESS = 0.6
"""Steps are taken unmeasured where they are at most so much of the whole window's work."""
NODE_WORK = 75_000
"""Multiply-adds in FP32 that take about as long as a node takes to start: 1.5 us at 50 of them a ns."""
INT8_WORK = 1 / 3
"""What a multiply-add of integers takes, in those of FP32."""
HISTORY_WORK = 80
"""What a number of the sums that are kept takes, which every step moves twice and weighs: 1.6 ns."""
LARGEST_STATES = 16 * 1024 * 1024
"""Bytes of states that a stream gets without having been asked for them or measured."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """`plan` is `full`, `edges` or `stateful`; steps: what runs it, None for whole windows."""

    plan: str
    reason: str
    steps: StepEngine | None = None


def check_incremental(asked: str) -> None:
    """Raises UsageError for what is none of `INCREMENTAL`."""
    if asked not in INCREMENTAL:
        raise UsageError("--incremental", f"got '{asked}'", did_you_mean(asked, INCREMENTAL))


def choose_plan(model: ModelFile, info: EngineInfo, attention: str, hop: int, asked: str) -> Chosen:
    """The plan for windows every `hop` samples on an engine that is open.

    attention: the form that was asked for, which the measurement is bound to.

    Raises:
        UsageError: no such plan, or the network has none for this hop.
        UnavailableError: a plan was asked for on a backend that runs whole windows only.
    """
    check_incremental(asked)
    options = EngineOptions(info.precision, info.threads, attention)
    if asked == OFF:
        return Chosen(FULL, "asked for")
    if asked != AUTO:
        return Chosen(asked, "asked for", open_steps(model, asked, hop, info.backend, options))
    if info.backend != BACKEND:
        return Chosen(FULL, f"{info.backend} runs whole windows")
    measured = _measured(model, options, hop)
    plan, reason, step = (*measured, None) if measured else _counted(model, options, hop)
    if plan == FULL:
        return Chosen(FULL, reason)
    try:
        if step is None:
            return Chosen(plan, reason, open_steps(model, plan, hop, BACKEND, options))
        return Chosen(plan, reason, StepEngine(step, model.name, options.threads))
    except (ModelFileError, UsageError) as error:  # nobody asked for steps, and whole windows are always right
        return Chosen(FULL, f"{plan} can't be run: {error}")


def _measured(model: ModelFile, options: EngineOptions, hop: int) -> tuple[str, str] | None:
    """What sattn-build found on this device for this hop."""
    manifest = default_store().look_up(subject_of(model, request_of(options), VERSION)).manifest
    found: IncrementalChoice | None = None if manifest is None else manifest.incremental
    if found is None or found.hop != hop:
        return None
    return found.plan, f"measured here: {found.reason}"


def counted(model: ModelFile, options: EngineOptions, hop: int) -> tuple[str, str]:
    """The plan with the least counted work, and why. Raises ModelFileError, DigestError as int8 does."""
    plan, reason, _ = _counted(model, options, hop)
    return plan, reason


def _counted(model: ModelFile, options: EngineOptions, hop: int) -> tuple[str, str, Step | None]:
    """The same with the plan's step, which had to be written to be counted."""
    placement = placement_of(model, BACKEND) if options.precision == "int8" else None
    target = Target("onnxruntime", None, options.precision, placement=placement)
    source = equalised(model.proto, target)
    found = plans_of(source, hop)
    if isinstance(found, NotIncremental):
        return FULL, str(found), None
    if not found.plans:
        return FULL, next(iter(found.reasons.values())), None
    plans = {name: plan for name, plan in found.plans.items() if plan.state_bytes <= LARGEST_STATES}
    if not plans:
        least = min(plan.state_bytes for plan in found.plans.values()) / 2**20
        most = LARGEST_STATES / 2**20
        return FULL, f"a stream's states would be {least:,.0f} MiB, unasked for at most {most:.0f}", None
    each = INT8_WORK if options.precision == "int8" else 1.0
    whole = each * found.full_multiply_adds + NODE_WORK * _nodes(lower(model.proto, target).model)
    steps = {name: lower_plan(source, plan, target) for name, plan in plans.items()}
    work = {
        name: each * plan.multiply_adds + HISTORY_WORK * plan.history_values + NODE_WORK * _nodes(steps[name].model)
        for name, plan in plans.items()
    }
    best = min(work, key=lambda name: work[name])
    part = work[best] / whole
    if part > CLEARLY_LESS:
        return FULL, f"counted: {best} would be {part:.2f} of a whole window's work; sattn-build measures it", None
    adds = millions(plans[best].multiply_adds)
    return best, f"counted: {part:.2f} of a whole window's work ({adds} multiply-adds a window)", steps[best]


def _nodes(model: ModelProto) -> int:
    return len(model.graph.node)
