"""Each pass on the smallest graph it is for, on one it must leave alone, and the manager that watches them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from sattn_edge.errors import CheckpointError
from sattn_edge.graph import attribute
from sattn_edge.passes import PassReport, run_passes
from sattn_edge.passes.base import BrokenPassError
from sattn_edge.passes.prune import Prune
from sattn_edge.passes.static_pool import StaticPool
from sattn_export.passes.batch import FreeBatch
from sattn_export.passes.expand import DropExpand
from sattn_export.passes.interface import NameInterface
from sattn_export.passes.keep_axis import KeepPooledAxis
from sattn_export.passes.normalise import NormaliseInput
from sattn_export.passes.opset import ToOpset17
from sattn_export.passes.tidy import FoldTrivial, StripTraces
from tests.sattn_export.helpers_export import Array, graph_model, op_types, run_model

RNG = np.random.default_rng(0)
X: Array = RNG.normal(size=(3, 4, 8, 3)).astype(np.float32)
node = helper.make_node


def apply(model: ModelProto, *passes: Any) -> tuple[ModelProto, PassReport]:
    """Runs passes; the last one's report. The result is whole and computes the same."""
    made, reports = run_passes(model, list(passes))
    onnx.checker.check_model(made, full_check=True)
    return made, reports[-1]


def same(model: ModelProto, made: ModelProto, x: Array = X) -> None:
    np.testing.assert_allclose(run_model(made, x), run_model(model, x), rtol=1e-6, atol=1e-6)


class TestManager:
    def test_a_pass_that_breaks_the_graph_is_named(self) -> None:
        class Cuts:
            name = "cuts-the-wire"

            def __call__(self, model: ModelProto) -> PassReport:
                model.graph.node[0].input[0] = "nobody"
                return PassReport(self.name, 1)

        model = graph_model([node("Relu", ["x"], ["y"])])
        with pytest.raises(BrokenPassError, match="pass 'cuts-the-wire' left an invalid graph"):
            run_passes(model, [StripTraces(), Cuts(), Prune()])
        made, reports = run_passes(model, [StripTraces(), Cuts(), Prune()], stop_after=1)
        assert [r.name for r in reports] == ["strip-traces"]
        assert made.graph.node[0].input[0] == "x"

    def test_the_model_given_stays_as_it_is(self) -> None:
        model = graph_model([node("Identity", ["x"], ["a"]), node("Relu", ["a"], ["y"])])
        before = model.SerializeToString(deterministic=True)
        run_passes(model, [StripTraces(), FoldTrivial(), NameInterface(), Prune()])
        assert model.SerializeToString(deterministic=True) == before


class TestStripTraces:
    def test_texts_and_metadata_go(self) -> None:
        marker = "/home/somebody/train.py"
        model = graph_model([node("Add", ["x", "c"], ["y"])], {"c": np.ones(1, np.float32)})
        constant = helper.make_node("Constant", [], ["k"], value=helper.make_tensor("t", 1, [1], [1.0]))
        constant.attribute[0].t.doc_string = marker
        model.graph.node.insert(0, constant)
        model.producer_name = model.doc_string = model.graph.doc_string = marker
        first = model.graph.node[1]
        first.doc_string = marker
        first.metadata_props.add(key="stack", value=marker)
        first.attribute.append(helper.make_attribute("n", 1))
        first.attribute[0].doc_string = marker
        model.graph.initializer[0].doc_string = model.graph.input[0].doc_string = marker
        model.metadata_props.add(key="k", value=marker)
        StripTraces()(model)
        assert marker.encode() not in model.SerializeToString()
        assert model.graph.name == "sattn_edge"


