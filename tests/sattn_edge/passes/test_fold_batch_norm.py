"""BatchNormalization through the gate: each rule, broken, leaves it where it is, and what dividing costs in fp16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.graph import attribute, set_attribute
from sattn_edge.passes import Pass, PassReport
from sattn_edge.passes.composed import Composed
from sattn_edge.passes.fold_batch_norm import SMALLEST, FoldBatchNorm
from sattn_edge.passes.folded import Folded
from sattn_edge.passes.inline import InlineFunctions
from sattn_edge.passes.mean_conv import MeanConv
from sattn_edge.passes.taps import Taps
from tests.helpers_lowering import Layer, Network, assert_exact, build, operators, rewrite, windows

MAPS = 4
node = helper.make_node


def named(model: ModelProto, name: str) -> NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def folded(model: ModelProto, x: np.ndarray) -> tuple[ModelProto, PassReport]:
    """The model after the pass, which computes the same whatever the pass did."""
    made, (report,) = rewrite(model, FoldBatchNorm())
    assert_exact(model, made, x)
    return made, report


def small(nodes: list[NodeProto], k: list[float] | None = None, arrays: dict[str, Any] | None = None) -> ModelProto:
    """`nodes` after y = conv(x) [n, 4, 8, 3] that end in z, BatchNormalization of v into z; scales k."""
    rng = np.random.default_rng(0)
    scale = np.array([1.5, -0.5, 2.0, -1.0] if k is None else k)
    made = {
        "w": rng.normal(size=(MAPS, 2, 3, 1)),
        "b": rng.normal(size=MAPS),
        "gamma": scale * np.sqrt(1 + 1e-5),
        "beta": rng.normal(size=MAPS),
        "mean": rng.normal(size=MAPS),
        "var": np.ones(MAPS),
        "v4": rng.normal(size=(1, MAPS, 3, 1)),
        "a1": rng.normal(size=1),
        "u1": rng.normal(size=(1, 2, 1, 1)),
        "u4": rng.normal(size=(MAPS, 2, 1, 1)),
        **(arrays or {}),
    }
    conv = node("Conv", ["x", "w", "b"], ["y"], name="conv", pads=[1, 0, 1, 0])
    graph = helper.make_graph(
        [conv, *nodes],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["batch", 2, 8, 3])],
        [helper.make_tensor_value_info("z", TensorProto.DOUBLE, ["batch", None, None, None])],
        [numpy_helper.from_array(value, name) for name, value in made.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


NORM = node("BatchNormalization", ["v", "gamma", "beta", "mean", "var"], ["z"], name="norm")
FROM_X = [node("Conv", ["x", "u1"], ["m"], name="gate"), node("Sigmoid", ["m"], ["g"])]
BY_CONV = [node("Conv", ["y", "v4", "a1"], ["m"], name="gate", pads=[1, 0, 1, 0]), node("Sigmoid", ["m"], ["g"])]
BY_MEAN = [node("ReduceMean", ["y"], ["m"], name="gate", axes=[1]), node("Sigmoid", ["m"], ["g"])]
BY_MAX = [node("ReduceMax", ["y"], ["m"], name="gate", axes=[1]), node("Sigmoid", ["m"], ["g"])]
GATED = [node("Mul", ["y", "g"], ["v"], name="multiply"), NORM]
X = np.random.default_rng(1).normal(size=(3, 2, 8, 3))


class TestWhatIsWritten:
    @pytest.mark.parametrize("gate", [FROM_X, BY_CONV, BY_MEAN], ids=["from x", "by conv", "by mean"])
    @pytest.mark.parametrize("swapped", [False, True])
    def test_scales_into_the_conv_and_shifts_after_the_gate(self, gate: list[NodeProto], swapped: bool) -> None:
        multiply = node("Mul", ["g", "y"], ["v"], name="multiply") if swapped else GATED[0]
        made, report = folded(small([*gate, multiply, NORM]), X)
        assert (report.changed, report.details, report.near_misses) == (1, ("norm",), ())
        assert operators(made) == ["Conv", "Conv", "Sigmoid", "Mul", "Add"]
        assert [n.name for n in made.graph.node if n.name] == ["conv", "gate", "multiply", "norm"]

    def test_a_mean_becomes_a_conv_of_one_tap(self) -> None:
        made, _ = folded(small([*BY_MEAN, *GATED]), X)
        (weight,) = (t for t in made.graph.initializer if t.name == named(made, "gate").input[1])
        np.testing.assert_allclose(
            numpy_helper.to_array(weight)[0, :, 0, 0], 1 / (4 * np.array([1.5, -0.5, 2.0, -1.0]))
        )

    def test_a_conv_without_a_bias_gets_none(self) -> None:
        model = small([*BY_CONV, *GATED])
        del named(model, "conv").input[2]
        made, report = folded(model, X)
        assert report.changed == 1
        assert len(named(made, "conv").input) == 2

    @pytest.mark.parametrize("bias", [True, False])
    def test_a_plain_conv_takes_scale_and_shift(self, bias: bool) -> None:
        norm = NodeProto()
        norm.CopyFrom(NORM)
        norm.input[0] = "y"
        model = small([norm])
        if not bias:
            del named(model, "conv").input[2]
        made, report = folded(model, X)
        assert (operators(made), report.changed) == (["Conv"], 1)

    def test_two_convs_multiplied(self) -> None:
        """Either could take the scale; one does, and once."""
        nodes = [node("Conv", ["x", "u4"], ["g"], name="other"), *GATED]
        made, report = folded(small(nodes), X)
        assert (operators(made), report.changed) == (["Conv", "Conv", "Mul", "Add"], 1)
        assert [named(made, n).input[1] for n in ("conv", "other")] == ["conv.weight", "u4"]

    def test_a_conv_that_is_scaled_for_one_block_and_divided_for_another(self) -> None:
        arrays = {"w2": np.random.default_rng(2).normal(size=(MAPS, MAPS, 1, 1))}
        nodes = [
            node("Conv", ["y", "w2", "b"], ["y2"], name="second"),
            *FROM_X,
            *GATED[:1],
            node("BatchNormalization", ["v", "gamma", "beta", "mean", "var"], ["z1"], name="norm1"),
            node("Mul", ["y2", "g"], ["v2"]),
            node("BatchNormalization", ["v2", "beta", "gamma", "mean", "var"], ["z2"], name="norm2"),
            node("Add", ["z1", "z2"], ["z"]),
        ]
        _, report = folded(small(nodes, arrays=arrays), X)
        assert report.details == ("norm1", "norm2")

    def test_weights_shared_by_two_convs_are_scaled_for_one(self) -> None:
        nodes = [node("Conv", ["x", "w", "b"], ["same"], name="twin", pads=[1, 0, 1, 0]), *FROM_X, *GATED]
        nodes[-1] = node("BatchNormalization", ["v", "gamma", "beta", "mean", "var"], ["n"], name="norm")
        _, report = folded(small([*nodes, node("Add", ["n", "same"], ["z"])]), X)
        assert report.changed == 1


def stop(nodes: list[NodeProto], reason: str, **changes: Any) -> Any:
    return pytest.param(nodes, reason, changes, id=reason[:40])


def with_readers(nodes: list[NodeProto], *extra: NodeProto, value: str = "n") -> list[NodeProto]:
    """The same, but BatchNormalization gives `n`, from which `extra` make z."""
    norm = NodeProto()
    norm.CopyFrom(nodes[-1])
    norm.output[0] = value
    return [*nodes[:-1], norm, *extra]


class TestWhatStays:
    @pytest.mark.parametrize(
        ("nodes", "reason", "changes"),
        [
            stop([node("Relu", ["y"], ["v"]), NORM], "it reads Relu, not a convolution or a gate's product"),
            stop(
                [node("Relu", ["y"], ["r"]), *BY_CONV, node("Mul", ["r", "g"], ["v"]), NORM],
                "it reads a product, but not of a convolution and a gate",
            ),
            stop([node("Mul", ["y", "y"], ["v"]), NORM], "it reads a product, but not of a convolution and a gate"),
            stop([*BY_MAX, *GATED], "'gate' (ReduceMax) reads 'conv' too, and can't be divided by the scale"),
            stop(
                with_readers([*FROM_X, *GATED], node("Add", ["n", "v"], ["z"])),
                "something else reads what it normalises",
            ),
            stop(
                with_readers([*FROM_X, *GATED], node("Add", ["n", "y"], ["z"], name="skip")),
                "'skip' (Add) reads 'conv' too, and can't be divided by the scale",
            ),
            stop(
                [*BY_CONV, *GATED],
                "the gate reads the map and would be divided by the scale, which is 0 for map 1 and up to 2 for others",
                k=[1.0, 0.0, 2.0, 1.0],
            ),
            stop(
                [*BY_MEAN, *GATED],
                "would be divided by the scale, which is -0.0019 for map 3 and up to 2 for others",
                k=[1.0, -0.5, 2.0, -0.0019],
            ),
            stop([*BY_CONV, *GATED], "which is 0 for map 0 and up to 0 for others", k=[0.0] * 4),
        ],
    )
    def test_rules_1_to_4(self, nodes: list[NodeProto], reason: str, changes: dict[str, Any]) -> None:
        model = small(nodes, **changes)
        made, report = folded(model, X)
        assert report.changed == 0
        assert made == model
        (miss,) = report.near_misses
        assert miss.node == "norm"
        assert reason in miss.reason

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda m: computed(m, "gamma", "norm", 1), "its constants are computed"),
            (lambda m: computed(m, "w", "conv", 1), "the weights of 'conv' are computed"),
            (lambda m: computed(m, "v4", "gate", 1), "'gate' (Conv) reads 'conv' too"),
            (lambda m: output(m, "y"), "'conv' is an output"),
        ],
        ids=["constants", "weights", "gate", "output"],
    )
    def test_what_is_computed_or_leaves_the_graph(self, change: Callable[[ModelProto], Any], reason: str) -> None:
        model = small([*BY_CONV, *GATED])
        change(model)
        _, report = folded(model, X)
        assert report.changed == 0
        assert reason in report.near_misses[0].reason

    def test_training_is_not_inference(self) -> None:
        model = small([*FROM_X, *GATED])
        set_attribute(named(model, "norm"), "training_mode", 1)
        named(model, "norm").output.extend(["running.mean", "running.var"])
        (report,) = rewrite(model, FoldBatchNorm())[1]
        assert (report.changed, report.near_misses[0].reason) == (0, "it is set to training")

    @pytest.mark.parametrize(("axes", "keep", "changed"), [([-3], 1, 1), ([1], 0, 0), ([1, 2], 1, 0)])
    def test_only_a_mean_over_maps_is_divided(self, axes: list[int], keep: int, changed: int) -> None:
        reduce = node("ReduceMean", ["y"], ["m0"], name="gate", axes=axes, keepdims=keep)
        back = node("Unsqueeze", ["m0", "one"], ["m"]) if not keep else node("Identity", ["m0"], ["m"])
        model = small([reduce, back, BY_MEAN[1], *GATED], arrays={"one": np.array([1])})
        _, report = folded(model, X)
        assert report.changed == changed

    def test_a_conv_of_one_map_under_a_gate_of_many(self) -> None:
        nodes = [node("Conv", ["x", "u1"], ["p"], name="single"), node("Mul", ["p", "many"], ["v"]), NORM]
        _, report = folded(small(nodes, arrays={"many": np.arange(4.0).reshape(1, 4, 1, 1)}), X)
        assert report.changed == 0
        assert "'single' gives [None, 1, 8, 3], not [batch, 4, time, channels]" in report.near_misses[0].reason


def computed(model: ModelProto, name: str, reader: str, at: int) -> None:
    """A constant that a node makes."""
    model.graph.node.insert(0, node("Identity", [name], ["computed"]))
    named(model, reader).input[at] = "computed"


def output(model: ModelProto, value: str) -> None:
    model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.DOUBLE, ["batch", None, None, None]))


class TestZeroScales:
    @pytest.mark.parametrize(("form", "folds"), [(Folded(), 0), (Taps(), 0), (MeanConv(), 2), (Composed(), 2)])
    def test_a_scale_of_0_matters_only_where_it_is_divided_by(self, form: Pass, folds: int) -> None:
        network = Network((Layer(4), Layer(6)), zero_scales=1)
        model = build(network)
        made, reports = rewrite(model, form, InlineFunctions(), FoldBatchNorm())
        assert (reports[-1].changed, len(reports[-1].near_misses)) == (folds, 2 - folds)
        assert_exact(model, made, windows(network))

    def test_a_block_that_keeps_its_call_is_folded_by_its_mean(self) -> None:
        """Form composed can't write a gate over channels; opened as it is, the mean is divided."""
        network = Network((Layer(4, attention_m=3),), seed=3)
        model = build(network)
        made, reports = rewrite(model, Composed(), InlineFunctions(), FoldBatchNorm())
        assert [report.changed for report in reports] == [0, 1, 1]
        assert_exact(model, made, windows(network))


