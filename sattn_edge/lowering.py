"""Lowering: one source graph, rewritten into the form a target runs best.

    source graph -> [equalise] -> attention form -> inline -> [fold BatchNormalization] -> static pool
                 -> precision (Q/DQ, float16) -> batch -> lowered graph

Each step is a pass of `sattn_edge.passes` and exact, or, where it is the precision, exact in what it states. The
attention forms: `reference` (as exported), `folded`, `taps`, `mean-conv`, `composed`, `gemm`. Which one is fastest is
for a measurement to say, not for this module; what a form can't do it leaves as `reference`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnx import ModelProto

from sattn_edge.calibration_table import Placement
from sattn_edge.errors import ModelFileError, UsageError, did_you_mean
from sattn_edge.passes import Pass, PassReport, run_passes
from sattn_edge.passes.composed import Composed
from sattn_edge.passes.equalise import Equalise
from sattn_edge.passes.fix_batch import FixBatch
from sattn_edge.passes.fold_batch_norm import FoldBatchNorm
from sattn_edge.passes.folded import Folded
from sattn_edge.passes.gemm import ONNXRUNTIME, TENSORRT, TENSORRT_HALF, GemmForm, GemmOptions
from sattn_edge.passes.half import Half
from sattn_edge.passes.inline import InlineFunctions
from sattn_edge.passes.mean_conv import MeanConv
from sattn_edge.passes.prune import Prune
from sattn_edge.passes.quantize_onnxruntime import QuantizeOnnxRuntime
from sattn_edge.passes.quantize_tensorrt import QuantizeTensorRT
from sattn_edge.passes.raise_opset import RaiseOpset
from sattn_edge.passes.static_pool import StaticPool
from sattn_edge.passes.taps import Taps

Backend = Literal["onnxruntime", "tensorrt"]
FORMS = ("reference", "folded", "taps", "mean-conv", "composed", "gemm")
PRECISIONS: dict[str, tuple[str, ...]] = {"onnxruntime": ("fp32", "int8"), "tensorrt": ("fp32", "fp16", "int8")}
_BY_CONVOLUTION: dict[str, Callable[[], Pass]] = {
    "folded": Folded,
    "taps": Taps,
    "mean-conv": MeanConv,
    "composed": Composed,
}
HALF_SCALES_OPSET = 19  # the first in which Q/DQ scales may be float16


@dataclass(frozen=True)
class Target:
    """What to lower for.

    attention: one of FORMS, None for the target's usual one. batch: fixed to this, None for a free batch on
    ONNX Runtime and for 1 on TensorRT; free_batch: leaves it free there too, for an engine of a range of batches.
    placement: the INT8 choices, needed for int8 and for nothing else.
    typed: float16 written in the graph, as TensorRT 10 and newer want it; False leaves everything that is not
    INT8 in float32 (TensorRT 8.6, which is told by flags).
    """

    backend: Backend
    attention: str | None = None
    precision: str = "fp32"
    batch: int | None = None
    placement: Placement | None = None
    typed: bool = True
    free_batch: bool = False

    @property
    def form(self) -> str:
        """The attention form: the one asked for, or the usual one."""
        if self.attention is not None:
            return self.attention
        return "reference" if (self.backend, self.precision) == ("onnxruntime", "fp32") else "gemm"


@dataclass(frozen=True, eq=False)
class Lowered:
    """The lowered graph (without metadata), what was asked for, and what each pass did."""

    model: ModelProto
    target: Target
    reports: tuple[PassReport, ...]


def lower(model: ModelProto, target: Target, stop_after: int | None = None) -> Lowered:
    """Lowers a source graph (as sattn-export writes it) for a target. The model itself is not changed.

    stop_after: runs only so many passes, to find the one that is to blame.

    Raises:
        UsageError: no such backend, form or precision, a batch below 1, or int8 without choices.
        ModelFileError: the choices are not of this graph.
    """
    check_target(target)
    made, reports = run_passes(_bare(model), pass_list(target), stop_after)
    _check_equalised(reports)
    return Lowered(made, target, tuple(reports))


def equalised(model: ModelProto, target: Target) -> ModelProto:
    """A source graph as the target's ranges speak of it, without metadata: in INT8 its maps are evened out.

    Raises:
        ModelFileError: the choices are not of this graph.
    """
    made, reports = run_passes(_bare(model), _equalise(target))
    _check_equalised(reports)
    return made


def _bare(model: ModelProto) -> ModelProto:
    """A copy without golden windows and the like: a megabyte that no runtime needs."""
    bare = ModelProto()
    bare.CopyFrom(model)
    bare.ClearField("metadata_props")
    return bare


def _equalise(target: Target) -> list[Pass]:
    if target.precision != "int8" or target.placement is None:
        return []
    return [Equalise({c.layer: c.factors for c in target.placement.layers if c.int8})]


def _check_equalised(reports: Sequence[PassReport]) -> None:
    """Ranges are of equalised maps: where those can't be made, nothing fits any more."""
    for miss in (miss for report in reports if report.name == Equalise.name for miss in report.near_misses):
        raise ModelFileError(
            "calibration table",
            f"'{miss.node}' can't be equalised ({miss.reason})",
            "the choices of the graph they were made for",
            "calibrate it again",
        )


