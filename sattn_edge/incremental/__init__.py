"""Overlapping windows without the work they share: the same logits from the samples of one hop.

    source graph -> Chain (what is local in time, or which node is not)
                 -> Extents (which columns of each map deviate at the window's two ends)
                 -> Plan (which columns a hop computes, which it keeps) -> step graph (ordinary ONNX)

`docs/incremental.md` draws it.
"""

from sattn_edge.incremental.chain import Chain, NotIncremental, read_chain
from sattn_edge.incremental.plans import Plan, Plans, plans_for
from sattn_edge.incremental.step_graph import Step, write_step

__all__ = ["Chain", "NotIncremental", "Plan", "Plans", "Step", "plans_for", "read_chain", "write_step"]