class TestWhatDividingCosts:
    """The numbers of the module's text, for `SMALLEST`."""

    def beyond_rounding(self, k: float) -> float:
        """By how much y' = k y in fp16, divided by k, is off beyond the half unit that any y is."""
        y = np.random.default_rng(0).normal(size=20_000)
        error = np.abs((k * y).astype(np.float16).astype(np.float64) / k - y)
        return float((error - np.abs(y) * 2.0**-11).max())

    def test_in_fp16_the_smallest_scale_costs_a_tenth_of_rounding(self) -> None:
        assert self.beyond_rounding(1.0) <= 3e-8
        assert 1e-5 < self.beyond_rounding(SMALLEST) <= 3e-5
        assert self.beyond_rounding(SMALLEST / 100) > 2.0**-11

    @settings(max_examples=50)
    @given(k=st.floats(1e-30, 1e30))
    def test_in_fp32_no_scale_costs_more_than_two_roundings(self, k: float) -> None:
        y = np.random.default_rng(0).normal(size=1000).astype(np.float32)
        back = (y * np.float32(k)) / np.float32(k)
        assert np.abs(back / y - 1).max() <= 2 * np.finfo(np.float32).eps


def test_names_and_attributes_of_the_main_conv_stay() -> None:
    model = build(Network())
    made, _ = rewrite(model, Composed(), InlineFunctions(), FoldBatchNorm())
    for name in ("conv0", "conv1"):
        assert attribute(named(made, name), "strides") == attribute(named(model, name), "strides")
    assert "BatchNormalization" not in operators(made)
