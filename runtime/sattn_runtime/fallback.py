"""The CPU in place of an engine that can't be had: only where the user said so, and never without telling."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sattn_edge.engine import AUTO, BUILT, DEFAULT_BACKEND, Engine, EngineOptions, open_engine
from sattn_edge.errors import DigestError, UnavailableError, UsageError
from sattn_edge.model_file import ModelFile

CPU = "cpu"
FALLBACKS = (CPU,)


@dataclass(frozen=True)
class Opened:
    """An engine, and why it is not the one that was asked for, None where it is."""

    engine: Engine
    fell_back: str | None = None


def check_fallback(fallback: str | None, backend: str) -> None:
    """Raises UsageError for a fallback that is none, or where there is nothing to fall back from."""
    if fallback is None:
        return
    if fallback not in FALLBACKS:
        raise UsageError("--fallback", f"got '{fallback}'", "cpu")
    if backend not in BUILT:
        raise UsageError("--fallback", f"got --backend {backend}", "it is for engines of a GPU", "leave it out")


def open_or_fall_back(model: ModelFile, backend: str, options: EngineOptions, fallback: str | None) -> Opened:
    """Opens an engine, and ONNX Runtime on the CPU where that fails for want of a device, a backend or an engine.

    INT8 stays INT8 where the model file has choices for the CPU; FP16 becomes FP32. The form is the CPU's own.

    Raises:
        What `open_engine` raises, where there is no fallback or the CPU fails too.
    """
    try:
        return Opened(open_engine(model, backend, options))
    except (UnavailableError, DigestError) as error:
        if fallback != CPU:
            raise
        reason = str(error)
    here = replace(options, precision=_precision(model, options.precision), attention=AUTO)
    engine = open_engine(model, DEFAULT_BACKEND, here)
    return Opened(engine, reason)


def _precision(model: ModelFile, asked: str) -> str:
    return "int8" if asked == "int8" and model.calibration is not None else "fp32"
