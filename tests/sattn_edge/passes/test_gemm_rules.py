"""Each rule of form gemm: where it holds the numbers stay, where it does not the place is left alone and named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.attention import DOMAIN
from sattn_edge.graph import set_attribute
from sattn_edge.passes import PassReport
from sattn_edge.passes.gemm import ONNXRUNTIME, TENSORRT, GemmForm, GemmOptions
from tests.helpers_lowering import Layer, Network, assert_exact, build, operators, rewrite, windows

NETWORK = Network((Layer(4), Layer(5)))
TIME, MODAL = NETWORK.lengths()[-1], NETWORK.modal
OPTIONS = [ONNXRUNTIME, TENSORRT]


def check(model: ModelProto, options: GemmOptions, network: Network = NETWORK) -> tuple[ModelProto, PassReport]:
    """The graph in form gemm, proved equal to its source."""
    made, reports = rewrite(model, GemmForm(options))
    assert_exact(model, made, windows(network, 2))
    return made, reports[0]


def calls(model: ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.domain == DOMAIN]


def node_of(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def edited(edit: Callable[[ModelProto], None], network: Network = NETWORK) -> ModelProto:
    model = build(network)
    edit(model)
    return model


def constant(model: ModelProto, name: str, value: np.ndarray) -> None:
    for tensor in [t for t in model.graph.initializer if t.name == name]:
        model.graph.initializer.remove(tensor)
    model.graph.initializer.append(numpy_helper.from_array(value, name))


def behind(model: ModelProto, value: str, nodes: list[NodeProto], result: str) -> None:
    """Nodes between a value and its readers."""
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == value:
                node.input[i] = result
    rows = list(model.graph.node)
    at = next(i for i, node in enumerate(rows) if value in node.output) + 1
    rows[at:at] = nodes
    copies = [NodeProto.FromString(node.SerializeToString()) for node in rows]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def with_head(nodes: list[NodeProto], shape: list[int | str], constants: dict[str, np.ndarray]) -> ModelProto:
    """The two blocks with other nodes behind r1 [b, 5, TIME, MODAL]."""
    model = build(NETWORK)
    kept = [NodeProto.FromString(n.SerializeToString()) for n in list(model.graph.node)[:-3]]
    del model.graph.node[:]
    model.graph.node.extend([*kept, *nodes])
    for name, value in constants.items():
        constant(model, name, value)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.DOUBLE, shape))
    return model


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape)


# Rule 1


@pytest.mark.parametrize("options", OPTIONS, ids=["onnxruntime", "tensorrt"])
def test_rule_1_a_convolution_that_mixes_modal_is_left_alone_and_the_rest_is_done(options: GemmOptions) -> None:
    network = Network((Layer(4), Layer(5, kernel_m=3), Layer(6)))
    made, report = check(build(network), options, network)
    assert calls(made) == ["att1"]
    assert report.details == ("att0", "att2")
    (miss,) = report.near_misses
    assert miss.node == "att1"
    assert miss.reason.startswith("its convolution 'conv1': its kernel [3, 3]")
    assert operators(made).count("Transpose") == 2  # out and in again


def test_rule_1_nothing_is_touched_where_no_block_can_be_done() -> None:
    model = build(Network((Layer(4, kernel_m=3), Layer(5, kernel_m=3))))
    made, reports = rewrite(model, GemmForm())
    assert made == model
    assert reports[0].changed == 0
    assert [miss.node for miss in reports[0].near_misses] == ["att0", "att1"]


def _grouped(model: ModelProto) -> None:
    set_attribute(node_of(model, "conv1"), "group", 2)
    constant(model, "w1", noise(6, 2, 3, 1))


def _computed(model: ModelProto) -> None:
    behind(model, "normalised", [helper.make_node("Neg", ["w1_"], ["w1"], name="negative")], "normalised")
    weight = next(t for t in model.graph.initializer if t.name == "w1")
    weight.name = "w1_"


def _strided(model: ModelProto) -> None:
    set_attribute(node_of(model, "conv1"), "strides", [2, 2])
    constant(model, "fc.weight", noise(4, 6 * 2))


def _auto_padded(model: ModelProto) -> None:
    set_attribute(node_of(model, "conv1"), "pads", None)
    set_attribute(node_of(model, "conv1"), "auto_pad", "SAME_UPPER")


def _longer_gate(model: ModelProto) -> None:
    # Of 3 steps behind one, the gate's map has one time step that all others are multiplied by.
    set_attribute(node_of(model, "att1"), "pads", [0, 0, 0, 0])
    constant(model, "aw1", noise(1, 1, 8, 1))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_grouped, "its convolution 'conv1': it has 2 groups"),
        (_computed, "the weights of 'conv1' are computed"),
        (_strided, "its convolution 'conv1': its kernel [3, 1] with strides [2, 2]"),
        (_auto_padded, "'conv1' pads by auto_pad"),
        (_longer_gate, "its gate's pads [0, 0, 0, 0] change the size with a kernel of [8, 1]"),
    ],
    ids=["groups", "computed", "strides", "auto_pad", "gate"],
)
def test_rules_1_and_2_say_why_a_block_is_left_alone(edit: Callable[[ModelProto], None], reason: str) -> None:
    network = Network((Layer(4), Layer(6)))
    made, report = check(edited(edit, network), ONNXRUNTIME, network)
    assert calls(made) == ["att1"]
    assert report.details == ("att0",)
    assert [miss.node for miss in report.near_misses if miss.reason.startswith(reason)] == ["att1"]


def test_rule_1_dilation_and_uneven_padding() -> None:
    def edit(model: ModelProto) -> None:
        for name, value in (("dilations", [2, 1]), ("pads", [3, 0, 1, 0])):
            set_attribute(node_of(model, "conv1"), name, value)

    _, report = check(edited(edit), ONNXRUNTIME)
    assert not report.near_misses


@pytest.mark.parametrize("options", OPTIONS, ids=["onnxruntime", "tensorrt"])
def test_rule_1_a_plain_convolution_between_blocks_takes_its_batch_normalization_in(options: GemmOptions) -> None:
    def edit(model: ModelProto) -> None:
        constant(model, "w", noise(7, 4, 1, 1))
        constant(model, "v", noise(4, 7, 3, 1))
        nodes = [
            helper.make_node("Conv", ["r0", "w"], ["p0"], name="plain"),
            helper.make_node("Relu", ["p0"], ["p1"], name="between"),
            helper.make_node("Conv", ["p1", "v"], ["p2"], name="normed", pads=[1, 0, 1, 0]),
            helper.make_node("BatchNormalization", ["p2", "gamma0", "beta0", "mu0", "var0"], ["p3"], name="norm"),
        ]
        behind(model, "r0", nodes, "p3")

    made, report = check(edited(edit), options)
    assert not report.near_misses
    assert {node_of(made, name).op_type for name in ("plain", "normed")} == {"Gemm"}
    assert "norm.scale" not in {node.name for node in made.graph.node}


# Rules 2 and 3


@pytest.mark.parametrize("options", OPTIONS, ids=["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("pooling", ["mean", "mean+max"])
def test_rule_2_a_gate_over_both_axes_is_a_convolution(options: GemmOptions, pooling: str) -> None:
    network = Network((Layer(4, attention_m=3, pooling=pooling), Layer(5, attention=1, attention_m=4)))
    made, report = check(build(network), options, network)
    assert not report.near_misses
    assert operators(made).count("Conv") == 2


@pytest.mark.parametrize("options", OPTIONS, ids=["onnxruntime", "tensorrt"])
def test_rule_2_a_map_that_something_else_reads_is_pooled_as_it_is(options: GemmOptions) -> None:
    def edit(model: ModelProto) -> None:
        behind(model, "z1", [helper.make_node("Add", ["z1", "y1"], ["both"], name="add")], "both")
        node_of(model, "add").input[0] = "z1"

    made, report = check(edited(edit), options)
    assert not report.near_misses
    assert report.details == ("att0", "att1")
    assert node_of(made, "att1.mean").op_type == "ReduceMean"


def test_rule_2_what_feeds_a_block_may_be_anything_over_rows() -> None:
    def edit(model: ModelProto) -> None:
        behind(model, "y1", [helper.make_node("Tanh", ["y1"], ["soft"], name="tanh")], "soft")
        node_of(model, "tanh").input[0] = "y1"

    _, report = check(edited(edit), ONNXRUNTIME)
    assert report.details == ("att0", "att1")
    assert not report.near_misses


def test_rule_3_a_maximum_sees_the_map_unscaled() -> None:
    network = Network((Layer(4, pooling="max"), Layer(5)))
    made, _ = check(build(network), ONNXRUNTIME, network)
    names = {node.name for node in made.graph.node}
    assert "bn0.scale" in names
    assert "bn1.scale" not in names


# Rules 4 to 6: between the blocks


BETWEEN = {
    "LeakyRelu": ([helper.make_node("LeakyRelu", ["r0"], ["out"], name="between", alpha=0.3)], {}),
    "Clip": ([helper.make_node("Clip", ["r0", "k", "l"], ["out"], name="between")], {"k": noise(), "l": noise() + 2}),
    "number": ([helper.make_node("Sub", ["k", "r0"], ["out"], name="between")], {"k": noise(1, 1, 1)}),
    "per map": ([helper.make_node("Mul", ["r0", "k"], ["out"], name="between")], {"k": noise(1, 4, 1, 1)}),
    "skip": ([helper.make_node("Add", ["z0", "r0"], ["out"], name="between")], {}),
    "norm": (
        [helper.make_node("BatchNormalization", ["r0", "beta0", "gamma0", "mu0", "var0"], ["out"], name="between")],
        {},
    ),
}


@pytest.mark.parametrize("what", BETWEEN)
def test_rules_4_to_6_stay_over_rows(what: str) -> None:
    nodes, constants = BETWEEN[what]

    def edit(model: ModelProto) -> None:
        for name, value in constants.items():
            constant(model, name, np.asarray(value))
        first = nodes[0].input[:]
        behind(model, "r0", [NodeProto.FromString(nodes[0].SerializeToString())], "out")
        node_of(model, "between").input[:] = first

    made, report = check(edited(edit), ONNXRUNTIME)
    assert not report.near_misses
    assert "Transpose" not in operators(made)


def test_control_numbers_along_modal_and_other_operators_leave_the_rows_and_are_named() -> None:
    def edit(model: ModelProto) -> None:
        constant(model, "k", noise(1, 1, 1, MODAL))
        nodes = [
            helper.make_node("Mul", ["r0", "k"], ["weighted"], name="weigh"),
            helper.make_node("Softmax", ["weighted"], ["out"], name="soft", axis=1),
        ]
        behind(model, "r0", nodes, "out")
        node_of(model, "weigh").input[0] = "r0"

    made, report = check(edited(edit), ONNXRUNTIME)
    (miss,) = report.near_misses  # behind it the map is as it was
    assert miss.node == "weigh"
    assert "numbers for each feature map" in miss.reason
    assert report.details == ("att0", "att1")
    assert operators(made).count("Transpose") == 2


# Rules 7 to 9: pool and classifier


def _pooled(op_type: str, **attributes: object) -> list[NodeProto]:
    return [
        helper.make_node(op_type, ["r1"], ["p"], name="pool", **attributes),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "v"], ["logits"], name="fc"),
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=["onnxruntime", "tensorrt"])
@pytest.mark.parametrize(
    ("nodes", "modal"),
    [
        (_pooled("ReduceMean", axes=[-2]), MODAL),
        (_pooled("AveragePool", kernel_shape=[TIME, 1]), MODAL),
        (_pooled("ReduceMean", axes=[-1, 2]), 1),
        (_pooled("GlobalAveragePool"), 1),
    ],
    ids=["mean", "average", "both", "global"],
)
def test_rules_7_to_9_pool_flatten_and_product(options: GemmOptions, nodes: list[NodeProto], modal: int) -> None:
    made, report = check(with_head(nodes, ["batch", 3], {"v": noise(5 * modal, 3)}), options)
    assert not report.near_misses
    assert "Transpose" not in operators(made)


@pytest.mark.parametrize(
    ("nodes", "size", "node"),
    [
        (_pooled("ReduceMean", axes=[3]), TIME, "pool"),
        (_pooled("ReduceMax", axes=[2]), MODAL, "pool"),
        (_pooled("AveragePool", kernel_shape=[TIME - 1, 1]), 2 * MODAL, "pool"),
    ],
    ids=["modal", "max", "part"],
)
def test_control_other_pools_leave_the_rows_and_are_named(nodes: list[NodeProto], size: int, node: str) -> None:
    _, report = check(with_head(nodes, ["batch", 3], {"v": noise(5 * size, 3)}), ONNXRUNTIME)
    assert [miss.node for miss in report.near_misses] == [node]


def test_rules_8_and_9_without_a_pool_and_with_an_activation_in_front_of_the_product() -> None:
    nodes = [
        helper.make_node("Reshape", ["r1", "shape"], ["f"], name="flatten"),
        helper.make_node("Sub", ["f", "k"], ["g"], name="sub"),
        helper.make_node("Tanh", ["g"], ["h"], name="tanh"),
        helper.make_node("Gemm", ["h", "v", "b"], ["logits"], name="fc", alpha=0.5, beta=2.0),
    ]
    constants = {"shape": np.array([0, -1]), "k": noise(1), "v": noise(5 * TIME * MODAL, 3), "b": noise(3)}
    made, report = check(with_head(nodes, ["batch", 3], constants), ONNXRUNTIME)
    assert not report.near_misses
    assert "Transpose" not in operators(made)


def test_control_a_reader_that_needs_the_order_of_what_was_flattened_gets_it() -> None:
    nodes = [
        helper.make_node("Flatten", ["r1"], ["f"], name="flatten"),
        helper.make_node("CumSum", ["f", "axis"], ["logits"], name="sum"),
    ]
    made, report = check(with_head(nodes, ["batch", 5 * TIME * MODAL], {"axis": np.array(1)}), ONNXRUNTIME)
    assert [miss.node for miss in report.near_misses] == ["sum"]
    assert operators(made)[-3:] == ["Transpose", "Reshape", "CumSum"]


def test_an_output_of_the_graph_comes_back_as_it_was() -> None:
    nodes = [helper.make_node("Abs", ["r1"], ["logits"], name="abs")]
    made, report = check(with_head(nodes, ["batch", 5, TIME, MODAL], {}), ONNXRUNTIME)
    assert not report.near_misses
    assert made.graph.node[-1].op_type == "Transpose"