class TestFoldTrivial:
    def test_constants_of_every_form_become_initializers(self) -> None:
        forms: dict[str, Any] = {
            "value": helper.make_tensor("t", 1, [2], [1.0, 2.0]),
            "value_float": 2.5,
            "value_floats": [1.0, 2.0],
            "value_int": 3,
            "value_ints": [4, 5],
        }
        for form, value in forms.items():
            model = graph_model([node("Identity", ["x"], ["y"])])
            model.graph.node.insert(0, node("Constant", [], ["k"], **{form: value}))
            made, _ = apply(model, FoldTrivial())
            found = onnx.numpy_helper.to_array(made.graph.initializer[0])
            wanted = onnx.numpy_helper.to_array(value) if form == "value" else np.asarray(value)
            np.testing.assert_array_equal(found, wanted)
            assert found.dtype.kind == wanted.dtype.kind
            assert op_types(made) == ["Identity"]

    def test_chains_of_identities_and_dropouts_go(self) -> None:
        nodes = [node("Identity", ["x"], ["a"]), node("Dropout", ["a"], ["b"]), node("Identity", ["b"], ["c"])]
        model = graph_model([*nodes, node("Relu", ["c"], ["y"])])
        made, report = apply(model, FoldTrivial())
        assert (op_types(made), report.changed) == (["Relu"], 3)
        same(model, made)

    def test_an_output_and_a_mask_that_is_read_stay(self) -> None:
        nodes = [node("Dropout", ["x"], ["a", "mask"]), node("Cast", ["mask"], ["m"], to=1)]
        model = graph_model([*nodes, node("Mul", ["a", "m"], ["z"]), node("Identity", ["z"], ["y"])])
        made, report = apply(model, FoldTrivial())
        assert report.changed == 0
        assert op_types(made) == op_types(model)


class TestPrune:
    def test_what_nobody_reads_goes(self) -> None:
        arrays = {"z": np.ones(1, np.float32), "a": np.ones(1, np.float32), "dead": np.ones(1, np.float32)}
        nodes = [node("Add", ["x", "z"], ["s"]), node("Neg", ["s"], ["n"]), node("Exp", ["n"], ["e"])]
        model = graph_model([*nodes, node("Mul", ["s", "a"], ["y"])], arrays)
        made, report = apply(model, Prune())
        assert op_types(made) == ["Add", "Mul"]
        assert [t.name for t in made.graph.initializer] == ["a", "z"]
        assert report.changed == 3
        same(model, made)


def _reduce18(op: str, axes: Any, **attributes: Any) -> ModelProto:
    arrays = {} if axes is None else {"axes": np.asarray(axes, np.int64)}
    inputs = ["x"] if axes is None else ["x", "axes"]
    return graph_model([node(op, inputs, ["y"], **attributes)], arrays, opset=18)


class TestToOpset17:
    @pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceL2", "ReduceSum"])
    @pytest.mark.parametrize("axes", [[1], [-1, 2], None, []])
    def test_axes_become_an_attribute(self, op: str, axes: Any) -> None:
        model = _reduce18(op, axes, keepdims=1, noop_with_empty_axes=0)
        made, _report = apply(model, ToOpset17("test"))
        assert (made.opset_import[0].version, made.ir_version) == (17, 8)
        if op != "ReduceSum":  # has its axes as an input at 17 too
            assert len(made.graph.node[0].input) == 1
            assert attribute(made.graph.node[0], "axes") == (axes or None)
        same(model, made)

    def test_axes_that_are_computed_or_do_nothing_are_refused(self) -> None:
        with pytest.raises(CheckpointError, match=r"the axes of node '' \(ReduceMean\) are empty; constant axes"):
            apply(_reduce18("ReduceMean", [], noop_with_empty_axes=1), ToOpset17("test"))
        with pytest.raises(CheckpointError, match="attribute 'noop_with_empty_axes' of node ''"):
            apply(_reduce18("ReduceMean", None, noop_with_empty_axes=1), ToOpset17("test"))
        computed = [node("Neg", ["minus"], ["axes"]), node("ReduceMean", ["x", "axes"], ["y"])]
        model = graph_model(computed, {"minus": np.array([-1])}, opset=18, y=("y", ["batch", 1, 8, 3]))
        with pytest.raises(CheckpointError, match="are computed; constant axes"):
            apply(model, ToOpset17("test"))

    @pytest.mark.parametrize(
        ("op", "attributes", "opset", "refused"),
        [
            ("AveragePool", {"kernel_shape": [2, 1], "dilations": [1, 1]}, 19, ""),
            ("AveragePool", {"kernel_shape": [2, 1], "dilations": [2, 1]}, 19, "attribute 'dilations'"),
            ("Cast", {"to": 1, "saturate": 1}, 19, ""),
            ("Cast", {"to": 1, "saturate": 0}, 19, "attribute 'saturate'"),
            ("Gelu", {}, 20, "operator Gelu of node 'n' is newer than opset 17"),
            ("Reshape", {"allowzero": 0}, 21, ""),
        ],
    )
    def test_newer_attributes_go_where_they_say_nothing(
        self, op: str, attributes: dict[str, Any], opset: int, refused: str
    ) -> None:
        arrays = {"s": np.array([0, 4, 8, 3])} if op == "Reshape" else {}
        model = graph_model([node(op, ["x", *arrays], ["y"], name="n", **attributes)], arrays, opset=opset, ir=9)
        if refused:
            with pytest.raises(CheckpointError, match=f"{refused}.*; export it at opset 17 or 18"):
                apply(model, ToOpset17("test"))
        else:
            made, _ = apply(model, ToOpset17("test"))
            same(model, made)

    def test_inputs_that_opset_17_lacks_are_refused(self) -> None:
        arrays = {"pads": np.array([1, 1]), "zero": np.float32(0), "axes": np.array([2])}
        model = graph_model([node("Pad", ["x", "pads", "zero", "axes"], ["y"])], arrays, opset=18)
        with pytest.raises(CheckpointError, match=r"its graph of opset 18 has no form at opset 17 .*Pad"):
            apply(model, ToOpset17("test"))

    def test_older_graphs_are_raised(self) -> None:
        model = graph_model([node("Squeeze", ["s"], ["y"], axes=[1])], x=("s", ["batch", 1, 8, 3]), opset=11, ir=6)
        made, report = apply(model, ToOpset17("test"))
        assert report.details[0] == "opset 11 -> 17"
        same(model, made, X[:, :1])


