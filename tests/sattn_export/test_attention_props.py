"""Finding attention blocks: any kernel, padding, order of operands and names; and each rule with what breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from sattn_edge.attention import FUNCTION_NAMES
from sattn_edge.cost import inlined
from sattn_edge.passes import run_passes
from sattn_export.passes.attention import FindAttention
from sattn_export.passes.opset import ToOpset17
from tests.sattn_export.helpers_export import Array, graph_model, op_types, run_model

RNG = np.random.default_rng(0)
X: Array = RNG.normal(size=(3, 4, 8, 3)).astype(np.float32)


def gate_model(
    *,
    pools: tuple[str, ...] = ("ReduceMean",),
    kernel: tuple[int, int] = (3, 1),
    before: tuple[int, int] | None = None,
    swapped: bool = False,
    bias: bool = True,
    axis: int = 1,
    axes_input: bool = False,
    auto_pad: str = "",
    kernel_shape: bool = True,
    prefix: str = "n",
    change: Callable[[dict[str, Any]], None] | None = None,
) -> ModelProto:
    """relu(x) through one gate. `change` may edit the parts: nodes as dicts by role, and the arrays."""
    before = before or ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    behind = (kernel[0] - 1 - before[0], kernel[1] - 1 - before[1])
    arrays: dict[str, Any] = {
        "weight": RNG.normal(size=(1, len(pools), *kernel)).astype(np.float32),
        "bias": RNG.normal(size=1).astype(np.float32),
    }
    conv: dict[str, Any] = {"auto_pad": auto_pad} if auto_pad else {"pads": [*before, *behind]}
    if kernel_shape:
        conv["kernel_shape"] = list(kernel)
    parts: dict[str, Any] = {"arrays": arrays, "relu": ("Relu", ["x"], ["a"], {})}
    for i, op in enumerate(pools):
        ins = ["a", "axes"] if axes_input else ["a"]
        parts[f"pool{i}"] = (op, ins, [f"p{i}"], {} if axes_input else {"axes": [axis], "keepdims": 1})
    if axes_input:
        arrays["axes"] = np.array([axis])
    if len(pools) == 2:
        parts["concat"] = ("Concat", ["p0", "p1"], ["p"], {"axis": axis})
    parts["conv"] = (
        "Conv",
        ["p" if len(pools) == 2 else "p0", "weight", *(["bias"] if bias else [])],
        ["q"],
        conv,
    )
    parts["sigmoid"] = ("Sigmoid", ["q"], ["s"], {})
    parts["mul"] = ("Mul", ["s", "a"] if swapped else ["a", "s"], ["m"], {})
    parts["last"] = ("Tanh", ["m"], ["y"], {})
    if change is not None:
        change(parts)
    rows = [v for k, v in parts.items() if k != "arrays"]
    nodes = [helper.make_node(op, ins, outs, name=f"{prefix}{i}", **kw) for i, (op, ins, outs, kw) in enumerate(rows)]
    return graph_model(nodes, arrays, opset=18 if axes_input else 17)


def find(model: ModelProto) -> tuple[ModelProto, Any]:
    made, reports = run_passes(model, [ToOpset17("test"), FindAttention()])
    onnx.checker.check_model(made, full_check=True)
    return made, reports[-1]


KINDS = {
    ("ReduceMean",): "mean",
    ("ReduceMax",): "max",
    ("ReduceMean", "ReduceMax"): "mean+max",
    ("ReduceMax", "ReduceMean"): "mean+max",
}


@settings(max_examples=60, deadline=None)
@given(
    pools=st.sampled_from(list(KINDS)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 3)),
    part=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    swapped=st.booleans(),
    bias=st.booleans(),
    axis=st.sampled_from([1, -3]),
    axes_input=st.booleans(),
    kernel_shape=st.booleans(),
    prefix=st.sampled_from(["", "node_", "/layer.0/att fc/"]),
)
def test_every_form_of_a_block_is_found_props(
    pools: tuple[str, ...],
    kernel: tuple[int, int],
    part: tuple[float, float],
    swapped: bool,
    bias: bool,
    axis: int,
    axes_input: bool,
    kernel_shape: bool,
    prefix: str,
) -> None:
    before = (round((kernel[0] - 1) * part[0]), round((kernel[1] - 1) * part[1]))
    model = gate_model(
        pools=pools, kernel=kernel, before=before, swapped=swapped, bias=bias, axis=axis,
        axes_input=axes_input, kernel_shape=kernel_shape, prefix=prefix,
    )  # fmt: skip
    made, report = find(model)
    assert (report.changed, report.near_misses) == (1, ())
    assert report.details[0].endswith(f": {KINDS[pools]}, kernel {kernel[0]}x{kernel[1]}")
    assert op_types(made) == ["Relu", FUNCTION_NAMES[KINDS[pools]], "Tanh"]  # type: ignore[index]
    assert [f.name for f in made.functions] == [made.graph.node[1].op_type]
    ours, theirs = run_model(made, X), run_model(model, X)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    np.testing.assert_allclose(run_model(inlined(made), X), theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel", [(3, 1), (4, 2), (5, 3)])
def test_padding_by_name_becomes_numbers(auto_pad: str, kernel: tuple[int, int]) -> None:
    model = gate_model(kernel=kernel, auto_pad=auto_pad)
    made, report = find(model)
    assert report.changed == 1
    np.testing.assert_allclose(run_model(made, X), run_model(model, X), rtol=0, atol=2e-6)


def _node(role: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Changes a node: `op`, `ins`, or attributes."""

    def change(parts: dict[str, Any]) -> None:
        op, ins, outs, attributes = parts[role]
        op, ins = changes.pop("op", op), changes.pop("ins", ins)
        parts[role] = (op, ins, outs, {**attributes, **changes})

    return change


