"""The small passes: functions opened, pools over time, the batch as a number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from onnx import ModelProto, helper, numpy_helper

from sattn_edge.graph import Graph
from sattn_edge.passes.fix_batch import FixBatch
from sattn_edge.passes.inline import InlineFunctions
from sattn_edge.passes.static_pool import StaticPool
from tests.helpers_lowering import Network, assert_exact, build, evaluate, networks, operators, rewrite, windows


def dims(model: ModelProto) -> list[list[int | str]]:
    """Of the input and the output."""
    rows = [*model.graph.input, *model.graph.output]
    return [[d.dim_param or d.dim_value for d in row.type.tensor_type.shape.dim] for row in rows]


class TestInlineFunctions:
    @settings(max_examples=30)
    @given(network=networks())
    def test_rule_1_every_call_is_opened(self, network: Network) -> None:
        model = build(network)
        made, (report,) = rewrite(model, InlineFunctions())
        calls = tuple(f"att{i}" for i in range(len(network.layers)))
        assert (report.changed, report.details) == (len(calls), calls)
        assert not made.functions
        assert {node.domain for node in made.graph.node} == {""}
        assert [row.domain for row in made.opset_import] == [""]
        assert None not in [d for row in Graph(made, shapes=True).shapes.values() for d in row[1:]]
        assert_exact(model, made, windows(network))

    def test_the_model_given_is_the_one_that_changes(self) -> None:
        model = build(Network())
        helper.set_model_props(model, {"sattn_edge.format": "1"})
        InlineFunctions()(model)
        assert operators(model).count("Sigmoid") == 2
        assert model.metadata_props[0].key == "sattn_edge.format"

    def test_a_plain_model_stays_as_it_is(self) -> None:
        model, _ = rewrite(build(Network()), InlineFunctions())
        made, (report,) = rewrite(model, InlineFunctions())
        assert report.changed == 0
        assert made == model


def pooled(modal: int, op_type: str = "GlobalAveragePool") -> ModelProto:
    """The network with another pool."""
    network = Network(modal=modal)
    model = build(network)
    pool = next(node for node in model.graph.node if node.name == "pool")
    pool.CopyFrom(helper.make_node(op_type, list(pool.input), list(pool.output), name="pool"))
    if modal > 1:
        weight = next(t for t in model.graph.initializer if t.name == "fc.weight")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, :6], "fc.weight"))
    return model


class TestStaticPool:
    @settings(max_examples=30)
    @given(network=networks())
    def test_rule_1_a_pool_over_all_of_time_is_a_mean(self, network: Network) -> None:
        model = build(replace(network, pool="AveragePool"))
        made, (report,) = rewrite(model, StaticPool())
        assert (report.changed, report.details) == (1, ("pool",))
        assert "AveragePool" not in operators(made)
        assert_exact(model, made, windows(network))

    def test_rule_2_a_global_pool_of_one_channel_is_a_mean(self) -> None:
        model = pooled(1)
        number = numpy_helper.from_array(np.zeros(1))
        model.graph.node.append(helper.make_node("Constant", [], ["unread"], value=number))  # reads nothing: no input
        made, (report,) = rewrite(model, StaticPool())
        assert (report.changed, report.details) == (1, ("pool",))
        assert "GlobalAveragePool" not in operators(made)
        assert_exact(model, made, windows(Network(modal=1)))

    @pytest.mark.parametrize(("modal", "op_type"), [(3, "GlobalAveragePool"), (1, "GlobalMaxPool")])
    def test_rule_2_other_global_pools_stay(self, modal: int, op_type: str) -> None:
        model = pooled(modal, op_type)
        made, (report,) = rewrite(model, StaticPool())
        assert (report.changed, report.near_misses) == (0, ())
        assert made == model


class TestFixBatch:
    @pytest.mark.parametrize("flat", [[0, -1], [-1, 18]])
    @pytest.mark.parametrize("batch", [1, 5])
    def test_rule_1_a_free_batch_becomes_a_number(self, batch: int, flat: list[int]) -> None:
        network = Network()
        model = build(network)
        row = next(t for t in model.graph.initializer if t.name == "flat")
        row.CopyFrom(numpy_helper.from_array(np.array(flat), "flat"))
        model.graph.value_info.append(helper.make_tensor_value_info("r0", 11, ["batch", 4, 16, 3]))
        made, (_, report) = rewrite(model, InlineFunctions(), FixBatch(batch))
        assert (report.changed, report.details) == (1, (f"batch {batch}",))
        assert dims(made) == [[batch, 1, 32, 3], [batch, 4]]
        shapes = Graph(made, shapes=True).shapes
        assert all(None not in shapes[node.output[0]] for node in made.graph.node)
        assert shapes["r0"] == (batch, 4, 16, 3)
        x = windows(network, batch)
        np.testing.assert_array_equal(evaluate(made, x), evaluate(model, x))

    def test_the_number_it_is_already_is_no_change(self) -> None:
        model, _ = rewrite(build(Network()), FixBatch(2))
        made, (report,) = rewrite(model, FixBatch(2))
        assert (report.changed, report.near_misses) == (0, ())
        assert made == model

    def test_rule_2_another_number_stays(self) -> None:
        model, _ = rewrite(build(Network()), FixBatch(2))
        made, (report,) = rewrite(model, FixBatch(3))
        assert made == model
        assert report.changed == 0
        (miss,) = report.near_misses
        assert (miss.node, miss.reason) == ("window", "its batch is 2 already, not free")

    def test_no_windows_is_no_batch(self) -> None:
        with pytest.raises(ValueError, match="a batch of 0 windows"):
            FixBatch(0)
