"""The options that several commands of the runtime take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattn_edge.command import JSON_HELP
from sattn_edge.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file made by sattn-export.")]
Backend = Annotated[str, typer.Option(help="What runs the network: onnxruntime, tensorrt or tensorrt-rtx.")]
Precision = Annotated[
    str,
    typer.Option(help="Precision of its arithmetic: fp32, int8 after sattn-calibrate, on TensorRT also fp16 and best."),
]
Attention = Annotated[
    str,
    typer.Option(
        help="Form of the attention blocks: auto, reference, folded, taps, mean-conv, composed or gemm. "
        "auto is what sattn-build found fastest here, else the usual one."
    ),
]
Threads = Annotated[int, typer.Option(help="Threads for one inference.")]
BatchRange = Annotated[
    str | None, typer.Option(metavar="MIN,OPT,MAX", help="TensorRT: any number of windows a call between two.")
]


def parse_batch_range(text: str | None) -> tuple[int, int, int] | None:
    """`1,1,8` as three numbers.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    try:
        least, usual, most = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError("--batch-range", f"got '{text}'", "three numbers, MIN,OPT,MAX: 1,1,8") from error
    return least, usual, most
