"""Latency of a model file on this device: paced as its sensor would be, and back to back, with what it ran in.

from sattn_runtime.bench.measure import bench
from sattn_runtime.bench.options import BenchOptions

result = bench(BenchOptions("har.onnx", precisions=("fp32", "int8")), stop=Stop(), tell=print)
for row in result.measurements:
    print(row.configuration, row.mode, row.total_us["p99"], row.ratio)
"""

from __future__ import annotations
