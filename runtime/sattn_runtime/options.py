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
Gap = Annotated[
    str,
    typer.Option(
        help="Where samples are missing: split (no window spans it), hold (repeat the last) or interpolate; "
        "more than an eighth of a window is always split."
    ),
]
Reorder = Annotated[
    int | None,
    typer.Option(metavar="N", help="Hold up to N samples back for one that is late (0; MQTT with seq: for 5 s)."),
]
Hysteresis = Annotated[
    float, typer.Option(metavar="X", help="Another label must lead the present one by this much score.")
]
Dwell = Annotated[
    float | None,
    typer.Option(metavar="S", help="A label must lead for S seconds; start and end of each become events."),
]
Monitor = Annotated[
    bool, typer.Option("--monitor/--no-monitor", help="Don't decide on input that is not like the training data.")
]
AbstainBelow = Annotated[float, typer.Option(metavar="X", help="No label where its score is below X.")]
Queue = Annotated[
    int | None,
    typer.Option(metavar="N", help="Let at most N samples of a live source wait; drop the rest and count them."),
]
Overload = Annotated[str, typer.Option(help="What a full queue drops: oldest or newest.")]
Resample = Annotated[
    float | None, typer.Option(metavar="HZ", help="The source's rate, where it is another; brought to the contract's.")
]
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
