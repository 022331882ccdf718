"""Networks lowered for TensorRT, and engines as lists of kernels: by NVIDIA's compiler, or put together here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
from onnx import ModelProto

from sattn_edge.calibration_table import Agreement, LayerChoice, Placement
from sattn_edge.lowering import Lowered, Target, lower, pass_list
from sattn_edge.passes import run_passes
from sattn_edge.passes.expose_gates import ExposeGates
from sattn_runtime.tensorrt.compile_process import CompileOptions, compile_graph
from sattn_runtime.tensorrt.job import Profile
from sattn_runtime.tensorrt.layers import EngineLayer, EngineTensor, parse_layers
from tests.helpers_lowering import Layer, Network, build

REFERENCE = Network(tuple(Layer(width) for width in (64, 128, 256, 512)), series=128, modal=9, classes=6)
MAXIMUM = Network(tuple(Layer(width, pooling="max") for width in (32, 64, 96)), series=100, modal=6, classes=5)
BOTH = Network(
    tuple(Layer(width, kernel=5, pad=2, pooling="mean+max") for width in (16, 32, 48, 64, 80)), series=200, modal=3
)
NETWORKS = {"reference": REFERENCE, "maximum": MAXIMUM, "both": BOTH}
_NONE = Agreement(0, 0, 0.0, 0.0, 0.0)


def source(network: Network) -> ModelProto:
    """The network as a model file holds it, float32."""
    return build(network, np.float32)


def lowered(
    network: Network,
    form: str,
    precision: str,
    *,
    typed: bool = True,
    ranged: bool = False,
    attention: bool = False,
) -> Lowered:
    """Lowered for TensorRT; INT8 on the products of all blocks but the first. ranged: the batch stays free.

    attention: its gates are an output.
    """
    layers = tuple(LayerChoice(f"conv{i}", True, low=0.0, high=6.0) for i in range(1, len(network.layers)))
    placement = Placement("tensorrt", "s8", layers, _NONE, _NONE, True) if precision == "int8" else None
    target = Target("tensorrt", form, precision, placement=placement, typed=typed)
    stop = len(pass_list(target)) - 1 if ranged else None  # the last pass fixes the batch
    model = source(network)
    return lower(run_passes(model, [ExposeGates()])[0] if attention else model, target, stop)


def layer(nodes: Iterable[str], *, reads: Sequence[str] = ("float32",), kind: str = "kgen") -> EngineLayer:
    """A kernel that computes nodes and reads tensors of such types, sizes unknown."""
    tensors = tuple(EngineTensor(f"t{i}", (), dtype) for i, dtype in enumerate(reads))
    return EngineLayer("kernel", kind, tensors, tensors[:1], tuple(nodes))


def one_kernel_each(model: ModelProto) -> list[EngineLayer]:
    """The engine nobody fused: a kernel for every node."""
    return [layer([node.name]) for node in model.graph.node]


def by_type(types: Mapping[str, str]) -> list[EngineLayer]:
    """A kernel for every product, reading the type given."""
    return [layer([name], reads=[dtype], kind="gemm") for name, dtype in types.items()]


@cache
def compiled(
    network: str,
    form: str,
    precision: str,
    arch: str = "SM86",
    *,
    ranged: bool = False,
    attention: bool = False,
) -> tuple[ModelProto, tuple[EngineLayer, ...]]:
    """One of NETWORKS lowered, and the kernels TensorRT-RTX makes of it, with no GPU."""
    model = lowered(NETWORKS[network], form, precision, ranged=ranged, attention=attention).model
    return model, kernels(model, arch, Profile(1, 4, 8) if ranged else None)


def kernels(model: ModelProto, arch: str = "SM86", profile: Profile | None = None) -> tuple[EngineLayer, ...]:
    """What TensorRT-RTX makes of a graph, with no GPU. Raises what `compile_graph` does."""
    made = compile_graph(model, CompileOptions("tensorrt-rtx", 1 << 30, profile=profile, arch=arch))
    return parse_layers(made.layers_text)
