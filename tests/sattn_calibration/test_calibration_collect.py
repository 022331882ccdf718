from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sattn_calibration.collect import collect, main_products
from sattn_calibration.histogram import histogram
from sattn_edge.cost import cost
from sattn_edge.errors import ModelFileError
from tests.helpers_onnx import make_model

WIDTHS = (4, 8)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(10, 1, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("pooling", ["mean", "max", "mean+max"])
def test_main_products_are_convs_and_the_classifier_without_gates(pooling):
    products = main_products(make_model(WIDTHS, pooling=pooling))
    assert [p.op for p in products] == ["Conv", "Conv", "Gemm"]
    assert [p.weight.shape[p.axis] for p in products] == [4, 8, 4]
    assert [p.terms for p in products] == [3, 4 * 3, 8 * 3]
    assert products[0].input == "normalised"
    assert all(p.weight.dtype == np.float64 for p in products)


def test_multiply_adds_are_of_one_window_and_leave_the_gates_out():
    model = make_model(WIDTHS)
    products = main_products(model)
    gates = sum(16 // 2**i * 3 * 3 for i in range(2))  # map of [t, 3], three taps
    assert sum(p.multiply_adds for p in products) == cost(model).multiply_adds - gates
    assert products[0].multiply_adds == 16 * 3 * 4 * 3


def test_the_largest_weight_of_each_output_channel():
    model = make_model(WIDTHS)
    conv, _, fc = main_products(model)
    assert conv.weight_maximum.tolist() == [float(np.abs(conv.weight[o]).max()) for o in range(4)]
    assert fc.weight_maximum.shape == (4,)


def product_model(op: str, weight: np.ndarray, **attributes: int) -> onnx.ModelProto:
    """[b, k] -> one product; the second operand can be an input."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], name="product", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "axis"),
    [("MatMul", (3, 2), {}, 1), ("Gemm", (3, 2), {}, 1), ("Gemm", (2, 3), {"transB": 1}, 0)],
)
def test_output_channels_of_each_product(op, shape, attributes, axis):
    weight = np.arange(6, dtype=np.float32).reshape(shape)
    (found,) = main_products(product_model(op, weight, **attributes))
    assert found.axis == axis
    assert found.terms == 3
    assert found.multiply_adds == 6
    assert found.weight_maximum.tolist() == np.abs(weight).max(axis=1 - axis).tolist()


def test_a_product_of_two_computed_values_is_none():
    model = product_model("MatMul", np.ones((3, 2), np.float32))
    del model.graph.initializer[:]
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2]))
    assert main_products(model) == []


def test_observations_are_of_the_values_the_reference_evaluator_gives(x):
    model = make_model(WIDTHS)
    names = [name for p in main_products(model) for name in (p.input, p.output)]
    found = collect(model, names, x, batch=4)
    assert list(found) == list(dict.fromkeys(names))
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {o.name for o in watched.graph.output}
    watched.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in found if n not in known)
    outputs = [o.name for o in watched.graph.output]
    values = dict(zip(outputs, ReferenceEvaluator(watched).run(None, {"input": x}), strict=True))
    for name, seen in found.items():
        wanted = values[name]
        assert seen.histogram.total == wanted.size
        assert seen.minimum == pytest.approx(wanted.min(), abs=1e-5)
        assert seen.maximum == pytest.approx(wanted.max(), abs=1e-5)
        others = tuple(i for i in range(wanted.ndim) if i != 1)
        assert np.allclose(seen.map_maximum, wanted.max(axis=others), rtol=0, atol=1e-5)
        assert np.allclose(seen.map_minimum, wanted.min(axis=others), rtol=0, atol=1e-5)
    assert found["normalised"].maximum != pytest.approx(found[names[1]].maximum, abs=1e-3)  # the control


def test_the_input_itself_can_be_watched(x):
    model = make_model(WIDTHS)
    alone = collect(model, ["input"], x, batch=3)["input"]
    beside = collect(model, ["input", "normalised"], x)["input"]
    assert alone.histogram.digest() == beside.histogram.digest() == histogram(x).digest()


def test_the_same_windows_give_the_same_digests(x):
    model = make_model(WIDTHS)
    names = [p.output for p in main_products(model)]
    one, two = collect(model, names, x), collect(model, names, x)
    assert [o.histogram.digest() for o in one.values()] == [o.histogram.digest() for o in two.values()]
    other = collect(model, names, x + np.float32(0.01))
    assert [o.histogram.digest() for o in one.values()] != [o.histogram.digest() for o in other.values()]


def test_neither_the_model_nor_the_windows_are_changed(x):
    model = make_model(WIDTHS)
    before, bytes_before = model.SerializeToString(deterministic=True), x.tobytes()
    collect(model, [p.output for p in main_products(model)], x)
    assert model.SerializeToString(deterministic=True) == before
    assert x.tobytes() == bytes_before


def test_a_value_that_overflows_is_refused(x):
    model = make_model(WIDTHS)
    with pytest.raises(ModelFileError, match=r"gives \d+ infinite or undefined values in 'normalised' .*sattn-verify"):
        collect(model, ["normalised"], np.full_like(x, 3e38) * np.float32([1, -1, 1]))


def test_no_such_value_and_no_window(x):
    model = make_model(WIDTHS)
    with pytest.raises(ValueError, match="no value 'nothing'"):
        collect(model, ["nothing"], x)
    with pytest.raises(ValueError, match="no window"):
        collect(model, ["input"], x[:0])
