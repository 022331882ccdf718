"""The umbrella command `sattn`. A table of strings: nothing is imported but the one command that runs."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from sattn_edge._version import __version__
from sattn_edge.command import EXIT_CODES, run_app

# command -> where its entry point is, what it does
COMMANDS = {
    "export": ("sattn_export.commands:export_main", "Turn a trained checkpoint into a verified model file."),
    "calibrate": ("sattn_calibration.commands:calibrate_main", "Find a model file's INT8 ranges on real windows."),
    "build": ("sattn_runtime.build_commands:build_main", "Build what runs a model file fastest on this device."),
    "verify": ("sattn_runtime.commands:verify_main", "Replay a model file's golden windows on an engine."),
    "inspect": ("sattn_runtime.inspect_commands:inspect_main", "Show what a model file holds."),
    "run": ("sattn_runtime.commands:run_main", "Run a model file on a stream, with a latency report."),
    "bench": ("sattn_runtime.bench_commands:bench_main", "Measure a model file's latency on this device."),
    "doctor": ("sattn_runtime.doctor_commands:doctor_main", "Tell what this device lacks, and how to mend it."),
    "demo": ("sattn_edge.demo:demo_main", "Do all of it on real data shipped with the package."),
}
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback(epilog=EXIT_CODES)(_umbrella)
    for name, (_, summary) in COMMANDS.items():
        app.command(name, help=summary, context_settings=dict(_PASS_ON), add_help_option=False)(_delegate)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sattn-edge {__version__}")
        raise typer.Exit


def _umbrella(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Trained spatial-attention networks, from a PyTorch checkpoint to decisions on a live sensor stream."""


def _delegate(context: typer.Context) -> None:
    """Hands everything behind the command's name to the command itself."""
    name = context.info_name or ""
    module, function = COMMANDS[name][0].split(":")
    getattr(importlib.import_module(module), function)(list(context.args), f"sattn {name}")


def main(args: list[str] | None = None) -> None:
    """Entry point of `sattn`."""
    run_app(_app(), "sattn", args)
