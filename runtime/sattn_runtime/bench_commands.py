"""`sattn-bench`. Parses, makes one library call, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sattn_edge.command import new_app, print_json, print_lines, run_app, tell
from sattn_runtime.options import Attention, Json, ModelArgument

if TYPE_CHECKING:
    from sattn_runtime.bench.results import Bench

_ROOT = typer.Option(metavar="DIR", help="Read the device's state below this folder.", show_default=False, hidden=True)


def _bench(
    model: ModelArgument,
    backend: Annotated[str, typer.Option(help="One or more, with commas: onnxruntime,tensorrt.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="One or more: fp32,int8.")] = "fp32",
    batch: Annotated[str, typer.Option(help="Sensors in step, their windows in one call; one or more: 1,4.")] = "1",
    hop: Annotated[
        str | None, typer.Option(help="Samples from window to window (the contract's); one or more.")
    ] = None,
    threads: Annotated[str, typer.Option(help="Threads for one inference; one or more: 1,2.")] = "1",
    attention: Attention = "auto",
    incremental: Annotated[
        str, typer.Option(help="Plan for overlapping windows, as for sattn-run; one or more: off,edges,stateful.")
    ] = "auto",
    mode: Annotated[str, typer.Option(help="paced at the sensor's rate, back-to-back, or both.")] = "both",
    seconds: Annotated[float, typer.Option(help="For each combination and mode.")] = 10.0,
    windows: Annotated[int | None, typer.Option(help="So many windows for each, in place of --seconds.")] = None,
    speed: Annotated[float, typer.Option(help="Pace of the sensor; 1.0 is real time.")] = 1.0,
    data: Annotated[
        str | None, typer.Option(metavar="FILE", help="windows.npz or a recording (the golden windows).")
    ] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="Latency that counts as a miss (one hop).")] = None,
    max_p99_ms: Annotated[
        float | None, typer.Option(help="Exit 5 if a 99th percentile is above this, or was not measured.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Write text, JSON and one HTML page here.")] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON of an earlier run; exits 4 if it was measured otherwise.")
    ] = None,
    root: Annotated[Path, _ROOT] = Path("/"),
    json_output: Json = False,
) -> None:
    """Measures the latency of a model file on this device, by stage, with its tail and what it was measured in.

    Every combination of backend, precision, batch, hop and threads has its turns within one run, in an order drawn
    anew, so that their ratios hold. A run in which clocks moved is not called stable. Ctrl-C reports what was measured.
    """
    from sattn_runtime.bench import options as o
    from sattn_runtime.bench.measure import bench
    from sattn_runtime.bench.progress import progress
    from sattn_runtime.bench.results import read_bench
    from sattn_runtime.bench.summary import check_budget
    from sattn_runtime.stop import Stop

    options = o.BenchOptions(
        model=str(model),
        backends=o.parse_words("--backend", backend),
        precisions=o.parse_words("--precision", precision),
        batches=o.parse_numbers("--batch", batch),
        hops=() if hop is None else o.parse_numbers("--hop", hop),
        threads=o.parse_numbers("--threads", threads),
        attention=attention,
        incremental=o.parse_words("--incremental", incremental),
        modes=o.parse_modes(mode),
        seconds=seconds,
        windows=windows,
        speed=speed,
        data=data,
        deadline_ms=deadline_ms,
        max_p99_ms=max_p99_ms,
        root=root,
    )
    _check_report(report)
    like = None if compare is None else (str(compare), read_bench(compare))
    with Stop() as stop, progress() as show:
        result = bench(options, stop=stop, tell=tell, progress=show, like=like)
    _give(result, report, json_output)
    check_budget(result, max_p99_ms)


def _check_report(folder: Path | None) -> None:
    if folder is not None:
        from sattn_edge.report_files import check_report

        check_report(folder)


def _give(result: Bench, folder: Path | None, json_output: bool) -> None:
    from sattn_runtime.bench.report import as_text

    # First: should the report fail to be written, what was measured is not lost.
    if json_output:
        print_json(result)
    else:
        print_lines(as_text(result))
    if folder is not None:
        from sattn_runtime.bench.report_html import write_report

        for path in write_report(result, folder):
            tell(f"wrote {path}")


def bench_main(args: list[str] | None = None, prog: str = "sattn-bench") -> None:
    """Entry point of `sattn-bench` and `sattn bench`."""
    run_app(new_app(_bench), prog, args)
