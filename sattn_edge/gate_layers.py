"""The gate's rules for single layers, once every shape is known.

L1  kernels, strides, dilations and pads fit the rank of what they slide over, and the weight
L2  weights, biases and statistics have as many entries as there are feature maps
L3  no convolution or product is absurdly large
L4  whole numbers are divided by constants without 0 or -1 only

A runtime is trusted with none of these. ONNX Runtime 1.23 reads past the end of a bias that is too short, and a
processor may trap on a division of whole numbers by 0, or of the smallest one by -1; onnx's checker passes both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.gate_limits import INTEGER_TYPES, MAX_MACS, Case
from sattn_edge.gate_nodes import describe

Known = dict[str, tuple[int, list[int]]]
"""Element type and shape by value name."""

_WEIGHT_OF = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""Which input is a convolution's weight."""
_BIAS_OF = {"Conv": 2, "QLinearConv": 8, "ConvTranspose": 2}
_SLIDING = frozenset({*_WEIGHT_OF, "AveragePool", "MaxPool", "LpPool"})
_PRODUCTS = frozenset({"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"})
_PER_FEATURE_MAP = {"BatchNormalization": slice(1, 5), "InstanceNormalization": slice(1, 3)}
"""Which inputs have one entry for each feature map."""
_PER_AXIS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 2}


def check_layers(nodes: Sequence[NodeProto], known: Known, constants: Mapping[str, TensorProto], case: Case) -> None:
    """L1 to L4 on nodes of ONNX's own domain."""
    for node in nodes:
        if node.op_type in _SLIDING:
            _check_kernel(node, known, case)
        if node.op_type in _WEIGHT_OF:
            _check_convolution(node, known, case)
        if node.op_type in _PER_FEATURE_MAP:
            _check_statistics(node, known, case)
        _check_work(node, known, case)
        _check_division(node, known, constants, case)


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    """The values that stand in the file."""
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return constants


def _check_kernel(node: NodeProto, known: Known, case: Case) -> None:
    """L1, against the rank of the input."""
    axes = len(known[node.input[0]][1]) - 2
    for attribute in node.attribute:
        wanted = _PER_AXIS.get(attribute.name, 0) * axes
        if attribute.name in _PER_AXIS and len(attribute.ints) != wanted:
            raise case.refuse(
                f"{describe(node)} has {len(attribute.ints)} {attribute.name}", f"{wanted} for {axes} axes"
            )


def _check_convolution(node: NodeProto, known: Known, case: Case) -> None:
    """L1 against the weight, and L2."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    x, weight = known[node.input[0]][1], known[node.input[_WEIGHT_OF[node.op_type]]][1]
    group = attributes.get("group", 1)
    kernel = list(attributes.get("kernel_shape", weight[2:]))
    if len(weight) != len(x) or weight[2:] != kernel:
        raise case.refuse(f"{describe(node)} has a weight {weight} for an input {x} and the kernel {kernel}")
    if node.op_type == "ConvTranspose":
        fits, maps = x[1] == weight[0] and weight[0] % group == 0, weight[1] * group
    else:
        fits, maps = x[1] == weight[1] * group and weight[0] % group == 0, weight[0]
    if not fits:
        raise case.refuse(
            f"{describe(node)} has a weight {weight} for an input {x} in {group} groups",
            "as many feature maps in the weight as in the input",
        )
    bias = _BIAS_OF.get(node.op_type, len(node.input))
    if bias < len(node.input) and node.input[bias]:
        _one_per_map(node, bias, maps, known, case)


def _check_statistics(node: NodeProto, known: Known, case: Case) -> None:
    """L2, for normalisations."""
    shape = known[node.input[0]][1]
    for i in range(len(node.input))[_PER_FEATURE_MAP[node.op_type]]:
        _one_per_map(node, i, shape[1] if len(shape) > 1 else 1, known, case)


def _one_per_map(node: NodeProto, at: int, maps: int, known: Known, case: Case) -> None:
    found = known[node.input[at]][1]
    if found != [maps]:
        raise case.refuse(f"{describe(node)} has an input {at} of {found}", f"{[maps]}, one for each feature map")


def _check_work(node: NodeProto, known: Known, case: Case) -> None:
    """L3. A convolution takes one multiply-add per output element and weight of one filter."""
    if node.op_type == "ConvTranspose":
        terms = prod(known[node.input[1]][1])
    elif node.op_type in _WEIGHT_OF:
        terms = prod(known[node.input[_WEIGHT_OF[node.op_type]]][1][1:])
    elif node.op_type in _PRODUCTS:
        terms = max(known[node.input[0]][1], default=1)
    else:
        return
    work = terms * prod(known[node.output[0]][1])
    if work > MAX_MACS:
        raise case.refuse(f"{describe(node)} takes {work} multiply-adds", f"at most {MAX_MACS}")


def _check_division(node: NodeProto, known: Known, constants: Mapping[str, TensorProto], case: Case) -> None:
    """L4."""
    if node.op_type not in ("Div", "Mod") or known[node.input[0]][0] not in INTEGER_TYPES:
        return
    divisor = constants.get(node.input[1])
    if divisor is None or np.isin(numpy_helper.to_array(divisor), (0, -1)).any():
        raise case.refuse(
            f"{describe(node)} divides whole numbers by something not constant, 0 or -1", "a constant above 0"
        )
