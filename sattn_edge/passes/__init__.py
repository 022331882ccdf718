"""Passes: small exact rewrites of an ONNX graph, one per file, run by `run_passes`."""

from sattn_edge.passes.base import NearMiss, Pass, PassReport, run_passes

__all__ = ["NearMiss", "Pass", "PassReport", "run_passes"]