def _head(nodes: list[Any], arrays: dict[str, Any], batch: Any = "n", classes: int = 96) -> ModelProto:
    return graph_model(nodes, arrays, x=("x", [batch, 4, 8, 3]), y=("y", [batch, classes]))


class TestFreeBatch:
    def test_a_computed_shape_becomes_numbers(self) -> None:
        nodes = [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["b"], axis=0),
            node("Unsqueeze", ["b", "first"], ["b1"]),
            node("Concat", ["b1", "rest"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["y"]),
        ]
        arrays = {"zero": np.array(0), "first": np.array([0]), "rest": np.array([-1])}
        model = _head(nodes, arrays)
        made, _report = apply(model, FreeBatch("test"), Prune())
        assert op_types(made) == ["Reshape"]
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(made.graph.initializer[0]), [-1, 96])
        assert made.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        same(model, made)

    @pytest.mark.parametrize("target", [[1, 96], [-1, 96], [0, -1], [1, -1]])
    def test_a_batch_of_1_becomes_free(self, target: list[int]) -> None:
        model = _head([node("Reshape", ["x", "t"], ["y"])], {"t": np.array(target)}, batch=1)
        made, _ = apply(model, FreeBatch("test"))
        assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        singly = np.concatenate([run_model(model, X[i : i + 1]) for i in range(3)])
        np.testing.assert_array_equal(run_model(made, X), singly)

    def test_shapes_that_need_no_change_get_none(self) -> None:
        model = _head([node("Reshape", ["x", "t"], ["y"])], {"t": np.array([0, 96])})
        _, report = apply(model, FreeBatch("test"))
        assert report.changed == 0

    def test_a_network_that_mixes_windows_is_refused(self) -> None:
        model = _head([node("Reshape", ["x", "t"], ["y"])], {"t": np.array([-1, 48])}, classes=48)
        with pytest.raises(CheckpointError, match=r"for 1009 windows the network gives \[2018, 48\]; logits \["):
            apply(model, FreeBatch("test"))

    def test_a_shape_that_depends_on_data_is_refused(self) -> None:
        nodes = [node("Cast", ["x"], ["i"], to=7), node("ReduceMax", ["i"], ["t"], axes=[0, 1, 2], keepdims=0)]
        model = _head([*nodes, node("Reshape", ["x", "t"], ["y"])], {})
        with pytest.raises(CheckpointError, match="depends on its data"):
            apply(model, FreeBatch("test"))


class TestKeepPooledAxis:
    @pytest.mark.parametrize(("axes", "back"), [([1], [1]), ([-3], [1]), ([1, 2], [2, 1]), ([1], [-3])])
    def test_a_dropped_axis_that_is_put_back_stays(self, axes: list[int], back: list[int]) -> None:
        nodes = [node("ReduceMax", ["x"], ["r"], axes=axes, keepdims=0), node("Unsqueeze", ["r", "b"], ["y"])]
        model = graph_model(nodes, {"b": np.array(back)})
        made, report = apply(model, KeepPooledAxis())
        assert (op_types(made), report.changed) == (["ReduceMax"], 1)
        same(model, made)

    def test_another_axis_and_a_second_reader_stop_it(self) -> None:
        reduce = node("ReduceMean", ["x"], ["r"], axes=[1], keepdims=0)
        put_back = node("Unsqueeze", ["r", "b"], ["u"])
        elsewhere = [reduce, put_back, node("Relu", ["u"], ["y"])]
        read_twice = [reduce, put_back, node("Add", ["u", "r"], ["y"])]
        for nodes, axis in ((elsewhere, 2), (read_twice, 1)):
            model = graph_model(nodes, {"b": np.array([axis])})
            _, report = apply(model, KeepPooledAxis())
            assert report.changed == 0


