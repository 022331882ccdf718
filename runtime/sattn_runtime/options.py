"""The options that several commands of the runtime take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattn_edge.command import JSON_HELP

Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file made by sattn-export.")]
Backend = Annotated[str, typer.Option(help="What runs the network.")]
Precision = Annotated[str, typer.Option(help="Precision of its arithmetic: fp32, or int8 after sattn-calibrate.")]
Attention = Annotated[
    str,
    typer.Option(
        help="Form of the attention blocks: auto, reference, folded, taps, mean-conv, composed or gemm. "
        "auto is what sattn-build found fastest here, else the usual one."
    ),
]
Threads = Annotated[int, typer.Option(help="Threads for one inference.")]
