"""What NVIDIA's compiler makes of float16 graphs: as few kernels as in float32, thanks to what stays float32."""

from __future__ import annotations

import numpy as np
import pytest

from sattn_edge.calibration_table import LayerChoice
from sattn_edge.passes.base import Pass
from sattn_edge.passes.fix_batch import FixBatch
from sattn_edge.passes.gemm import TENSORRT_HALF, GemmForm
from sattn_edge.passes.half import RULES, Half
from sattn_edge.passes.inline import InlineFunctions
from sattn_edge.passes.quantize_tensorrt import QuantizeTensorRT
from sattn_edge.passes.raise_opset import RaiseOpset
from tests.helpers_lowering import Layer, Network, build, rewrite
from tests.sattn_runtime.tensorrt.helpers_engines import kernels

pytest.importorskip("tensorrt_rtx")

NETWORK = Network(tuple(Layer(width) for width in (64, 128, 256, 512)), series=128, modal=9)
INT8 = QuantizeTensorRT({f"conv{i}": LayerChoice(f"conv{i}", True, low=-4.0, high=4.0) for i in (1, 2, 3)})
GEMM = (GemmForm(TENSORRT_HALF), InlineFunctions())


def count(*passes: Pass) -> int:
    return len(kernels(rewrite(build(NETWORK, np.float32), *passes, FixBatch(1))[0]))


def test_form_gemm_is_eight_kernels() -> None:
    assert count(*GEMM, Half()) <= 8


def test_form_gemm_in_int8_with_float16_scales_is_eight_kernels() -> None:
    assert count(*GEMM, INT8, RaiseOpset(19), Half()) <= 8


def test_rule_4_spares_a_kernel_for_each_gate() -> None:
    with_rule, without = (count(InlineFunctions(), Half(rules)) for rules in (RULES, RULES - {4}))
    assert with_rule <= without - 3
