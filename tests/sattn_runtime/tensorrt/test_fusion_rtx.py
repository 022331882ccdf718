"""What NVIDIA's own compiler makes of the attention blocks, seen without a GPU: TensorRT-RTX, form by form.

The figures are of this compiler. Classic TensorRT on a Jetson may fuse otherwise; nothing here says how it does.
"""

from __future__ import annotations

import pytest

from sattn_edge.errors import SattnEdgeError
from sattn_runtime.tensorrt.fusion import block_fusions
from sattn_runtime.tensorrt.held_precision import held_precision, holds
from sattn_runtime.tensorrt.layers import SHAPE_CALL
from tests.sattn_runtime.tensorrt.helpers_engines import NETWORKS, compiled

pytest.importorskip("tensorrt_rtx")

PRECISIONS = ("fp32", "fp16", "int8")
TYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
ARCHITECTURES = ("SM86", "SM89", "SM120")
ALL_ARCHITECTURES = [(network, arch) for network in NETWORKS for arch in ARCHITECTURES]
MOST_RANGED = {"reference": 9, "maximum": 11, "both": 17}
"""One more for sizes; with a maximum one more again."""
MOST = {"reference": 8, "maximum": 9, "both": 16}
"""Two a block, less one for the first, and the head; a maximum over feature maps is a pass of its own, one more."""


@pytest.mark.parametrize(("network", "arch"), ALL_ARCHITECTURES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_form_gemm_is_few_kernels_with_every_block_fused(network: str, arch: str, precision: str) -> None:
    model, layers = compiled(network, "gemm", precision, arch)
    assert len(layers) <= MOST[network]
    blocks = block_fusions(model, layers)
    assert len(blocks) == len(NETWORKS[network].layers)
    assert [block.reason for block in blocks if not block.fused] == []


@pytest.mark.parametrize(("network", "arch"), ALL_ARCHITECTURES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_products_are_in_the_precision_asked(network: str, arch: str, precision: str) -> None:
    model, layers = compiled(network, "gemm", precision, arch)
    held = held_precision(model, layers, precision, typed=True)
    assert held.wrong == ""
    products = {f"conv{i}": TYPES[precision] for i in range(1, len(NETWORKS[network].layers))}
    assert held.inputs == {**products, "fc": "float32"}  # the first is taps, the classifier makes the logits


@pytest.mark.parametrize("precision", PRECISIONS)
def test_control_the_precision_of_an_engine_is_no_other(precision: str) -> None:
    model, layers = compiled("reference", "gemm", precision)
    for other in PRECISIONS:
        assert (holds(model, layers, other, typed=True) == "") == (other == precision)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_control_an_engine_of_the_float32_graph_holds_nothing_faster(precision: str) -> None:
    model, _ = compiled("reference", "gemm", precision)
    _, layers = compiled("reference", "gemm", "fp32")
    assert "conv1, conv2, conv3" in holds(model, layers, precision, typed=True)


@pytest.mark.parametrize("form", ["reference", "folded", "mean-conv", "composed"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_control_a_gate_that_is_a_convolution_is_a_kernel_apart(form: str, precision: str) -> None:
    model, layers = compiled("reference", form, precision)
    blocks = block_fusions(model, layers)
    assert [block.fused for block in blocks] == [False] * 4
    assert all(block.reason.startswith("gate convolution") for block in blocks)
    assert len(layers) > MOST["reference"]
    assert holds(model, layers, precision, typed=True) == ""


@pytest.mark.parametrize("precision", PRECISIONS)
def test_taps_fuse_behind_the_pooling(precision: str) -> None:
    for network in NETWORKS:
        model, layers = compiled(network, "taps", precision)
        for block in block_fusions(model, layers):
            assert block.fused
            assert set(block.roles["pool"]).isdisjoint(block.roles["sigmoid"])
            assert "pooling over maps in kernel" in block.reason


def test_the_maximum_is_a_kernel_of_its_own_and_the_mean_is_not() -> None:
    for network, apart in (("reference", False), ("maximum", True), ("both", True)):
        model, layers = compiled(network, "gemm", "fp32")
        for block in block_fusions(model, layers)[1:]:
            assert ("pooling over maps" in block.reason) == apart
            assert len(set(block.roles.get("pool", ())) - set(block.roles["sigmoid"])) == int(apart)


@pytest.mark.parametrize(("network", "arch"), ALL_ARCHITECTURES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_free_batch_costs_one_kernel_for_sizes(network: str, arch: str, precision: str) -> None:
    model, layers = compiled(network, "gemm", precision, arch, ranged=True)
    assert [layer.kind for layer in layers].count(SHAPE_CALL) == 1
    assert len(layers) <= MOST_RANGED[network]
    assert all(block.fused for block in block_fusions(model, layers))
    assert holds(model, layers, precision, typed=True) == ""
    fixed = compiled(network, "gemm", precision, arch)[1]
    assert SHAPE_CALL not in {layer.kind for layer in fixed}


def test_every_kernel_names_its_nodes_and_types() -> None:
    for network in NETWORKS:
        model, layers = compiled(network, "gemm", "int8")
        names = {node.name for node in model.graph.node}
        for layer in layers:
            assert layer.nodes
            assert set(layer.nodes) <= names
            assert all(tensor.dtype and tensor.dims for tensor in (*layer.inputs, *layer.outputs))


def test_a_graph_that_does_not_compile_is_an_error() -> None:
    with pytest.raises(SattnEdgeError):
        compiled("reference", "gemm", "fp32", "SM75")
