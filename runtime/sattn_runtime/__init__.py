"""The runtime stage: engines on streams of sensor windows, with latency that can be believed.

    from sattn_runtime import Stream, load_engine

    stream = Stream(load_engine("har.onnx"))
    for decision in stream.push(samples):          # float32 [n, channels], physical units
        print(decision.label, decision.score)

Importing this loads numpy and nothing heavier.
"""

from __future__ import annotations

from sattn_edge.engine import Engine, load_engine
from sattn_runtime.decider import DecisionOptions
from sattn_runtime.decision import Decision
from sattn_runtime.events import Event, Gap
from sattn_runtime.multi_stream import MultiStream
from sattn_runtime.ring import Ring
from sattn_runtime.sample_clock import ClockOptions
from sattn_runtime.stream import Stream
from sattn_runtime.stream_options import StreamOptions

__all__ = [
    "ClockOptions",
    "Decision",
    "DecisionOptions",
    "Engine",
    "Event",
    "Gap",
    "MultiStream",
    "Ring",
    "Stream",
    "StreamOptions",
    "load_engine",
]
