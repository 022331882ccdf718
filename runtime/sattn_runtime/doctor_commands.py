"""`sattn-doctor`. Parses, makes one library call, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattn_edge.command import new_app, print_json, print_lines, run_app, working
from sattn_runtime.options import Json


def _doctor(
    backend: Annotated[
        str | None, typer.Option(help="What is to run: tensorrt, tensorrt-rtx or onnxruntime. Exits 6 if it can't.")
    ] = None,
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="Examine a copy of another machine's file tree.", show_default=False)
    ] = Path("/"),
    json_output: Json = False,
) -> None:
    """Tells what stands between this machine and its GPU, and the command that mends each thing.

    Looks at JetPack, CUDA, TensorRT and whether this Python sees it, power mode and clocks, memory, and the engine
    store. Nothing is installed or changed.
    """
    from sattn_runtime.doctor import examine, report
    from sattn_runtime.doctor.diagnosis import check_can_run

    with working("examining this machine"):
        diagnosis = examine(root, backend)
    if json_output:
        print_json(report.as_data(diagnosis))
    else:
        print_lines(report.as_text(diagnosis))
    check_can_run(diagnosis)


def doctor_main(args: list[str] | None = None, prog: str = "sattn-doctor") -> None:
    """Entry point of `sattn-doctor` and `sattn doctor`."""
    run_app(new_app(_doctor), prog, args)
