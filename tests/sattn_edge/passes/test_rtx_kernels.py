"""How many kernels NVIDIA's compiler makes of the reference network: what form gemm is for, seen without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sattn_edge.errors import QualityError
from sattn_edge.passes import Pass
from sattn_edge.passes.fix_batch import FixBatch
from sattn_edge.passes.gemm import ONNXRUNTIME, TENSORRT, TENSORRT_HALF, GemmForm, GemmOptions
from sattn_edge.passes.inline import InlineFunctions
from sattn_runtime.tensorrt.layers import EngineLayer
from tests.helpers_lowering import build, rewrite
from tests.sattn_runtime.tensorrt.helpers_engines import REFERENCE, kernels

pytest.importorskip("tensorrt_rtx")

SOURCE = build(REFERENCE, np.float32)


def compiled(form: Sequence[Pass], batch: int = 1) -> Sequence[EngineLayer]:
    return kernels(rewrite(SOURCE, *form, InlineFunctions(), FixBatch(batch))[0])


def computing(found: Sequence[EngineLayer], node: str) -> list[int]:
    """The kernels a node has a part in."""
    return [i for i, kernel in enumerate(found) if node in kernel.nodes]


@pytest.mark.parametrize(("options", "batch"), [(TENSORRT, 1), (TENSORRT, 4), (TENSORRT_HALF, 1)])
def test_form_gemm_is_eight_kernels(options: GemmOptions, batch: int) -> None:
    found = compiled([GemmForm(options)], batch)
    assert len(found) <= 8
    for i in range(4):  # everything behind a product is one kernel, and the first block wholly
        tail = {f"att{i}.sigmoid", f"att{i}.multiply", f"bn{i}.add", f"relu{i}"}
        assert len({tuple(computing(found, node)) for node in tail}) == 1
    assert computing(found, "conv0") == computing(found, "relu0") == computing(found, "conv1.gather")


def test_control_the_source_graph_and_the_form_for_onnxruntime_are_more() -> None:
    assert len(compiled([])) >= 16
    assert len(compiled([GemmForm(ONNXRUNTIME)])) >= 16


def test_a_graph_the_compiler_refuses_is_an_error_with_its_words() -> None:
    broken, _ = rewrite(SOURCE, InlineFunctions())  # the batch is free and nothing says how large
    with pytest.raises(QualityError, match="optimization profile"):
        kernels(broken)
