"""`sattn-build`. Parses, makes one library call, prints."""

from __future__ import annotations

from typing import Annotated

import typer

from sattn_edge.command import new_app, print_json, print_lines, run_app, working
from sattn_runtime.options import Attention, Backend, Json, ModelArgument, Precision, Threads


def _build(
    model: ModelArgument,
    backend: Backend = "onnxruntime",
    precision: Precision = "fp32",
    attention: Attention = "auto",
    threads: Threads = 1,
    retune: Annotated[bool, typer.Option("--retune", help="Measure again what is remembered.")] = False,
    json_output: Json = False,
) -> None:
    """Measures on this device which form of the attention blocks is fastest, and remembers it.

    Each form must reproduce the golden windows first. sattn-run and sattn-verify then use the one that was kept.
    """
    from sattn_edge.engine import EngineOptions, check_backend
    from sattn_edge.model_file import load_model_file
    from sattn_runtime import build_report
    from sattn_runtime.build import BuildOptions, build

    check_backend(backend)
    options = BuildOptions(backend, EngineOptions(precision, threads, attention), retune)
    with working(f"measuring {model.name}"):
        built = build(load_model_file(model), options)
    if json_output:
        print_json(build_report.as_data(built))
    else:
        print_lines(build_report.as_text(built))


def build_main(args: list[str] | None = None, prog: str = "sattn-build") -> None:
    """Entry point of `sattn-build` and `sattn build`."""
    run_app(new_app(_build), prog, args)
