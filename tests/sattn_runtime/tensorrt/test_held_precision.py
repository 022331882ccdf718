"""The precision an engine holds against the one that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sattn_edge.lowering import FORMS
from sattn_runtime.tensorrt.held_precision import held_precision, holds, product_inputs
from sattn_runtime.tensorrt.layers import EngineLayer, EngineTensor
from tests.helpers_lowering import Layer, Network
from tests.sattn_runtime.tensorrt.helpers_engines import by_type, layer, lowered

THREE = Network((Layer(4), Layer(6), Layer(8)), series=32, modal=3)
FP16 = {"conv0": "float32", "conv1": "float16", "conv2": "float16", "fc": "float32"}
INT8 = {**FP16, "conv1": "int8", "conv2": "int8"}
FP32 = dict.fromkeys(FP16, "float32")
HELD = {"fp32": FP32, "fp16": FP16, "int8": INT8}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", list(HELD))
def test_main_products_are_the_convolutions_and_the_classifier_in_every_form(form: str, precision: str) -> None:
    model = lowered(THREE, form, precision).model
    wanted = {name: dtype for name, dtype in HELD[precision].items() if (form, name) != ("gemm", "conv0")}  # taps
    assert product_inputs(model, by_type(HELD[precision])) == wanted
    assert holds(model, by_type(HELD[precision]), precision, typed=True) == ""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_in_float32_holds_neither(form: str, precision: str) -> None:
    model = lowered(THREE, form, precision).model
    asked = {"fp16": "float16", "int8": "int8"}[precision]
    assert (
        holds(model, by_type(FP32), precision, typed=True)
        == f"2 of 2 products read float32 instead of {asked}: conv1, conv2"
    )


def test_one_product_that_is_not_as_typed_is_enough() -> None:
    model = lowered(THREE, "reference", "int8").model
    held = by_type({**INT8, "conv2": "float16"})
    assert holds(model, held, "int8", typed=True) == "1 of 2 products read float16 instead of int8: conv2"


@pytest.mark.parametrize("dtype", ["float16", "int8", "bfloat16"])
def test_float32_is_float32_throughout(dtype: str) -> None:
    model = lowered(THREE, "reference", "fp32").model
    held = by_type({**FP32, "fc": dtype})
    assert holds(model, held, "fp32", typed=True) == f"1 of 4 products read {dtype} instead of float32: fc"
    assert holds(model, held, "fp32", typed=False) != ""


def test_by_flags_one_product_is_enough_and_none_is_not() -> None:
    half, quantised = (lowered(THREE, "gemm", p, typed=False).model for p in ("fp16", "int8"))
    assert holds(half, by_type({**FP32, "fc": "float16"}), "fp16", typed=False) == ""
    assert holds(quantised, by_type({**FP32, "conv1": "int8"}), "int8", typed=False) == ""
    assert holds(half, by_type(FP32), "fp16", typed=False).startswith("3 of 3 products read float32 instead of float16")
    assert holds(quantised, by_type(FP16), "int8", typed=False).startswith("2 of 2 products read float16")


def test_by_flags_an_int8_product_outside_the_quantised_ones_does_not_count() -> None:
    model = lowered(THREE, "gemm", "int8", typed=False).model
    assert holds(model, by_type({**FP32, "fc": "int8"}), "int8", typed=False) != ""


@pytest.mark.parametrize(
    ("precision", "wrong"),
    [
        ("fp16", "float32 throughout: the graph has no product that may be float16"),
        ("int8", "float32 or float16 throughout: no product of the graph is quantised"),
    ],
)
def test_a_graph_that_could_type_nothing_holds_nothing(precision: str, wrong: str) -> None:
    one = Network((Layer(4),), series=32, modal=3)
    assert holds(lowered(one, "reference", precision).model, by_type(FP32), precision, typed=True) == wrong


def read_by(*layers: EngineLayer, form: str = "reference", precision: str = "fp16") -> str:
    return product_inputs(lowered(THREE, form, precision).model, layers)["conv1"]


def test_what_computes_a_product_is_not_what_scales_its_sums() -> None:
    tail = layer(["conv1", "relu1"], reads=["float16"])
    product = layer(["conv1"], reads=["int8"], kind="gemm")
    assert read_by(product, tail, precision="int8") == "int8"
    assert read_by(tail, product, precision="int8") == "int8"
    assert read_by(layer(["conv1"], reads=["float32"]), precision="int8") == "float32"  # there is no other


def tensors(*rows: tuple[Sequence[int], str]) -> tuple[EngineTensor, ...]:
    return tuple(EngineTensor(f"t{i}", tuple(dims), dtype) for i, (dims, dtype) in enumerate(rows))


@pytest.mark.parametrize("batch", [1, -1])
def test_the_gate_that_a_kernel_reads_too_is_not_the_products_input(batch: int) -> None:
    reads = tensors(([batch, 1, 8, 3], "float32"), ([batch, 4, 16, 3], "float16"))
    assert read_by(EngineLayer("k", "runtime_fusion", reads, (), ("conv1", "att1.multiply"))) == "float16"


def test_of_inputs_of_no_fitting_size_only_their_common_type_tells() -> None:
    assert read_by(EngineLayer("k", "gemm", tensors(([5], "int8"), ([7], "int8")), (), ("conv1",))) == "int8"
    assert read_by(EngineLayer("k", "gemm", tensors(([5], "int8"), ([7], "float16")), (), ("conv1",))) == ""


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([], id="nothing listed"),
        pytest.param([layer(["conv1"], reads=())], id="no inputs told"),
        pytest.param([layer(["conv1"], reads=[""])], id="no type told"),
        pytest.param([layer(["conv1", "conv2"], reads=["float16"])], id="a region with two products"),
        pytest.param([layer(["z0.half", "relu0", "conv1"], reads=["float32"])], id="a kernel that converts its input"),
    ],
)
def test_what_does_not_tell_is_left_out(layers: list[EngineLayer]) -> None:
    model = lowered(THREE, "reference", "fp16").model
    assert "z0.half" in {node.name for node in model.graph.node}
    held = held_precision(model, layers, "fp16", typed=True)
    assert (held.inputs["conv1"], held.wrong, held.told) == ("", "", False)
    rest = held_precision(model, [*layers, layer(["fc"])], "fp16", typed=True)
    assert (rest.wrong, rest.told) == ("", True)


def test_control_a_kernel_that_does_not_convert_tells() -> None:
    assert read_by(layer(["relu0", "conv1"], reads=["float32"])) == "float32"
