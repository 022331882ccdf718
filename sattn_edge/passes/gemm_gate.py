"""The attention block over rows.

    y [b, t*m, c], mean [b, t*m, 1]  ->  y * sigmoid(conv(mean)) (+ shift)

The mean comes with the product that made y; where there is none, and for the maximum, it is pooled over the last
axis. The gate's convolution runs over the pooled map either as it was (a Reshape to [b, 1, t, m] and back moves
nothing) or, along time, as taps: step d of the kernel reads the rows shifted by d time steps,

    a[i] = sum_d w[d] * pooled[i + d - top] + bias,    zeros outside.
"""

from __future__ import annotations

import numpy as np

from sattn_edge.passes.block import Block
from sattn_edge.passes.gemm_options import GemmOptions
from sattn_edge.passes.gemm_product import weighted_sum
from sattn_edge.passes.gemm_rows import Rows, Writer


def why_no_gate(block: Block) -> str:
    """Why a gate can't be written over rows, nothing where it can."""
    top, left, bottom, right = block.pads
    kernel_t, kernel_m = block.weight.shape[2:]
    if top + bottom != kernel_t - 1 or left + right != kernel_m - 1 or min(block.pads) < 0:
        return f"its gate's pads {list(block.pads)} change the size with a kernel of [{kernel_t}, {kernel_m}]"
    return ""


def write_gate(writer: Writer, block: Block, main: Rows, mean: str | None, options: GemmOptions) -> Rows:
    """Writes main times its gate."""
    rows = writer.view(main, main.rows)
    planes = _planes(writer, block, rows, mean)
    if options.stencil == "taps" and block.weight.shape[3] == 1:
        logits = _as_taps(writer, block, planes, main)
        gate = writer.add("Sigmoid", [logits], f"{block.name}.sigmoid")
    else:
        gate = _as_conv(writer, block, planes, main)
    if block.gate:
        size = (main.rows[0], 1)
        writer.replaces(block.gate, Rows(gate, size, 1, main.time, main.modal))
    gated = writer.add("Mul", [rows, gate], f"{block.name}.multiply", f"{block.call.output[0]}.rows")
    return main.at(gated, main.rows)


def _planes(writer: Writer, block: Block, rows: str, mean: str | None) -> list[str]:
    """The pooled maps [b, t*m, 1] the gate reads."""
    planes = []
    if block.pooling != "max":
        planes.append(mean or writer.add("ReduceMean", [rows], f"{block.name}.mean", axes=[2], keepdims=1))
    if block.pooling != "mean":
        planes.append(writer.add("ReduceMax", [rows], f"{block.name}.max", axes=[2], keepdims=1))
    return planes


def _as_conv(writer: Writer, block: Block, planes: list[str], main: Rows) -> str:
    name, bias = block.name, np.array([block.bias])
    maps = [writer.reshape(plane, (1, main.time, main.modal), f"{name}.plane_{i}") for i, plane in enumerate(planes)]
    pooled = maps[0] if len(maps) == 1 else writer.add("Concat", maps, f"{name}.concat", axis=1)
    inputs = [pooled, writer.constant(f"{name}.weight", block.weight), writer.constant(f"{name}.bias", bias)]
    shape = list(block.weight.shape[2:])
    logits = writer.add("Conv", inputs, f"{name}.conv", kernel_shape=shape, pads=list(block.pads))
    gate = writer.add("Sigmoid", [logits], f"{name}.sigmoid")
    return writer.reshape(gate, (main.rows[0], 1), f"{name}.gate")


def _as_taps(writer: Writer, block: Block, planes: list[str], main: Rows) -> str:
    steps = [step for i, plane in enumerate(planes) for step in _steps(writer, block, plane, i, main)]
    weights = [float(weight) for weight in block.weight[0, :, :, 0].reshape(-1)]
    return weighted_sum(writer, steps, weights, block.bias, f"{block.name}.logits")


def _steps(writer: Writer, block: Block, plane: str, number: int, main: Rows) -> list[str]:
    """The rows of a pooled map as each step of the kernel reads them."""
    (top, _, bottom, _), modal, name = block.pads, main.modal, f"{block.name}.{number}"
    if top == bottom == 0:
        return [plane]
    amounts = writer.integers(f"{name}.pads", [0, top * modal, 0, 0, bottom * modal, 0])
    padded = writer.add("Pad", [plane, amounts], f"{name}.pad")
    starts = range(0, (top + bottom + 1) * modal, modal)
    return [_slice(writer, padded, start, main.rows[0], f"{name}.from_{start}") for start in starts]


def _slice(writer: Writer, value: str, start: int, rows: int, name: str) -> str:
    bounds = {"starts": start, "ends": start + rows, "axes": 1}
    return writer.add("Slice", [value, *(writer.integers(f"{name}.{k}", [v]) for k, v in bounds.items())], name)
