"""Blocks found in lowered graphs by their wiring, and against lists of kernels put together for the purpose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.lowering import FORMS
from sattn_runtime.tensorrt.blocks import ROLES, LoweredBlock, find_lowered_blocks
from sattn_runtime.tensorrt.fusion import TAIL, BlockFusion, block_fusions
from tests.helpers_lowering import Layer, Network, networks
from tests.sattn_runtime.tensorrt.helpers_engines import layer, lowered, one_kernel_each, source

TWO = Network((Layer(4), Layer(6)), series=32, modal=3)
PRECISIONS = ("fp32", "fp16", "int8")


def named(block: LoweredBlock, role: str) -> set[str]:
    return {node.name for node in block.roles.get(role, ())}


def stripped(model: ModelProto) -> ModelProto:
    """The same graph with every node and value renamed to a number."""
    out = ModelProto()
    out.CopyFrom(model)
    names: dict[str, str] = {"": ""}
    for node in out.graph.node:
        node.name = f"n{len(names)}"
        for values in (node.input, node.output):
            values[:] = [names.setdefault(value, f"v{len(names)}") for value in values]
    for row in (*out.graph.input, *out.graph.output, *out.graph.initializer):
        row.name = names.get(row.name, row.name)
    del out.graph.value_info[:]
    return out


@settings(max_examples=60)
@given(networks(), st.sampled_from(FORMS), st.sampled_from(PRECISIONS))
def test_every_block_of_any_network_is_found_with_its_roles(network: Network, form: str, precision: str) -> None:
    blocks = find_lowered_blocks(lowered(network, form, precision).model, source(network))
    assert [block.name for block in blocks] == [f"att{i}" for i in range(len(network.layers))]
    for i, (block, drawn) in enumerate(zip(blocks, network.layers, strict=True)):
        assert f"conv{i}" in named(block, "product")
        assert {name.split(".")[0] for name in named(block, "product")} == {f"conv{i}"}
        assert named(block, "relu") == {f"relu{i}"}
        norms = {f"bn{i}", f"bn{i}.add", f"bn{i}.scale"}
        assert bool(named(block, "batch_norm")) == drawn.norm
        assert named(block, "batch_norm") <= norms
        assert {role for role in ("stencil", "sigmoid", "multiply") if role in block.roles} == set(TAIL[:3])
        assert block.roles["multiply"][0].output[0].removesuffix(".rows") == f"g{i}"


@settings(max_examples=30)
@given(networks(max_depth=3), st.sampled_from(FORMS), st.sampled_from(PRECISIONS))
def test_names_play_no_part(network: Network, form: str, precision: str) -> None:
    model = lowered(network, form, precision).model
    places = [_places(model, block) for block in find_lowered_blocks(model)]
    bare = stripped(model)
    onnx.checker.check_model(bare)
    assert [_places(bare, block) for block in find_lowered_blocks(bare)] == places
    assert [block.name for block in find_lowered_blocks(bare)] == [f"block {i + 1}" for i in range(len(places))]


def _places(model: ModelProto, block: LoweredBlock) -> dict[str, list[int]]:
    order = {node.output[0]: i for i, node in enumerate(model.graph.node)}
    return {role: sorted(order[node.output[0]] for node in nodes) for role, nodes in block.roles.items()}


@pytest.mark.parametrize(
    ("form", "stencil", "pool"),
    [
        ("reference", {"Conv"}, {"ReduceMean"}),
        ("folded", {"Conv"}, set()),
        ("taps", {"Add", "Mul", "Slice", "Pad"}, {"Conv"}),
        ("mean-conv", {"Conv"}, {"Conv"}),
        ("composed", {"Conv", "Mul", "ReduceMean", "Add"}, set()),
        ("gemm", {"Add", "Mul", "Slice", "Pad"}, set()),
    ],
)
def test_what_plays_the_stencil_and_the_pool_depends_on_the_form(form: str, stencil: set[str], pool: set[str]) -> None:
    network = replace(TWO, layers=(Layer(4), Layer(6, pad=0)))
    block = find_lowered_blocks(lowered(network, form, "fp32").model)[1]
    assert {node.op_type for node in block.roles["stencil"]} == stencil
    assert {node.op_type for node in block.roles.get("pool", ())} == pool
    assert block.gate_is_convolution == ("Conv" in stencil)


@pytest.mark.parametrize("pooling", ["max", "mean+max"])
def test_pooling_by_the_maximum_is_a_node_of_its_own(pooling: str) -> None:
    network = replace(TWO, layers=tuple(Layer(4, pooling=pooling) for _ in range(2)))
    for form in ("reference", "taps", "gemm"):
        for block in find_lowered_blocks(lowered(network, form, "fp16").model):
            assert "ReduceMax" in {node.op_type for node in block.roles["pool"]}


def test_the_mean_of_a_first_product_written_as_taps_is_its_pool() -> None:
    first, second = find_lowered_blocks(lowered(TWO, "gemm", "fp32").model)
    assert {name.split(".")[0] for name in named(first, "pool")} == {"conv0"}
    assert named(first, "pool").isdisjoint(named(first, "product"))
    assert "pool" not in second.roles


def test_roles_are_in_their_order_and_share_no_node() -> None:
    for block in find_lowered_blocks(lowered(TWO, "gemm", "int8").model):
        assert list(block.roles) == [role for role in ROLES if role in block.roles]
        outputs = [node.output[0] for nodes in block.roles.values() for node in nodes]
        assert len(outputs) == len(set(outputs))


@pytest.mark.parametrize("form", ["reference", "gemm", "taps"])
def test_blocks_are_named_as_in_the_model_file_else_numbered_or_by_their_nodes(form: str) -> None:
    model = lowered(TWO, form, "fp32").model
    assert [block.name for block in find_lowered_blocks(model, source(TWO))] == ["att0", "att1"]
    alone = ["block 1", "block 2"] if form == "reference" else ["att0", "att1"]
    assert [block.name for block in find_lowered_blocks(model)] == alone


def graph_of(*nodes: NodeProto, shape: Sequence[int] = (1, 4, 8, 3)) -> ModelProto:
    """x [1, 4, 8, 3] -> y, with a number `k`, and a weight for pooled maps."""
    weights = [
        numpy_helper.from_array(np.asarray(1.7, np.float32), "k"),
        numpy_helper.from_array(np.ones((1, 1, 3, 1), np.float32), "w"),
        numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w4"),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(list(nodes), "graph", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def spatial(op_type: str) -> ModelProto:
    return graph_of(
        helper.make_node("ReduceMean", ["x"], ["p"], axes=[1]),
        helper.make_node("Conv", ["p", "w"], ["a"], pads=[1, 0, 1, 0]),
        helper.make_node(op_type, ["a"], ["s"]),
        helper.make_node("Mul", ["s", "x"], ["y"]),
    )


@pytest.mark.parametrize("op_type", ["Sigmoid", "HardSigmoid"])
def test_a_gate_is_found_without_product_norm_and_relu_and_on_either_side(op_type: str) -> None:
    (block,) = find_lowered_blocks(spatial(op_type))
    assert list(block.roles) == ["pool", "stencil", "sigmoid", "multiply"]


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "y")], id="silu"),
        pytest.param([("Mul", ["x", "k"], "a"), ("Sigmoid", ["a"], "s"), ("Mul", ["x", "s"], "y")], id="quick gelu"),
        pytest.param(
            [
                ("GlobalAveragePool", ["x"], "p"),
                ("Conv", ["p", "w4"], "a"),
                ("Sigmoid", ["a"], "s"),
                ("Mul", ["x", "s"], "y"),
            ],
            id="a gate for each feature map",
        ),
        pytest.param([("Conv", ["x", "w4"], "a"), ("Sigmoid", ["a"], "s"), ("Mul", ["x", "s"], "y")], id="glu"),
        pytest.param([("Sigmoid", ["x"], "y")], id="activation"),
        pytest.param([("Sigmoid", ["x"], "s"), ("Mul", ["s", "k"], "y")], id="scaled activation"),
        pytest.param([("Relu", ["x"], "y")], id="no sigmoid"),
    ],
)
def test_other_uses_of_a_sigmoid_are_no_blocks(nodes: list[tuple[str, list[str], str]]) -> None:
    model = graph_of(*(helper.make_node(op, inputs, [output]) for op, inputs, output in nodes))
    onnx.checker.check_model(model, full_check=True)
    assert find_lowered_blocks(model) == []
    assert block_fusions(model, one_kernel_each(model)) == ()


def in_kernels(model: ModelProto, *groups: Sequence[str]) -> tuple[BlockFusion, ...]:
    return block_fusions(model, [layer(group) for group in groups])


def nodes_of(model: ModelProto, name: str = "1") -> dict[str, list[str]]:
    """Role -> names of the nodes of a block."""
    block = next(b for b in find_lowered_blocks(model) if b.name.endswith(name))
    return {role: [node.name for node in nodes] for role, nodes in block.roles.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_behind_the_product_in_one_kernel_is_fused(form: str, precision: str) -> None:
    model = lowered(TWO, form, precision).model
    roles = [nodes_of(model, end) for end in (("1", "2") if form == "reference" else ("0", "1"))]
    kernels = [kernel for block in roles for kernel in _two_kernels(block)]
    found = in_kernels(model, *kernels)
    assert [block.fused for block in found] == [True, True]
    assert [block.roles["relu"] for block in found] == [(1,), (3,)]
    assert all(block.kernels == (2 * i, 2 * i + 1) for i, block in enumerate(found))


def _two_kernels(roles: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """Product and pooling, and the rest."""
    front = [name for role, names in roles.items() if role not in TAIL for name in names]
    return front, [name for role in TAIL for name in roles.get(role, [])]


@pytest.mark.parametrize("role", TAIL)
def test_control_one_node_in_a_kernel_of_its_own_is_enough_to_part_a_block(role: str) -> None:
    model = lowered(TWO, "gemm", "fp16").model
    roles = nodes_of(model)
    front, tail = _two_kernels(roles)
    for alone in roles[role]:
        (block,) = (b for b in in_kernels(model, front, [n for n in tail if n != alone], [alone]) if b.name == "att1")
        assert not block.fused
        assert block.kernels == (0, 1, 2)
        assert re.search(r"\bkernels? (1 and )?2\b", block.reason)


def test_a_node_may_also_have_a_part_in_another_kernel() -> None:
    model = lowered(TWO, "gemm", "fp32").model
    front, tail = _two_kernels(nodes_of(model))
    (block,) = (b for b in in_kernels(model, [*front, tail[0]], tail) if b.name == "att1")
    assert block.fused
    assert block.reason == "taps to ReLU in kernel 1"


def test_the_reason_says_what_stands_where() -> None:
    model = lowered(TWO, "reference", "fp32").model
    roles = nodes_of(model)
    gate = roles["stencil"] + roles["sigmoid"]
    rest = roles["multiply"] + roles["batch_norm"] + roles["relu"]
    block = in_kernels(model, roles["product"], roles["pool"], gate, rest)[0]
    assert block.reason == "gate convolution and sigmoid in kernel 2; multiply, BatchNorm and ReLU in kernel 3"
    assert block.kernels == (0, 1, 2, 3)
    fused = in_kernels(model, roles["product"], roles["pool"], [*gate, *rest])[0]
    assert fused.reason == "gate convolution to ReLU in kernel 2; pooling over maps in kernel 1"


def test_a_list_that_names_no_node_of_a_block_proves_nothing() -> None:
    model = lowered(TWO, "gemm", "fp32").model
    (first, _) = in_kernels(model, ["other"])
    assert (first.fused, first.kernels) == (False, ())
    assert first.reason == "no kernel names its taps, sigmoid, multiply and ReLU"
    tail = _two_kernels(nodes_of(model))[1]
    without = [name for name in tail if name not in nodes_of(model)["sigmoid"]]
    assert in_kernels(model, without)[1].reason == "no kernel names its sigmoid"


def test_a_batch_norm_optimised_away_parts_nothing() -> None:
    model = lowered(TWO, "gemm", "fp32").model
    roles = nodes_of(model)
    kept = [name for role in TAIL if role != "batch_norm" for name in roles[role]]
    (_, block) = in_kernels(model, kept)
    assert block.fused
    assert block.roles["batch_norm"] == ()


def test_unnamed_nodes_are_known_by_their_output() -> None:
    model = spatial("Sigmoid")
    (block,) = in_kernels(model, ["node_of_p"], ["node_of_a", "node_of_s", "node_of_y"])
    assert block.fused
    assert block.reason == "gate convolution to multiply in kernel 1; pooling over maps in kernel 0"
