"""A convolution along time as a product over rows, with the mean over feature maps as further columns.

    x [b, c, t, m] -> Conv<(k, 1), stride s> -> y
        =>  rows [b, t*m, c] -> Pad -> Gather [t'*m, k] -> Reshape [b*t'*m, k*c] -> Gemm -> [y | mean(y)]

Row (i, j) of the gathered matrix holds the k time steps that y[:, :, i, j] reads, each with all c maps, so
y = gathered * W with W[(d, i), o] = w[o, i, d]. The mean over maps is linear in y, hence a column of its own:
mean_o y = gathered * (mean_o W) + mean_o b. Scaling the main columns by k of a BatchNormalization behind the gate
leaves that column alone, since the gate reads the map unscaled.

Of one plane (c = 1) the product may be written as `taps`: k gathered columns times a row of weights each, added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from sattn_edge.graph import Graph, attribute
from sattn_edge.passes.block import Array, Window, conv_weights, window_of
from sattn_edge.passes.gemm_options import GemmOptions
from sattn_edge.passes.gemm_rows import Rows, Writer


@dataclass(frozen=True, eq=False)
class Linear:
    """What a convolution computes: weight float64 [o, i, k] and bias [o] of its main columns, and of their mean.

    `mean_weight` [i, k] and `mean_bias` are None where nothing reads the mean.
    """

    weight: Array
    bias: Array
    mean_weight: Array | None = None
    mean_bias: float = 0.0

    @staticmethod
    def of(graph: Graph, conv: NodeProto) -> Linear:
        """The convolution alone."""
        weight, bias = conv_weights(graph, conv)
        return Linear(weight[..., 0], bias)

    def with_mean(self) -> Linear:
        """The mean over feature maps of what is computed so far beside it."""
        return Linear(self.weight, self.bias, self.weight.mean(0), float(self.bias.mean()))

    def scaled(self, scale: Array, shift: Array | float = 0.0) -> Linear:
        """Main columns times scale [o] plus shift [o]; the mean stays what it was."""
        return Linear(self.weight * scale[:, None, None], self.bias * scale + shift, self.mean_weight, self.mean_bias)


@dataclass(frozen=True)
class Product:
    """The rows of a convolution's output, and the value [b, t*m, 1] that holds the mean over its feature maps."""

    main: Rows
    mean: str | None


