"""`sattn-build`. Parses, makes one library call, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sattn_edge.command import new_app, print_json, print_lines, run_app, tell, working
from sattn_edge.errors import UsageError
from sattn_runtime.options import Attention, Backend, BatchRange, Json, Threads, parse_batch_range

if TYPE_CHECKING:
    from sattn_runtime.build import BuildOptions
    from sattn_runtime.tensorrt.build import TensorRTBuild

Budget = Annotated[
    float | None,
    typer.Option(metavar="POINTS", help="With --precision best: labels that may differ from FP32's, in percent (0.5)."),
]


def _build(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="A model file made by sattn-export.")] = None,
    backend: Backend = "onnxruntime",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 (TensorRT), int8 after sattn-calibrate, or best (TensorRT, needs --data).")
    ] = "fp32",
    attention: Attention = "auto",
    batch: Annotated[int | None, typer.Option(help="TensorRT: windows of one call (1).")] = None,
    batch_range: BatchRange = None,
    workspace: Annotated[
        int | None, typer.Option(metavar="MIB", help="TensorRT: scratch memory (half of what is available).")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --precision best: windows.npz, or recordings.")
    ] = None,
    budget: Budget = None,
    arch: Annotated[
        str | None,
        typer.Option(help="TensorRT-RTX: compile for this architecture (sm86), on a machine that need not have it."),
    ] = None,
    threads: Threads = 1,
    hop: Annotated[
        int | None,
        typer.Option(metavar="N", help="ONNX Runtime: measure plans for windows every N samples (the contract's)."),
    ] = None,
    retune: Annotated[bool, typer.Option("--retune", help="Build and measure again what is remembered.")] = False,
    list_store: Annotated[bool, typer.Option("--list", help="Show what the engine store holds.")] = False,
    prune_store: Annotated[
        bool, typer.Option("--prune", help="Take away what this device, or this version, can't use any more.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Builds and measures on this device what runs a model file fastest, and remembers it.

    Each form of the attention blocks must reproduce the golden windows first. sattn-run and sattn-verify then use the
    one that was kept; engines of TensorRT run nowhere else.
    """
    if list_store or prune_store:
        _store(model, prune_store, json_output)
        return
    if model is None:
        raise UsageError("MODEL", "is missing", "a model file made by sattn-export", "or use --list or --prune")
    from sattn_edge.engine import BUILT, EngineOptions, check_backend
    from sattn_runtime.build import BuildOptions

    if hop is not None and backend in BUILT:
        raise UsageError("--hop", f"got --backend {backend}", "it is for onnxruntime, which runs incremental plans")
    check_backend(backend)
    given = {
        "--batch": batch,
        "--batch-range": batch_range,
        "--workspace": workspace,
        "--data": data,
        "--budget": budget,
        "--arch": arch,
    }
    if backend not in BUILT:
        if extra := [name for name, value in given.items() if value is not None]:
            raise UsageError(extra[0], f"got --backend {backend}", "it is for tensorrt and tensorrt-rtx")
        here = BuildOptions(backend, EngineOptions(precision, threads, attention), retune, hop=hop)
        _build_here(model, here, json_output)
        return
    from sattn_edge.engine_manifest import Request
    from sattn_runtime.tensorrt.build import BUDGET_POINTS, TensorRTBuild

    if budget is not None and precision != "best":
        raise UsageError("--budget", f"got --precision {precision}", "it is for --precision best")
    request = Request(backend, precision, attention, batch, threads, parse_batch_range(batch_range), workspace, arch)
    points = BUDGET_POINTS if budget is None else budget
    _build_engine(model, TensorRTBuild(request, retune, data, points), json_output)


def _build_here(model: Path, options: BuildOptions, json_output: bool) -> None:
    """ONNX Runtime: nothing is compiled, forms and plans are measured."""
    from sattn_edge.model_file import load_model_file
    from sattn_runtime import build_report
    from sattn_runtime.build import build

    with working(f"measuring {model.name}"):
        built = build(load_model_file(model), options, waiting=_waiting)
    if json_output:
        print_json(build_report.as_data(built))
    else:
        print_lines(build_report.as_text(built))


def _build_engine(model: Path, options: TensorRTBuild, json_output: bool) -> None:
    """TensorRT: compiled, accepted, measured."""
    from sattn_edge.model_file import load_model_file
    from sattn_runtime.build_progress import build_progress
    from sattn_runtime.tensorrt import build_report
    from sattn_runtime.tensorrt.build import build

    with build_progress() as watcher:
        built = build(load_model_file(model), options, watcher=watcher, waiting=_waiting)
    if json_output:
        print_json(build_report.as_data(built))
    else:
        print_lines(build_report.as_text(built))


def _waiting() -> None:
    tell("another sattn-build is at work on this device: waiting for it to end")


def _store(model: Path | None, prune_store: bool, json_output: bool) -> None:
    from sattn_edge.engine_store import default_store
    from sattn_runtime import store_report

    if model is not None:
        name = "--prune" if prune_store else "--list"
        raise UsageError(name, f"got '{model}' too", "it speaks of the whole store", "leave the model out")
    store = default_store()
    found = store_report.prune(store, waiting=_waiting) if prune_store else store_report.rows(store)
    if json_output:
        print_json(store_report.as_data(store, found))
    else:
        print_lines(store_report.as_text(store, found, gone=prune_store))


def build_main(args: list[str] | None = None, prog: str = "sattn-build") -> None:
    """Entry point of `sattn-build` and `sattn build`."""
    run_app(new_app(_build), prog, args)
