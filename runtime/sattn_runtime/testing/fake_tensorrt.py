"""A TensorRT without a GPU that computes, on the CPU, the very graph it was given.

`import tensorrt` and `import tensorrt_rtx` give it where `sattn_runtime.testing.fake_site()` is first in PYTHONPATH;
which release it is, what goes wrong and on what GPU it believes to be is in SATTN_FAKE_DEVICE (see `.device`).

    network, parser   _network     what parsers refuse, and what they take though they should not
    config            _config      flags, memory, profiles, timing cache
    builder           _builder     builds; a failed one spoils the next in its process
    engine, context   _runtime     executes on the fake device, in order of its streams, through ONNX Runtime
    plan              _plan        header and ONNX bytes
    layers            _layers, _inspector: what an engine says it is made of

It has the names of its release and no others: one that production code uses without asking is an AttributeError here
as it would be on the device. Times are made up. That it takes a graph does not mean that TensorRT would.

Faults (`faults` of SATTN_FAKE_DEVICE; with `only_form` those of graphs with that text in the name of a node):

    parse: TEXT             the parser refuses the graph with this text
    outputs: 0              the parser loses the outputs, and says nothing
    build: none             the build ends with None         raise  ... with RuntimeError
           kill             ... with SIGKILL                 hang   ... not at all, unless a monitor ends it
    deserialize: none       there is no engine in the plan
    context: none           there is no execution context
    precision: fp32         every layer says it is in float32
    logits: NUMBER          is added to every output
    execute: false          nothing is enqueued
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from sattn_runtime.testing.device import current
from sattn_runtime.testing.fake_tensorrt_base import RTX_VERSION, Dims, IHostMemory, Release, World
from sattn_runtime.testing.fake_tensorrt_builder import Builder
from sattn_runtime.testing.fake_tensorrt_config import IBuilderConfig, IOptimizationProfile, ITimingCache
from sattn_runtime.testing.fake_tensorrt_enums import NUMPY, add_enumerations
from sattn_runtime.testing.fake_tensorrt_logger import ILogger, IProgressMonitor, Logger
from sattn_runtime.testing.fake_tensorrt_network import INetworkDefinition, ITensor, OnnxParser, ParserError
from sattn_runtime.testing.fake_tensorrt_runtime import EngineInspector, ICudaEngine, IExecutionContext, Runtime

CLASSES: tuple[type[Any], ...] = (
    *(ILogger, Logger, IProgressMonitor, IHostMemory),
    *(ITensor, INetworkDefinition, ParserError, OnnxParser),
    *(IOptimizationProfile, ITimingCache, IBuilderConfig, Builder),
    *(ICudaEngine, EngineInspector, IExecutionContext, Runtime),
)
_ARCHITECTURES = ("num_compute_capabilities", "set_compute_capability", "get_compute_capability")
_FAST = ("platform_has_fast_fp16", "platform_has_fast_int8", "platform_has_tf32")


def absent_names(release: Release) -> frozenset[str]:
    """Of what is written here, what a release does not have: "Class" or "Class.name"."""
    names: list[str] = []
    if release.major == 8:
        names += ["IProgressMonitor", "IBuilderConfig.progress_monitor", "ICudaEngine.device_memory_size_v2"]
        names += ["ParserError.node_name", "ParserError.node_operator"]
    if release.major > 10:
        names += [f"Builder.{name}" for name in _FAST]
        names += ["ICudaEngine.device_memory_size"]
    if not release.rtx:
        names += [f"IBuilderConfig.{name}" for name in _ARCHITECTURES]
    return frozenset(names)


def namespace(module: str) -> dict[str, Any]:
    """All that `import tensorrt` or `import tensorrt_rtx` gives. Called once for each import: each is a new process.

    Raises:
        ImportError: the file of names has nothing on the release.
    """
    config = current().config
    release = Release(module, RTX_VERSION if module == "tensorrt_rtx" else config.release)
    world = World(release, _granted(config.api, release))
    add_enumerations(world)
    world.restrict(CLASSES, absent_names(release))
    return {**world.types, "Dims": Dims, "nptype": _nptype, "volume": _volume, "__version__": release.version}


def _granted(path: str | None, release: Release) -> dict[str, list[str]] | None:
    if path is None:
        return None
    listed: dict[str, dict[str, list[str]]] = json.loads(Path(path).read_text())
    key = f"{release.module} {release.version}"
    if key not in listed:
        raise ImportError(f"{path}: nothing on {key}; it has {', '.join(listed)}", name=release.module)
    return listed[key]


def _nptype(trt_type: Any) -> type[Any]:
    """NumPy's type for a DataType."""
    if trt_type.name not in NUMPY:
        raise TypeError(f"Could not resolve TensorRT datatype to an equivalent numpy datatype: {trt_type}")
    return NUMPY[trt_type.name]


def _volume(shape: Sequence[int]) -> int:
    """Number of elements."""
    return prod(shape)
