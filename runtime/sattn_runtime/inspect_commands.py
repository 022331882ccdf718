"""`sattn-inspect`. Parses, makes one library call, prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sattn_edge.command import new_app, print_json, print_lines, run_app
from sattn_edge.errors import UsageError
from sattn_runtime.options import BatchRange, Json, ModelArgument, parse_batch_range

if TYPE_CHECKING:
    from sattn_edge.engine_manifest import Request
    from sattn_edge.lowering import Target

LOWER, KERNELS = "--lower", "--kernels"
_MODES = {  # option -> what it goes with
    "--attention": (LOWER, KERNELS),
    "--precision": (LOWER, KERNELS),
    "--batch": (LOWER, KERNELS),
    "--batch-range": (KERNELS,),
    "--backend": (KERNELS,),
    "--arch": (KERNELS,),
    "-o": (LOWER,),
}
_ADD = {LOWER: "add --lower onnxruntime or tensorrt", KERNELS: "add --kernels --arch sm86"}
_SAYS = {LOWER: "says how to lower", KERNELS: "says how to compile"}


def _inspect(
    model: ModelArgument,
    lower: Annotated[
        str | None, typer.Option(metavar="BACKEND", help="Show what lowering for onnxruntime or tensorrt changes.")
    ] = None,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Show the kernels that TensorRT-RTX makes of it; needs no GPU.")
    ] = False,
    arch: Annotated[str | None, typer.Option(help="With --kernels: the architecture (sm86, sm89, sm120).")] = None,
    backend: Annotated[str | None, typer.Option(help="With --kernels: tensorrt-rtx, or on a device tensorrt.")] = None,
    attention: Annotated[
        str | None,
        typer.Option(help="With --lower or --kernels: form of the attention blocks (usual; the fewest kernels)."),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="With --lower or --kernels: fp32, fp16 or int8.")] = None,
    batch: Annotated[int | None, typer.Option(help="With --lower or --kernels: fix the batch to this.")] = None,
    batch_range: BatchRange = None,
    hop: Annotated[
        int | None,
        typer.Option(metavar="N", help="Count incremental plans for windows every N samples (the contract's)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --lower: write the lowered graph here, as plain ONNX.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Shows a model file's contract, attention blocks, cost, calibration state and digests.

    Of overlapping windows it counts what each incremental plan computes and keeps, or says what keeps the network from
    having any.

    With --lower it shows instead what each pass makes of the graph for a backend, with --kernels what NVIDIA's compiler
    makes of that, kernel by kernel and block by block.
    """
    given = {
        "--attention": attention,
        "--precision": precision,
        "--batch": batch,
        "--batch-range": batch_range,
        "--backend": backend,
        "--arch": arch,
        "-o": output,
    }
    modes = {LOWER: lower is not None, KERNELS: kernels}
    _check_modes(modes, given)
    _check_hop(hop, modes)
    if lower is not None:
        from sattn_edge.lowering import Target

        form = None if attention == "auto" else attention
        target = Target(lower, form, precision or "fp32", batch)  # type: ignore[arg-type] # checked by who takes it
        _show_lowered(model, target, output, json_output)
    elif kernels:
        from sattn_edge.engine_manifest import Request

        request = Request(
            backend or "tensorrt-rtx",
            precision or "fp32",
            attention or "auto",
            batch,
            batch_range=parse_batch_range(batch_range),
            arch=None if arch is None else arch.lower(),
        )
        _show_kernels(model, request, json_output)
    else:
        _show_file(model, hop, json_output)


def _check_modes(modes: dict[str, bool], given: Mapping[str, object]) -> None:
    """Raises UsageError for options that go with something else."""
    if all(modes.values()):
        raise UsageError(KERNELS, f"got {LOWER} too", "one of the two")
    for name, value in given.items():
        if value is not None and not any(modes[mode] for mode in _MODES[name]):
            mode = _MODES[name][0]
            raise UsageError(name, _SAYS[mode], f"it goes with {' or '.join(_MODES[name])}", _ADD[mode])


def _check_hop(hop: int | None, modes: dict[str, bool]) -> None:
    """Raises UsageError for a hop that is none, or that goes with something else."""
    if hop is None:
        return
    if hop < 1:
        raise UsageError("--hop", f"got {hop}", "a number of samples, 1 or more")
    for mode, wanted in modes.items():
        if wanted:
            raise UsageError("--hop", f"got {mode} too", "it is for the page about the file", "leave one out")


def _show_file(model: Path, hop: int | None, json_output: bool) -> None:
    from sattn_edge.model_file import load_model_file
    from sattn_runtime import inspect_model

    found = load_model_file(model)
    if json_output:
        print_json(inspect_model.as_data(found, hop))
    else:
        print_lines(inspect_model.as_text(found, hop))


def _show_lowered(model: Path, target: Target, output: Path | None, json_output: bool) -> None:
    from sattn_edge.model_file import load_model_file
    from sattn_runtime import lowered_report

    report = lowered_report.lower_file(load_model_file(model), target)
    if output is not None:
        report = lowered_report.write_lowered(report, model, output)
    if json_output:
        print_json(lowered_report.as_data(report))
    else:
        print_lines(lowered_report.as_text(report))


def _show_kernels(model: Path, request: Request, json_output: bool) -> None:
    from sattn_edge.model_file import load_model_file
    from sattn_runtime.build_progress import build_progress
    from sattn_runtime.tensorrt import kernels_report
    from sattn_runtime.tensorrt.inspect_kernels import check, inspect_kernels

    check(request)
    with build_progress() as watcher:
        report = inspect_kernels(load_model_file(model), request, watcher)
    if json_output:
        print_json(kernels_report.as_data(report))
    else:
        print_lines(kernels_report.as_text(report))


def inspect_main(args: list[str] | None = None, prog: str = "sattn-inspect") -> None:
    """Entry point of `sattn-inspect` and `sattn inspect`."""
    run_app(new_app(_inspect), prog, args)