def why_no_product(graph: Graph, conv: NodeProto) -> str:
    """Why a convolution can't be a product over rows, nothing where it can."""
    if any(graph.constant(name) is None for name in conv.input[1:] if name):
        return "its weights are computed"
    if attribute(conv, "auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        return "it pads by auto_pad"
    sizes = [graph.shapes.get(value, ()) for value in (conv.input[0], conv.output[0])]
    if any(len(size) != 4 or None in size[1:] for size in sizes):
        return "its shape is not fixed"
    window = window_of(graph, conv)
    if not window.along_time or min(window.pads) < 0:
        moves = f"strides {list(window.strides)} and pads {list(window.pads)}"
        return f"its kernel {list(window.kernel)} with {moves} is not along time alone"
    if window.group != 1:
        return f"it has {window.group} groups"
    return ""


def write_product(writer: Writer, conv: NodeProto, source: Rows, linear: Linear, options: GemmOptions) -> Product:
    """Writes a convolution over `source`; the node that ends its main columns carries its name."""
    window = window_of(writer.graph, conv)
    taps, pads, time = _taps(window, source)
    padded = _padded(writer, conv.name, source, pads)
    size = (len(linear.weight), time, source.modal)
    if source.maps == 1 and options.first == "taps":
        return _as_taps(writer, conv, padded, taps, linear, size)
    if taps.shape == (source.rows[0], 1) and not any(pads):
        matrix = writer.view(source, source.rows)
    else:
        matrix = writer.add(
            "Gather", [padded, writer.integers(f"{conv.name}.index", taps)], f"{conv.name}.gather", axis=1
        )
    matrix = writer.reshape(matrix, (taps.shape[1] * source.maps,), f"{conv.name}.columns")
    return _as_gemm(writer, conv, matrix, linear, size, options.mean_columns)


def _taps(window: Window, source: Rows) -> tuple[NDArray[np.int64], tuple[int, int], int]:
    """Indices [t'*m, k] of the rows each output row reads, rows of zeros before and after, and t'."""
    (kernel, stride, dilation), modal = (window.kernel[0], window.strides[0], window.dilations[0]), source.modal
    top, bottom = window.pads[0], window.pads[2]
    time = (source.time + top + bottom - dilation * (kernel - 1) - 1) // stride + 1
    steps = stride * np.arange(time)[:, None] + dilation * np.arange(kernel)
    index = steps[:, None, :] * modal + np.arange(modal)[None, :, None]
    after = max(0, int(steps.max()) + 1 - top - source.time)  # a last step may end before the padding does
    return index.reshape(-1, kernel), (top * modal, after * modal), time


def _padded(writer: Writer, name: str, source: Rows, pads: tuple[int, int]) -> str:
    rows = writer.view(source, source.rows)
    if not any(pads):
        return rows
    amounts = writer.integers(f"{name}.pads", [0, pads[0], 0, 0, pads[1], 0])
    return writer.add("Pad", [rows, amounts], f"{name}.pad")


def _as_gemm(
    writer: Writer, conv: NodeProto, matrix: str, linear: Linear, size: tuple[int, int, int], shares: int
) -> Product:
    maps, time, modal = size
    weight, bias = linear.weight, linear.bias
    if linear.mean_weight is not None:
        weight = np.concatenate([weight, np.repeat(linear.mean_weight[None] / shares, shares, 0)])
        bias = np.concatenate([bias, np.full(shares, linear.mean_bias / shares)])
    columns = weight.transpose(2, 1, 0).reshape(-1, len(weight))
    names = [writer.constant(f"{conv.name}.weight", columns), writer.constant(f"{conv.name}.bias", bias)]
    made = writer.add("Gemm", [matrix, *names], conv.name, f"{conv.output[0]}.gemm")
    tail = (time * modal, len(weight))
    value = writer.reshape(made, tail, f"{conv.output[0]}.rows")
    if linear.mean_weight is None:
        return Product(Rows(value, tail, *size), None)
    main, *parts = writer.split(value, [maps, *[1] * shares], f"{conv.name}.split")
    mean = parts[0]
    for i, part in enumerate(parts[1:]):
        mean = writer.add("Add", [mean, part], f"{conv.name}.mean_{i}")
    return Product(Rows(main, (time * modal, maps), *size), mean)


def _as_taps(
    writer: Writer,
    conv: NodeProto,
    padded: str,
    taps: NDArray[np.int64],
    linear: Linear,
    size: tuple[int, int, int],
) -> Product:
    name = conv.name
    columns = [
        writer.add("Gather", [padded, writer.integers(f"{name}.index_{d}", index)], f"{name}.tap_{d}", axis=1)
        for d, index in enumerate(taps.T)
    ]
    main = weighted_sum(writer, columns, list(linear.weight[:, 0].T), linear.bias, name, f"{conv.output[0]}.rows")
    mean = None
    if linear.mean_weight is not None:
        mean = weighted_sum(writer, columns, list(linear.mean_weight[0]), linear.mean_bias, f"{name}.mean")
    return Product(Rows(main, (len(taps), size[0]), *size), mean)


def weighted_sum(
    writer: Writer,
    values: Sequence[str],
    weights: Sequence[Array | float],
    bias: Array | float,
    name: str,
    output: str = "",
) -> str:
    """Values times a weight each, added, plus a bias; the last addition is the node `name`."""
    total = ""
    for i, (value, weight) in enumerate(zip(values, weights, strict=True)):
        factor = writer.constant(f"{name}.weight_{i}", weight)
        term = writer.add("Mul", [value, factor], f"{name}.term_{i}")
        total = writer.add("Add", [total, term], f"{name}.sum_{i}") if total else term
    return writer.add("Add", [total, writer.constant(f"{name}.bias", bias)], name, output)
