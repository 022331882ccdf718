from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from sattn_edge.cost import cost, inlined
from tests.helpers_onnx import make_model


def by_hand(widths: tuple[int, ...], series: int, modal: int, classes: int, planes: int = 1) -> int:
    """Multiply-adds of the reference network with a stride of 2."""
    total, before, steps = 0, 1, series
    for width in widths:
        steps = (steps + 1) // 2
        total += steps * modal * (width * before * 3 + planes * 3)
        before = width
    return total + classes * before * modal


@pytest.mark.parametrize("widths", [(4,), (4, 8), (3, 5, 7)])
@pytest.mark.parametrize(("series", "modal", "classes"), [(32, 3, 4), (33, 1, 2), (7, 6, 5)])
def test_the_reference_network_by_hand(widths, series, modal, classes):
    found = cost(make_model(widths, series=series, modal=modal, classes=classes))
    assert found.multiply_adds == by_hand(widths, series, modal, classes)
    assert found.multiply_adds != by_hand(widths, series + 2, modal, classes)  # the control


def test_parameters_and_operators():
    model = make_model((4, 8))
    found = cost(model)
    assert found.parameters == sum(onnx.numpy_helper.to_array(t).size for t in model.graph.initializer)
    assert found.operators["Conv"] == 4  # each block's own and its gate's
    assert found.operators["Sigmoid"] == 2
    assert "SpatialAttention" not in found.operators
    assert list(found.operators.values()) == sorted(found.operators.values(), reverse=True)


def test_both_poolings_cost_a_plane_more():
    found = cost(make_model((4, 8), pooling="mean+max"))
    assert found.multiply_adds == by_hand((4, 8), 32, 3, 4, planes=2)


def test_counting_changes_nothing():
    model = make_model()
    before = model.SerializeToString(deterministic=True)
    cost(model)
    inlined(model)
    assert model.SerializeToString(deterministic=True) == before


def test_inlined_imports_what_it_uses():
    flat = inlined(make_model())
    assert [o.domain for o in flat.opset_import] == [""]
    assert len(flat.functions) == 0
    onnx.checker.check_model(flat)


def test_a_matrix_product():
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [7, 3], [0.0] * 21)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert cost(model).multiply_adds == 5 * 3 * 7
