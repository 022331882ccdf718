"""The export stage: a trained checkpoint and a contract in, a verified model file out. Needs the `export` extra."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sattn_export.pipeline import ExportOptions, ExportResult, export

__all__ = ["ExportOptions", "ExportResult", "export"]


def __getattr__(name: str) -> Any:
    """Fetches a public name when it is first used, so that `--help` does not load torch."""
    if name not in __all__:
        raise AttributeError(f"module 'sattn_export' has no attribute {name!r}")
    return getattr(importlib.import_module("sattn_export.pipeline"), name)
