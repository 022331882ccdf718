"""What overlapping windows would share: the plans for a hop, counted, or what keeps a network from having any."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

from sattn_edge.incremental.chain import NotIncremental
from sattn_edge.incremental.lower_step import plans_of
from sattn_edge.incremental.plans import Plan, Plans
from sattn_edge.plan_names import PLANS
from sattn_edge.text import count, table


def as_data(model: ModelProto, hop: int) -> dict[str, Any]:
    """The plans of a source graph for windows every `hop` samples.

    `plans` has those that there are, by name, `reasons` why each of the others is missing; `node` is what is not local
    in time, where that is why. `ratio` is to the whole window's multiply-adds, `state_bytes` are of one stream in FP32.
    """
    found = plans_of(model, hop)
    data: dict[str, Any] = {"hop": hop, "phases": None, "stride": None, "full_multiply_adds": None, "plans": {}}
    if isinstance(found, NotIncremental):
        return {**data, "reasons": dict.fromkeys(PLANS, str(found)), "node": found.node}
    return {
        "hop": hop,
        "phases": found.phases,
        "stride": found.stride,
        "full_multiply_adds": found.full_multiply_adds,
        "plans": {name: _plan(plan, found) for name, plan in found.plans.items()},
        "reasons": found.reasons,
        "node": None,
    }


def _plan(plan: Plan, of: Plans) -> dict[str, Any]:
    return {
        "samples": plan.samples,
        "multiply_adds": plan.multiply_adds,
        "ratio": plan.multiply_adds / of.full_multiply_adds,
        "state_bytes": plan.state_bytes,
    }


def in_a_line(data: dict[str, Any]) -> str:
    """The plan that counts the least work, or why there is none."""
    plans = data["plans"]
    if not plans:
        return f"none: {next(iter(data['reasons'].values()))}"
    best = min(plans, key=lambda name: plans[name]["multiply_adds"])
    kept = _kib(plans[best]["state_bytes"])
    return f"{best}: {plans[best]['ratio']:.2f} of a window's multiply-adds, {kept} KiB of state"


def as_table(data: dict[str, Any]) -> list[str]:
    """The plans beside one another; nothing where there is none."""
    if not data["plans"]:
        return []
    rows = []
    for name in PLANS:
        plan = data["plans"].get(name)
        if plan is None:
            rows.append((name, "-", "-", "-", "-", data["reasons"].get(name, "")))
            continue
        work, kept = f"{plan['multiply_adds']:,}", _kib(plan["state_bytes"])
        rows.append((name, str(plan["samples"]), work, f"{plan['ratio']:.2f}", kept, ""))
    head = f"windows every {count(data['hop'], 'sample')} (stride {data['stride']}, {count(data['phases'], 'phase')}):"
    return [head, *table(rows, header=("plan", "samples", "multiply-adds", "ratio", "state KiB", ""))]


def _kib(size: int) -> str:
    kib = size / 1024
    return f"{kib:.1f}" if kib < 10 else f"{kib:,.0f}"