class TestDropExpand:
    def _model(self, factor: str, *, tail: list[Any] | None = None) -> ModelProto:
        nodes = [
            node("ReduceMean", ["x"], ["g"], axes=[1], keepdims=1),
            node("Shape", ["x"], ["s"]),
            node("Expand", ["g", "s"], ["e"]),
            *(tail or [node("Mul", [factor, "e"], ["y"])]),
        ]
        return graph_model(nodes, {})

    def test_what_a_multiply_does_by_itself_goes(self) -> None:
        model = self._model("x")
        made, _report = apply(model, DropExpand(), Prune())
        assert op_types(made) == ["ReduceMean", "Mul"]
        same(model, made)

    def test_an_expand_that_shapes_the_result_stays(self) -> None:
        _, alone = apply(self._model("g"), DropExpand())
        assert alone.changed == 0
        other = [node("Mul", ["x", "e"], ["m"]), node("Add", ["m", "e"], ["y"])]
        _, read_twice = apply(self._model("x", tail=other), DropExpand())
        assert read_twice.changed == 0


class TestStaticPool:
    def test_a_pool_over_all_of_time_is_a_mean(self) -> None:
        model = graph_model([node("AveragePool", ["x"], ["y"], kernel_shape=[8, 1], name="pool")])
        made, report = apply(model, StaticPool())
        assert (op_types(made), report.details) == (["ReduceMean"], ("pool",))
        same(model, made)

    @pytest.mark.parametrize(
        ("attributes", "reason"),
        [
            ({"kernel_shape": [4, 1], "strides": [4, 1]}, r"its kernel \[4, 1\] is not the whole time axis \[8, 1\]"),
            ({"kernel_shape": [8, 3]}, "is not the whole time axis"),
            ({"kernel_shape": [8, 1], "pads": [1, 0, 1, 0]}, "it is padded"),
        ],
    )
    def test_other_pools_stay(self, attributes: dict[str, Any], reason: str) -> None:
        model = graph_model([node("AveragePool", ["x"], ["y"], name="pool", **attributes)])
        made, report = apply(model, StaticPool())
        assert op_types(made) == ["AveragePool"]
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(report.near_misses[0].reason)


class TestNormaliseInput:
    def test_windows_are_normalised_in_front(self) -> None:
        model = graph_model([node("Relu", ["x"], ["a"]), node("Add", ["a", "x"], ["y"])])
        made, _report = apply(model, NormaliseInput([1.0, -2.0, 0.5], [2.0, 0.5, 4.0]))
        assert op_types(made) == ["Sub", "Div", "Relu", "Add"]
        normal = (X - np.float32([1.0, -2.0, 0.5])) / np.float32([2.0, 0.5, 4.0])
        np.testing.assert_allclose(run_model(made, X), run_model(model, normal), rtol=0, atol=1e-6)

    def test_nothing_to_normalise_adds_nothing(self) -> None:
        model = graph_model([node("Relu", ["x"], ["y"])])
        made, report = apply(model, NormaliseInput([0.0] * 3, [1.0] * 3))
        assert (op_types(made), report.changed) == (["Relu"], 0)


class TestNameInterface:
    @pytest.mark.parametrize(
        ("takes", "gives", "inner"),
        [
            ("x", "y", "a"),
            ("logits", "window", "a"),
            ("window", "logits", "a"),
            ("x", "y", "window"),
            ("x", "y", "logits"),
            ("x", "window", "logits"),
            ("logits", "y", "window"),
            ("logits", "z", "window_inner"),
        ],
    )
    def test_any_names_give_way(self, takes: str, gives: str, inner: str) -> None:
        nodes = [node("Neg", [takes], [inner]), node("Add", [inner, "c"], [gives])]
        model = graph_model(nodes, {"c": np.ones(1, np.float32)}, x=(takes, ["b", 4, 8, 3]), y=(gives, None))
        made, _ = apply(model, NameInterface())
        assert (made.graph.input[0].name, made.graph.output[0].name) == ("window", "logits")
        assert all(n.name for n in made.graph.node)
        same(model, made)
