"""`sattn-calibrate`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sattn_edge.command import JSON_HELP, new_app, print_json, print_lines, run_app


class MethodChoice(str, Enum):
    """How ranges are found."""

    auto = "auto"
    minmax = "minmax"
    percentile = "percentile"
    entropy = "entropy"
    mse = "mse"


def _calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file made by sattn-export.")],
    data: Annotated[str, typer.Option(help="Real windows (windows.npz) or recordings (.npz, .csv, FILE#NAME).")],
    method: Annotated[
        MethodChoice, typer.Option(help="How ranges are found; auto tries all and measures.")
    ] = MethodChoice.auto,
    budget: Annotated[float, typer.Option(help="Labels that may differ from FP32's, in % of the windows.")] = 0.5,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write calibration.html, .json and .txt into this folder.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The model file to write (MODEL itself).")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Finds integer ranges on real windows and puts them into the model file.

    Ranges and layers are chosen by agreement with FP32 on windows that gave no ranges. Layers whose INT8 costs more
    than the budget stay in higher precision.
    """
    from sattn_calibration.pipeline import CalibrateOptions, calibrate
    from sattn_calibration.progress import progress
    from sattn_calibration.report import as_data, as_text
    from sattn_calibration.report_html import check_report, write_report

    if report is not None:
        check_report(report)
    options = CalibrateOptions(model=model, data=data, method=method.value, budget=budget, output=output)
    with progress() as listen:
        result = calibrate(options, listen)
        written = [str(path) for path in write_report(result, report)] if report is not None else []
    if json_output:
        print_json({**as_data(result), "report": written})
    else:
        print_lines([*as_text(result), *(f"report: {path}" for path in written)])


def calibrate_main(args: list[str] | None = None, prog: str = "sattn-calibrate") -> None:
    """Entry point of `sattn-calibrate` and `sattn calibrate`."""
    run_app(new_app(_calibrate), prog, args)
