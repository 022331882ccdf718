"""`sattn-run`, `sattn-verify`, `sattn-inspect`. Each parses, makes one library call, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattn_edge.command import JSON_HELP, new_app, print_json, print_lines, run_app, tell
from sattn_edge.errors import QualityError, UsageError

Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file made by sattn-export.")]
Backend = Annotated[str, typer.Option(help="What runs the network.")]
Precision = Annotated[str, typer.Option(help="Precision of its arithmetic.")]
Threads = Annotated[int, typer.Option(help="Threads for one inference.")]


def _run(
    model: ModelArgument,
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="replay:FILE (.npz, .csv, FILE#NAME), or - for CSV rows on stdin."),
    ],
    hop: Annotated[int | None, typer.Option(help="Samples from one window to the next (the contract's).")] = None,
    speed: Annotated[str, typer.Option(help="Pace of a replay: max, or a factor (1.0 is real time).")] = "max",
    journal: Annotated[
        str | None,
        typer.Option(help="Append decisions here, a JSON line each; - is stdout, and the report goes to stderr."),
    ] = None,
    smooth: Annotated[int, typer.Option(help="Decide on the mean score of this many windows.")] = 1,
    backend: Backend = "onnxruntime",
    precision: Precision = "fp32",
    threads: Threads = 1,
    deadline_ms: Annotated[float | None, typer.Option(help="Latency that counts as a miss (one hop).")] = None,
    max_p99_ms: Annotated[float | None, typer.Option(help="Exit 5 if the 99th percentile is above this.")] = None,
    json_output: Json = False,
) -> None:
    """Runs a model file on a stream of samples and reports its latency.

    Ctrl-C or SIGTERM drains: what was read is decided, journalled and reported. A second Ctrl-C ends it at once.
    """
    from sattn_edge.engine import EngineOptions
    from sattn_runtime import report
    from sattn_runtime.progress import progress
    from sattn_runtime.run import RunOptions, check_budget, run
    from sattn_runtime.stop import Stop

    options = RunOptions(
        model=str(model),
        source=source,
        hop=hop,
        speed=_speed(speed),
        smooth=smooth,
        journal=journal,
        backend=backend,
        engine=EngineOptions(precision, threads),
        deadline_ms=deadline_ms,
        max_p99_ms=max_p99_ms,
    )
    with Stop() as stop, progress() as listen:
        result = run(options, tell=tell, stop=stop, listen=listen)
    if json_output:
        print_json(report.as_data(result), to_stderr=journal == "-")
    else:
        print_lines(report.as_text(result), to_stderr=journal == "-")
    check_budget(result)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise UsageError("--speed", f"got '{text}'", "max, or a factor above 0 (1.0 is real time)") from error


def _verify(
    model: ModelArgument,
    backend: Backend = "onnxruntime",
    precision: Precision = "fp32",
    threads: Threads = 1,
    json_output: Json = False,
) -> None:
    """Replays a model file's golden windows on an engine. Exits 4 if the logits are not the trained network's."""
    from sattn_edge.engine import EngineOptions, check_backend
    from sattn_edge.model_file import load_model_file
    from sattn_runtime import verify

    check_backend(backend)
    result = verify.verify(load_model_file(model), backend, EngineOptions(precision, threads))
    if json_output:
        print_json(verify.as_data(result))
    else:
        print_lines(verify.as_text(result))
    if not result.passed:
        raise QualityError(
            model.name,
            f"{len(result.failures)} of {result.windows} golden windows are beyond the tolerance",
            f"{result.tolerance:g} of the logit scale",
            "export the model again, or check the engine",
        )


def _inspect(model: ModelArgument, json_output: Json = False) -> None:
    """Shows a model file's contract, attention blocks, cost, calibration state and digests."""
    from sattn_edge.model_file import load_model_file
    from sattn_runtime import inspect_model

    found = load_model_file(model)
    if json_output:
        print_json(inspect_model.as_data(found))
    else:
        print_lines(inspect_model.as_text(found))


def run_main(args: list[str] | None = None, prog: str = "sattn-run") -> None:
    """Entry point of `sattn-run` and `sattn run`."""
    run_app(new_app(_run), prog, args)


def verify_main(args: list[str] | None = None, prog: str = "sattn-verify") -> None:
    """Entry point of `sattn-verify` and `sattn verify`."""
    run_app(new_app(_verify), prog, args)


def inspect_main(args: list[str] | None = None, prog: str = "sattn-inspect") -> None:
    """Entry point of `sattn-inspect` and `sattn inspect`."""
    run_app(new_app(_inspect), prog, args)
