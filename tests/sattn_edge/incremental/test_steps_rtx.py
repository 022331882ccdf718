"""Step graphs in NVIDIA's own compiler, without a GPU: every plan is taken, in the precision that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from sattn_edge.calibration_table import Agreement, LayerChoice, Placement
from sattn_edge.errors import ModelFileError
from sattn_edge.incremental.lower_step import lower_step
from sattn_edge.lowering import Target
from sattn_edge.plan_names import PLANS
from sattn_runtime.tensorrt.layers import EngineLayer
from tests.helpers_lowering import Layer, Network, build
from tests.sattn_runtime.tensorrt.helpers_engines import kernels

pytest.importorskip("tensorrt_rtx")

NONE = Agreement(0, 0, 0.0, 0.0, 0.0)
NETWORK = Network(tuple(Layer(width) for width in (16, 32, 64, 64)), series=256, modal=4, zero_scales=1)
PRODUCTS = ("conv1", "conv2", "conv3")  # the first layer's is too small for less than float32
HOP, TWO_PHASES = 16, 24
GATES = {
    "maximum": Layer(32, pooling="max"),
    "both poolings": Layer(32, pooling="mean+max", attention=5),
    "both axes": Layer(32, attention_m=3),
    "no normalisation": Layer(32, norm=False),
}


def placement(backend: str = "tensorrt", low: float = 0.0) -> Placement:
    layers = tuple(LayerChoice(name, True, low=low, high=6.0) for name in PRODUCTS)
    return Placement(backend, "s8" if backend == "tensorrt" else "u8", layers, NONE, NONE, True)


def compiled(
    plan: str, precision: str, *, network: Network = NETWORK, hop: int = HOP, streams: int = 1
) -> tuple[EngineLayer, ...]:
    """The kernels of one step."""
    target = Target("tensorrt", "gemm", precision, placement=placement() if precision == "int8" else None)
    step = lower_step(build(network, np.float32), hop, plan, target, streams)
    return kernels(step.model)


def types_read(made: tuple[EngineLayer, ...], node: str) -> set[str]:
    """What the kernels that have a part in a product read."""
    return {tensor.dtype for kernel in made if node in kernel.nodes for tensor in kernel.inputs}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("precision", "reads"), [("fp32", "float32"), ("fp16", "float16"), ("int8", "int8")])
def test_every_plan_compiles_and_its_products_read_what_was_asked_for(plan, precision, reads):
    made = compiled(plan, precision)
    for product in PRODUCTS:
        types = types_read(made, product)
        assert reads in types
        assert precision != "fp32" or types == {"float32"}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_phases_and_several_streams_compile(plan, precision):
    assert compiled(plan, precision, hop=TWO_PHASES, streams=3)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("layer", GATES.values(), ids=GATES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gates_of_every_kind_compile(plan, layer, precision):
    network = Network((Layer(16), layer, Layer(32)), series=128, modal=4)
    assert compiled(plan, precision, network=network)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_steps_of_many_columns_compile(plan, precision):
    network = Network((Layer(16), Layer(32, pooling="mean+max"), Layer(32)), series=8192, modal=4)
    assert compiled(plan, precision, network=network, hop=2048)


@pytest.mark.parametrize("plan", PLANS)
def test_control_a_zero_point_is_refused(plan):
    """That a step is taken is a statement: ONNX Runtime's placement of the same network is not."""
    target = Target("onnxruntime", "gemm", "int8", placement=placement("onnxruntime", low=-1.0))
    step = lower_step(build(NETWORK, np.float32), HOP, plan, target)
    with pytest.raises(ModelFileError, match="Non-zero zero point is not supported"):
        kernels(step.model)
