"""Reference networks as ONNX models, built with onnx alone: for tests that need a model file and no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

from sattn_edge.attention import DOMAIN, DOMAIN_VERSION, attention_call, attention_function
from sattn_edge.errors import ModelFileError
from sattn_edge.gate import admit

Pooling = Literal["mean", "max", "mean+max"]
Arrays = dict[str, np.ndarray]
Change = Callable[[ModelProto], object]
Rules = dict[str, tuple[Change, str]]
"""By name: a change to a good model that breaks a rule of the gate, and words of the message it must give."""


def make_model(
    widths: tuple[int, ...] = (4, 8),
    *,
    series: int = 32,
    modal: int = 3,
    classes: int = 4,
    pooling: Pooling = "mean",
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """[batch, 1, series, modal] -> [batch, classes]: random weights, attention as function calls."""
    rng = np.random.default_rng(seed)
    arrays: Arrays = {
        "norm.mean": rng.normal(size=(1, 1, 1, modal)).astype(np.float32),
        "norm.std": rng.uniform(0.5, 2.0, size=(1, 1, 1, modal)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Sub", ["input", "norm.mean"], ["centred"], name="normalise.sub"),
        helper.make_node("Div", ["centred", "norm.std"], ["normalised"], name="normalise.div"),
    ]
    value, before = "normalised", 1
    for i, width in enumerate(widths):
        nodes += _block(i, value, before, width, pooling, arrays, rng)
        value, before = f"block{i}.out", width
    nodes += _head(value, before, modal, classes, arrays, rng)
    return _wrap(nodes, arrays, pooling, series, modal, classes, opset)


def _block(
    i: int, value: str, before: int, width: int, pooling: Pooling, arrays: Arrays, rng: np.random.Generator
) -> list[NodeProto]:
    def add(name: str, array: np.ndarray) -> str:
        arrays[f"block{i}.{name}"] = np.asarray(array, dtype=np.float32)
        return f"block{i}.{name}"

    planes = 2 if pooling == "mean+max" else 1
    conv = [
        value,
        add("conv.weight", rng.normal(size=(width, before, 3, 1)) / np.sqrt(3 * before)),
        add("conv.bias", rng.normal(size=width) / 10),
    ]
    gate = (
        f"block{i}.main",
        add("att.weight", rng.normal(size=(1, planes, 3, 1)) / 2),
        add("att.bias", rng.normal(size=1) / 10),
    )
    norm = [
        f"block{i}.att",
        add("bn.weight", rng.uniform(0.5, 1.5, size=width)),
        add("bn.bias", rng.normal(size=width) / 10),
        add("bn.mean", rng.normal(size=width) / 10),
        add("bn.var", rng.uniform(0.5, 1.5, size=width)),
    ]
    window = {
        "kernel_shape": [3, 1],
        "strides": [2, 1],
        "dilations": [1, 1],
        "pads": [1, 0, 1, 0],
        "group": 1,
    }
    return [
        helper.make_node("Conv", conv, [f"block{i}.main"], name=f"block{i}.conv", **window),
        attention_call(gate, f"block{i}.att", pooling=pooling, pads=(1, 0, 1, 0), name=f"block{i}.attention"),
        helper.make_node("BatchNormalization", norm, [f"block{i}.bn"], name=f"block{i}.norm", epsilon=1e-5),
        helper.make_node("Relu", [f"block{i}.bn"], [f"block{i}.out"], name=f"block{i}.relu"),
    ]


def _head(
    value: str, width: int, modal: int, classes: int, arrays: Arrays, rng: np.random.Generator
) -> list[NodeProto]:
    arrays["fc.weight"] = (rng.normal(size=(classes, width * modal)) / np.sqrt(width * modal)).astype(np.float32)
    arrays["fc.bias"] = rng.normal(size=classes).astype(np.float32)
    return [
        helper.make_node("ReduceMean", [value], ["pooled"], name="pool", axes=[2], keepdims=1),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten", axis=1),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], name="classifier", transB=1),
    ]


def _wrap(
    nodes: list[NodeProto],
    arrays: Arrays,
    pooling: Pooling,
    series: int,
    modal: int,
    classes: int,
    opset: int,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, series, modal])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(
        graph,
        opset_imports=imports,
        functions=[attention_function(pooling)],
        ir_version=8,
        producer_name="tests",
    )
    helper.set_model_props(model, {"sattn_edge.format": "1", "sattn_edge.note": json.dumps({"made_by": "tests"})})
    return model


def changed(change: Callable[[onnx.ModelProto], object], model: onnx.ModelProto | None = None) -> bytes:
    """The bytes of a model (the default one, if none is given) after one change to it."""
    model = model or make_model()
    change(model)
    return model.SerializeToString()


# -- changing a model, and what the gate says to it


def node(model: ModelProto, op_type: str) -> NodeProto:
    return next(n for n in model.graph.node if n.op_type == op_type)


def initializer(model: ModelProto, name: str) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def attribute(model: ModelProto, op_type: str, name: str) -> AttributeProto:
    return next(a for a in node(model, op_type).attribute if a.name == name)


def set_ints(model: ModelProto, op_type: str, name: str, values: list[int]) -> None:
    found = attribute(model, op_type, name)
    del found.ints[:]
    found.ints.extend(values)


def replace(model: ModelProto, op_type: str, new: NodeProto) -> None:
    node(model, op_type).CopyFrom(new)


def before(model: ModelProto, op_type: str, *new: NodeProto) -> None:
    """Puts nodes before the first of a type, which reads what the last of them makes."""
    reader = node(model, op_type)
    at = list(model.graph.node).index(reader)
    reader.input[0] = new[-1].output[0]
    for i, extra in enumerate(new):
        model.graph.node.insert(at + i, extra)


def refused(data: bytes, *, foreign: bool = False) -> str:
    """The message with which the gate refuses a file."""
    with pytest.raises(ModelFileError) as caught:
        admit(data, "net.onnx", foreign=foreign)
    assert str(caught.value).startswith("net.onnx: ")
    assert caught.value.exit_code == 3
    return str(caught.value)


def flat_model(opset: int = 17, ir_version: int = 8) -> ModelProto:
    """The network as another exporter writes it: no functions, no domain of ours."""
    model = inliner.inline_local_functions(make_model())
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = ir_version
    return model


def check_rule(change: Change, text: str) -> None:
    """A change is refused with the words it must give, by the grammar of messages."""
    message = refused(changed(change))
    assert text in message, message
    found = message.removeprefix("net.onnx: ").split("; ")
    assert len(found) >= 2, "what was found; what is allowed; what to do"
    assert all(found)