def check_target(target: Target) -> None:
    """Raises UsageError for what no target can be."""
    if target.backend not in PRECISIONS:
        raise UsageError("target", f"got '{target.backend}'", did_you_mean(target.backend, PRECISIONS))
    known = PRECISIONS[target.backend]
    if target.precision not in known:
        raise UsageError("precision", f"got '{target.precision}' for {target.backend}", f"known: {', '.join(known)}")
    if target.attention is not None and target.attention not in FORMS:
        raise UsageError("attention form", f"got '{target.attention}'", did_you_mean(target.attention, FORMS))
    if target.batch is not None and target.batch < 1:
        raise UsageError("batch", f"got {target.batch}", "1 or more")
    if target.batch is not None and target.free_batch:
        raise UsageError("batch", f"got {target.batch} and a free one", "one of the two")
    if target.precision == "int8" and target.placement is None:
        raise UsageError("precision 'int8'", "needs the choices of a calibration", todo="run sattn-calibrate first")


def pass_list(target: Target) -> list[Pass]:
    """The passes for a target, in order."""
    passes = [*_equalise(target), *_form_passes(target), StaticPool(), *precision_passes(target), Prune()]
    batch = batch_of(target)
    return [*passes, FixBatch(batch)] if batch is not None else passes


def batch_of(target: Target) -> int | None:
    """What a lowered graph's batch is fixed to, None where it is free."""
    if target.batch is not None:
        return target.batch
    return 1 if target.backend == "tensorrt" and not target.free_batch else None


def _form_passes(target: Target) -> list[Pass]:
    form, inline = target.form, InlineFunctions()
    if form == "reference":
        return [inline]
    if form == "gemm":
        return [GemmForm(_gemm_options(target)), inline]
    opened: list[Pass] = [_BY_CONVOLUTION[form](), inline]
    # ONNX Runtime's integer convolution quantises its output, whose range was seen in front of BatchNormalization.
    if (target.backend, target.precision) == ("onnxruntime", "int8"):
        return opened
    return [*opened, FoldBatchNorm()]


def _gemm_options(target: Target) -> GemmOptions:
    if target.backend == "onnxruntime":
        return ONNXRUNTIME
    return TENSORRT_HALF if target.precision == "fp16" and target.typed else TENSORRT


def precision_passes(target: Target) -> list[Pass]:
    """The passes that write a target's precision into a graph whose products have the source's names."""
    if target.precision == "fp32" or (target.precision == "fp16" and not target.typed):
        return []
    typing: list[Pass] = [RaiseOpset(HALF_SCALES_OPSET, for_scales=True), Half()]
    if target.precision == "fp16":
        return typing
    choices = target.placement.chosen() if target.placement is not None else {}
    if target.backend == "onnxruntime":
        return [QuantizeOnnxRuntime(choices)]
    return [QuantizeTensorRT(choices), *(typing if target.typed else [])]


def float32(target: Target) -> Target:
    """The same target without its precision: what INT8 and FP16 are compared with."""
    return replace(target, precision="fp32", placement=None)
