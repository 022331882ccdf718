"""How form `gemm` is written: what ONNX Runtime and TensorRT fuse best differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GemmOptions:
    """The choices of form `gemm`; all of them give the same numbers.

    stencil: the gate's convolution over the pooled map as a Conv, or as `taps`: shifted rows times scalars, added.
    mean_columns: columns of each product that carry the mean over feature maps, an equal share in each. Tensor cores
        in FP16 want an even number of columns.
    first: a product whose input has one plane as a Gemm, or as `taps`: gathered rows times weights, added.
    pool: the mean over time as a MatMul with a constant row, or as ReduceMean.
    row_values: a number for each feature map is added to rows of up to so many values, by repeating the numbers.
        ONNX Runtime adds a row at a time and short ones cost most; 0 leaves the rows as they are.
    """

    stencil: Literal["conv", "taps"] = "conv"
    mean_columns: int = 1
    first: Literal["gemm", "taps"] = "gemm"
    pool: Literal["matmul", "reduce"] = "matmul"
    row_values: int = 1024

    def __post_init__(self) -> None:
        if self.mean_columns < 1:
            raise ValueError(f"{self.mean_columns} columns for the mean")


ONNXRUNTIME = GemmOptions()
TENSORRT = GemmOptions(stencil="taps", first="taps", pool="reduce", row_values=0)
TENSORRT_HALF = GemmOptions(stencil="taps", first="taps", pool="reduce", row_values=0, mean_columns=2)