def _weight(shape: tuple[int, ...], **attributes: Any) -> Callable[[dict[str, Any]], None]:
    def change(parts: dict[str, Any]) -> None:
        parts["arrays"]["weight"] = np.ones(shape, np.float32)
        parts["arrays"]["bias"] = np.ones(shape[0], np.float32)
        op, ins, outs, old = parts["conv"]
        parts["conv"] = (op, ins, outs, {**old, "kernel_shape": list(shape[2:]), **attributes})

    return change


def _also_read(value: str) -> Callable[[dict[str, Any]], None]:
    """Adds a second reader of a value: the sum goes into the result."""

    def change(parts: dict[str, Any]) -> None:
        parts["last"] = ("Add", ["m", value], ["y"], {})

    return change


def _two_multiplies(parts: dict[str, Any]) -> None:
    parts["again"] = ("Mul", ["a", "s"], ["m2"], {})
    parts["last"] = ("Add", ["m", "m2"], ["y"], {})
    parts["last"] = parts.pop("last")


def _pooled_elsewhere(parts: dict[str, Any]) -> None:
    parts["mul"] = ("Mul", ["x", "s"], ["m"], {})


def _no_pool(parts: dict[str, Any]) -> None:
    parts.pop("pool0")
    parts["arrays"]["weight"] = np.ones((1, 4, 3, 1), np.float32)
    parts["conv"] = ("Conv", ["x", "weight", "bias"], ["q"], {"pads": [1, 0, 1, 0]})


def _computed_weight(parts: dict[str, Any]) -> None:
    parts["conv"] = ("Conv", ["p0", "w2", "bias"], ["q"], {"pads": [1, 0, 1, 0]})
    parts["twice"] = ("Neg", ["weight"], ["w2"], {})
    tail = {k: parts.pop(k) for k in ("conv", "sigmoid", "mul", "last")}
    parts.update(tail)


def _norm_between(parts: dict[str, Any]) -> None:
    parts["conv"] = ("Conv", ["p0", "weight", "bias"], ["q0"], parts["conv"][3])
    parts["norm"] = ("Relu", ["q0"], ["q"], {})
    tail = {k: parts.pop(k) for k in ("sigmoid", "mul", "last")}
    parts.update(tail)


def _expanded(parts: dict[str, Any]) -> None:
    parts["arrays"]["shape"] = np.array([3, 4, 8, 3])
    parts["expand"] = ("Expand", ["s", "shape"], ["s2"], {})
    parts["mul"] = ("Mul", ["a", "s2"], ["m"], {})
    tail = {k: parts.pop(k) for k in ("mul", "last")}
    parts.update(tail)


def _two_means(parts: dict[str, Any]) -> None:
    parts["pool1"] = ("ReduceMean", ["a"], ["p1"], {"axes": [1], "keepdims": 1})


