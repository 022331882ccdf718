"""`sattn-export`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sattn_edge.command import JSON_HELP, new_app, print_json, print_lines, run_app, working
from sattn_edge.errors import UnavailableError


class GoldenChoice(str, Enum):
    """Where golden windows come from."""

    auto = "auto"
    synthetic = "synthetic"


def _export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A state_dict (.pt, .pth, .safetensors) of the reference network, a torch.export program (.pt2), "
            "an .onnx file by another exporter, or package.module:factory.",
        ),
    ],
    contract: Annotated[Path, typer.Option("--contract", "-c", help="The contract, a TOML file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model file to write, NAME.onnx.")],
    data: Annotated[
        str | None, typer.Option(help="Real windows (windows.npz) or a recording (.npz, .csv, FILE#NAME).")
    ] = None,
    golden: Annotated[
        GoldenChoice, typer.Option(help="Golden windows: real ones where there is data, or always synthetic.")
    ] = GoldenChoice.auto,
    weights: Annotated[Path | None, typer.Option(help="The state_dict for package.module:factory.")] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Load a .pt2 archive although it can run code.")
    ] = False,
    attention_output: Annotated[
        bool,
        typer.Option(
            "--attention-output",
            help="Give the gates of the attention blocks as a second output: which moments the network looks at.",
        ),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Turns a trained checkpoint into a verified model file.

    The file is written only if its logits agree with the checkpoint's.
    """
    try:
        from sattn_export.pipeline import ExportOptions, export
        from sattn_export.report import as_data, as_text
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "sattn-export", f"needs {error.name}", todo="install it: pip install 'sattn-edge[export]'"
        ) from error
    options = ExportOptions(
        checkpoint=checkpoint,
        contract=contract,
        output=output,
        data=data,
        golden="synthetic" if golden is GoldenChoice.synthetic else "auto",
        weights=weights,
        trust_code=trust_code,
        attention_output=attention_output,
    )
    with working(f"exporting {checkpoint}"):
        result = export(options)
    if json_output:
        print_json(as_data(result))
    else:
        print_lines(as_text(result))


def export_main(args: list[str] | None = None, prog: str = "sattn-export") -> None:
    """Entry point of `sattn-export` and `sattn export`."""
    run_app(new_app(_export), prog, args)
