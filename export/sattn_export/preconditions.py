"""What must hold before anything slow starts: where the file goes, and numbers that float32 can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sattn_edge.contract import Contract
from sattn_edge.errors import ContractError, UsageError
from sattn_edge.model_file import GOLDEN_MAX_BYTES

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def check_output(output: Path, inputs: list[str | Path | None]) -> None:
    """Raises UsageError unless `output` can become a model file and is none of the inputs."""
    if output.suffix != ".onnx":
        raise UsageError("--output", f"got '{output}'", "a name that ends in .onnx")
    if not output.parent.is_dir():
        raise UsageError("--output", f"folder '{output.parent}' is not there", todo="make it first")
    if output.is_dir():
        raise UsageError("--output", f"'{output}' is a folder", "a file", "another name")
    for other in inputs:
        if other and output.exists() and Path(other).exists() and output.samefile(other):
            raise UsageError("--output", f"'{output}' is also an input", "another name")


def check_numbers(contract: Contract, subject: str) -> None:
    """Raises ContractError for a mean or std that is no float32, or a window too large for a golden one."""
    for channel, mean, std in zip(contract.channel, contract.means, contract.stds, strict=True):
        if abs(mean) > _LARGEST or not _SMALLEST <= std <= _LARGEST:
            raise ContractError(
                f"{subject}, channel '{channel.name}'",
                f"mean {mean:g} and std {std:g} do not fit float32",
                f"std from {_SMALLEST:.2g}, both up to {_LARGEST:.2g}",
                "give the channel another unit",
            )
    size = contract.window * contract.modal * 4
    if size > GOLDEN_MAX_BYTES:
        raise ContractError(
            subject,
            f"one window of {contract.window} samples and {contract.modal} channels takes {size:,} bytes",
            f"at most {GOLDEN_MAX_BYTES:,}, since a model file carries golden windows",
            "take a shorter window or a lower rate",
        )
