"""What must hold before anything slow starts: where the file goes, and a window that fits into it."""

from __future__ import annotations

from pathlib import Path

from sattn_edge.contract import Contract
from sattn_edge.errors import ContractError, UsageError
from sattn_edge.model_file import GOLDEN_MAX_BYTES


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


def check_golden_fits(contract: Contract, subject: str) -> None:
    """Raises ContractError for a window too large to be a golden one."""
    size = contract.window * contract.modal * 4
    if size > GOLDEN_MAX_BYTES:
        raise ContractError(
            subject,
            f"one window of {contract.window} samples and {contract.modal} channels takes {size:,} bytes",
            f"at most {GOLDEN_MAX_BYTES:,}, since a model file carries golden windows",
            "take a shorter window or a lower rate",
        )
