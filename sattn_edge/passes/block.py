"""The attention blocks of a source graph, as the passes that rewrite them need them.

A block is the call of the function `sattn_edge::SpatialAttention...` with what stands around it:

    x -> main conv -> call -> BatchNormalization        (z = BN(y * sigmoid(conv(pool(y)))), y = conv(x))

The main conv and the BatchNormalization are part of the block only where nothing else reads what passes between
them, so that a pass may change it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from sattn_edge.attention import DOMAIN, pooling_of
from sattn_edge.contract import Pooling
from sattn_edge.graph import Graph, attribute

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """One attention block. All arrays are float64; `dtype` is the graph's own float type.

    weight [1, p, kt, km] and bias are the gate's, pads its [top, left, bottom, right]; shape is the gated map's
    [c, t, m]. `conv` is None where the main conv can't be changed with the block, and `why` says the reason.
    """

    call: NodeProto
    pooling: Pooling
    weight: Array
    bias: float
    pads: tuple[int, int, int, int]
    shape: tuple[int, int, int]
    dtype: np.dtype[np.floating]
    conv: NodeProto | None
    why: str
    batch_norm: NodeProto | None

    @property
    def name(self) -> str:
        """The call's name, or its output's where it has none."""
        return self.call.name or self.call.output[0]

    @property
    def gate(self) -> str:
        """The value that is the gate [b, 1, t, m], "" where the call does not give it away."""
        return str(self.call.output[1]) if len(self.call.output) > 1 else ""


def find_blocks(graph: Graph) -> list[Block]:
    """The blocks in graph order. `graph` must know shapes; a call whose weights or shape are not static is left out."""
    return [block for node in graph.proto.node if node.domain == DOMAIN and (block := _block(graph, node))]


def _block(graph: Graph, call: NodeProto) -> Block | None:
    pooling = pooling_of(call.op_type)
    weight, bias = graph.constant(call.input[1]), graph.constant(call.input[2])
    shape = graph.shapes.get(call.input[0], ())
    if pooling is None or weight is None or bias is None or len(shape) != 4:
        return None
    maps, time, modal = shape[1:]
    if maps is None or time is None or modal is None:
        return None
    conv, why = _main_conv(graph, call)
    top, left, bottom, right = attribute(call, "pads")
    return Block(
        call=call,
        pooling=pooling,
        weight=weight.astype(np.float64),
        bias=float(bias.reshape(-1)[0]),
        pads=(top, left, bottom, right),
        shape=(maps, time, modal),
        dtype=weight.dtype,
        conv=conv,
        why=why,
        batch_norm=norm_behind(graph, call.output[0]),
    )


def _main_conv(graph: Graph, call: NodeProto) -> tuple[NodeProto | None, str]:
    node = graph.producers.get(call.input[0])
    if node is None or node.op_type != "Conv":
        return None, f"its input comes from {'the graph' if node is None else node.op_type}, not from a convolution"
    if graph.only_reader(call.input[0]) is not call:
        return None, "something else reads the convolution it gates"
    if any(graph.constant(name) is None for name in node.input[1:] if name):
        return None, f"the weights of '{node.name}' are computed"
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        return None, f"'{node.name}' pads by auto_pad"
    return node, ""


def norm_behind(graph: Graph, value: str) -> NodeProto | None:
    """The BatchNormalization with constant statistics that is all that reads a value."""
    node = graph.only_reader(value)
    if node is None or node.op_type != "BatchNormalization" or node.input[0] != value or len(node.output) != 1:
        return None
    return node if all(graph.constant(name) is not None for name in node.input[1:]) else None


def scale_and_shift(graph: Graph, batch_norm: NodeProto) -> tuple[Array, Array]:
    """BatchNormalization at inference as k * x + shift: float64 [c] each."""
    gamma, beta, mean, variance = (_float64(graph, name) for name in batch_norm.input[1:5])
    k = gamma / np.sqrt(variance + attribute(batch_norm, "epsilon", 1e-5))
    return k, beta - k * mean


def conv_weights(graph: Graph, conv: NodeProto) -> tuple[Array, Array]:
    """Weight float64 [o, i, kt, km] and bias float64 [o] (zeros where it has none) of a conv with constants."""
    weight = _float64(graph, conv.input[1])
    has_bias = len(conv.input) > 2 and conv.input[2]
    return weight, _float64(graph, conv.input[2]) if has_bias else np.zeros(len(weight))


def _float64(graph: Graph, name: str) -> Array:
    value = graph.constant(name)
    if value is None:
        raise ValueError(f"'{name}' is computed")
    return value.astype(np.float64)


@dataclass(frozen=True)
class Window:
    """How a conv moves over [t, m]: kernel, strides, dilations, pads [top, left, bottom, right], group."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    group: int

    @property
    def along_time(self) -> bool:
        """Whether nothing is mixed, skipped or padded along modal."""
        return self.kernel[1] == 1 and self.strides[1] == 1 and not (self.pads[1] or self.pads[3])


def window_of(graph: Graph, conv: NodeProto) -> Window:
    """The window of a two-dimensional conv with constant weights."""
    shape = graph.shapes[conv.input[1]]
    kernel_t, kernel_m = shape[2], shape[3]
    if kernel_t is None or kernel_m is None:
        raise ValueError(f"'{conv.name}' has weights of no fixed shape")
    pads = attribute(conv, "pads", [0, 0, 0, 0])
    strides, dilations = attribute(conv, "strides", [1, 1]), attribute(conv, "dilations", [1, 1])
    return Window(
        kernel=(kernel_t, kernel_m),
        strides=(strides[0], strides[1]),
        dilations=(dilations[0], dilations[1]),
        pads=(pads[0], pads[1], pads[2], pads[3]),
        group=attribute(conv, "group", 1),
    )
