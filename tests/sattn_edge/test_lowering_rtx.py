"""Lowered graphs in NVIDIA's own compiler: every one parses, and form gemm stays at two kernels a block."""

from __future__ import annotations

import numpy as np
import pytest

from sattn_edge.calibration_table import Agreement, LayerChoice, Placement
from sattn_edge.errors import ModelFileError
from sattn_edge.lowering import FORMS, Target, lower
from tests.helpers_lowering import Layer, Network, build
from tests.sattn_runtime.tensorrt.helpers_engines import kernels

pytest.importorskip("tensorrt_rtx")

NONE = Agreement(0, 0, 0.0, 0.0, 0.0)
NETWORK = Network(tuple(Layer(width) for width in (16, 32, 64, 64)), series=64, modal=4, zero_scales=1)
LAYERS = tuple(LayerChoice(f"conv{i}", True, low=0.0, high=6.0) for i in (1, 2, 3))
PLACEMENT = Placement("tensorrt", "s8", LAYERS, NONE, NONE, True)


def compiled(form: str, precision: str) -> int:
    placement = PLACEMENT if precision == "int8" else None
    target = Target("tensorrt", form, precision, placement=placement)
    return len(kernels(lower(build(NETWORK, np.float32), target).model))


@pytest.mark.parametrize("form", FORMS)
def test_int8_with_float16_around_it_compiles_in_every_form(form):
    assert compiled(form, "int8") <= 22


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_form_gemm_is_two_kernels_a_block(precision):
    assert compiled("gemm", precision) <= 8


def test_control_a_zero_point_is_refused():
    """What this compiler takes is a statement: it does not take ONNX Runtime's placement."""
    layers = tuple(LayerChoice(f"conv{i}", True, low=-1.0, high=6.0) for i in (1, 2, 3))
    placement = Placement("onnxruntime", "u8", layers, NONE, NONE, True)
    model = lower(build(NETWORK, np.float32), Target("onnxruntime", "gemm", "int8", batch=1, placement=placement)).model
    with pytest.raises(ModelFileError, match="Non-zero zero point is not supported"):
        kernels(model)
