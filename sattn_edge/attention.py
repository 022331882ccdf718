"""The attention block as one ONNX node: the model-local function `sattn_edge::SpatialAttention`.

    y = x * sigmoid(conv(pool(x), weight, bias))

    x [b, c, t, m]  weight [1, p, kt, km]  bias [1]  attribute pads [4]  ->  y [b, c, t, m]

with p = 1 for pooling by mean or max, 2 for both. A function body can't branch, so each pooling has a function
of its own. The body holds standard operators only; ONNX Runtime and the TensorRT parser inline it. `pads` is
handed on by reference (both resolve it); `kernel_shape` is left out, since the TensorRT-RTX parser does not
resolve it by reference and the weight's shape says the same.

Where a file gives its attention away (`sattn_edge.attention_output`), the calls are of a twin of the function with the
gate as a second output, `SpatialAttentionWithGate` and so on; all else is the same:

    x, weight, bias  ->  y [b, c, t, m], gate [b, 1, t, m]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import AttributeProto, FunctionProto, NodeProto, helper

if TYPE_CHECKING:
    from sattn_edge.contract import Pooling

DOMAIN = "sattn_edge"
DOMAIN_VERSION = 1
BODY_OPSET = 17

FUNCTION_NAMES: dict[Pooling, str] = {
    "mean": "SpatialAttention",
    "max": "SpatialAttentionMax",
    "mean+max": "SpatialAttentionMeanMax",
}


WITH_GATE = "WithGate"  # behind the name of a function whose second output is the gate


def pooling_of(function_name: str) -> Pooling | None:
    """The pooling a function of our domain stands for, None if it is none of ours."""
    plain = function_name.removesuffix(WITH_GATE)
    return next((pooling for pooling, name in FUNCTION_NAMES.items() if name == plain), None)


def function_named(name: str) -> FunctionProto | None:
    """The function of our domain with this name, None if there is none."""
    pooling = pooling_of(name)
    return None if pooling is None else attention_function(pooling, gate=name.endswith(WITH_GATE))


def attention_function(pooling: Pooling, *, gate: bool = False) -> FunctionProto:
    """The function for one pooling, to be added to a model's `functions`. gate: with the gate as second output."""
    pads = AttributeProto(name="pads", type=AttributeProto.INTS, ref_attr_name="pads")
    conv = helper.make_node("Conv", ["pooled", "weight", "bias"], ["map"], name="conv")
    conv.attribute.append(pads)
    body = [
        *_pooling_nodes(pooling),
        conv,
        helper.make_node("Sigmoid", ["map"], ["gate"], name="sigmoid"),
        helper.make_node("Mul", ["x", "gate"], ["y"], name="multiply"),
    ]
    function = helper.make_function(
        DOMAIN,
        FUNCTION_NAMES[pooling] + (WITH_GATE if gate else ""),
        inputs=["x", "weight", "bias"],
        outputs=["y", "gate"] if gate else ["y"],
        nodes=body,
        opset_imports=[helper.make_opsetid("", BODY_OPSET)],
        attributes=["pads"],
    )
    function.doc_string = f"Spatial attention: x * sigmoid(conv({pooling} over feature maps of x))."
    return function


def _pooling_nodes(pooling: Pooling) -> list[NodeProto]:
    def reduce(op: str, out: str) -> NodeProto:
        return helper.make_node(op, ["x"], [out], name=out, axes=[1], keepdims=1)

    if pooling == "mean":
        return [reduce("ReduceMean", "pooled")]
    if pooling == "max":
        return [reduce("ReduceMax", "pooled")]
    return [
        reduce("ReduceMean", "mean"),
        reduce("ReduceMax", "max"),
        helper.make_node("Concat", ["mean", "max"], ["pooled"], name="concat", axis=1),
    ]


def attention_call(
    inputs: tuple[str, str, str], output: str, *, pooling: Pooling, pads: tuple[int, int, int, int], name: str
) -> NodeProto:
    """A call of the function: `inputs` are the names of x, weight and bias."""
    return helper.make_node(FUNCTION_NAMES[pooling], list(inputs), [output], name=name, domain=DOMAIN, pads=list(pads))