def _three_maps(parts: dict[str, Any]) -> None:
    _node("concat", ins=["p0", "p1", "p1"])(parts)
    _weight((1, 3, 3, 1))(parts)


BROKEN: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], None], str]] = {
    "1 gate: hard sigmoid": ({}, _node("sigmoid", op="HardSigmoid"), "the gate is HardSigmoid, not Sigmoid"),
    "1 gate: squared": ({}, _node("mul", ins=["s", "s"]), "the gate's map is used more than once"),
    "1 gate: expanded": ({}, _expanded, "the gate's map is expanded"),
    "2 conv: none": ({}, _norm_between, "the sigmoid reads Relu, not a convolution"),
    "2 conv: computed": ({}, _computed_weight, "weights are computed"),
    "2 conv: stride": ({}, _node("conv", strides=[1, 1], dilations=[2, 1], pads=[2, 0, 2, 0]), "stride or a dilation"),
    "2 conv: maps": ({}, _weight((4, 1, 3, 1)), "gives 4 maps, a spatial gate is 1"),
    "3 shape: padding": ({"kernel": (8, 1)}, _node("conv", pads=[0, 0, 0, 0]), r"kernel 8x1 with padding \[0, 0"),
    "4 pool: none": ({}, _no_pool, "reads the input itself, nothing is pooled"),
    "4 pool: minimum": ({}, _node("pool0", op="ReduceMin"), "pools by ReduceMin, not by mean or max"),
    "4 pool: time": ({}, _node("pool0", axes=[1, 2]), r"pools over axes \[1, 2\]"),
    "4 pool: two means": ({"pools": ("ReduceMean", "ReduceMax")}, _two_means, "by ReduceMean and ReduceMean"),
    "4 pool: three": ({"pools": ("ReduceMean", "ReduceMax")}, _three_maps, "does not join two maps along axis 1"),
    "5 same": ({}, _pooled_elsewhere, r"what is pooled \('a'\) is not what is multiplied \('x'\)"),
    "6 private: pool": ({}, _also_read("p0"), "inside the block is used elsewhere too"),
    "6 private: conv": ({}, _also_read("q"), "inside the block is used elsewhere too"),
    "6 private: gate": ({}, _also_read("s"), "the gate's map is used more than once"),
    "6 private: two multiplies": ({}, _two_multiplies, "the gate's map is used more than once"),
}  # fmt: skip


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_a_near_miss_with_its_reason(rule: str) -> None:
    options, change, reason = BROKEN[rule]
    model = gate_model(**options, change=change)
    made, report = find(model)
    assert report.changed == 0
    assert not made.functions
    assert len(report.near_misses) == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(report.near_misses[0].reason)
    assert report.near_misses[0].node.startswith("n")


def test_silu_and_a_lone_sigmoid_are_no_gates() -> None:
    def silu(parts: dict[str, Any]) -> None:
        parts["mul"] = ("Mul", ["q", "s"], ["m"], {})

    def lone(parts: dict[str, Any]) -> None:
        parts["mul"] = ("Add", ["a", "s"], ["m"], {})

    for change in (silu, lone):
        _, report = find(gate_model(change=change))
        assert (report.changed, report.near_misses) == (0, ())


def test_blocks_that_share_weights_are_all_found() -> None:
    """Max first: the shared weight must be swapped for each block, and only once."""
    options: dict[str, Any] = {"pools": ("ReduceMax", "ReduceMean")}
    model = gate_model(**options)
    again = [n for n in gate_model(**options).graph.node if n.op_type not in ("Relu", "Tanh")]
    names = {"a": "m", **{v: f"{v}_2" for v in ("p0", "p1", "p", "q", "s", "m")}}
    for node in again:
        node.name += "_2"
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = names.get(value, value)
    last = model.graph.node.pop()
    model.graph.node.extend([*again, last])
    last = model.graph.node[-1]
    last.input[0] = "m_2"
    made, report = find(model)
    assert report.changed == 2
    assert len(made.functions) == 1
    np.testing.assert_allclose(run_model(made, X), run_model(model, X), rtol=0, atol=2e-6)
    tensors = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for call in made.graph.node[1:3]:
        np.testing.assert_array_equal(tensors[call.input[1]], tensors["weight"][:, ::-1])
