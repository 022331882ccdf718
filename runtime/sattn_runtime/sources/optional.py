"""Packages that not every device has: loaded when a source needs them, with the line that installs them if missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from sattn_edge.errors import UnavailableError


def load_package(module: str, extra: str, subject: str) -> ModuleType:
    """Imports a module of an optional package.

    Raises:
        UnavailableError: it is missing, or lacks a library of its own; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    # pylsl without its C library raises RuntimeError, a library that does not load OSError.
    except (ImportError, OSError, RuntimeError) as error:
        package = module.partition(".")[0]
        reason = str(error).partition("\n")[0]
        todo = f"install it: pip install 'sattn-edge[{extra}]'"
        raise UnavailableError(subject, f"needs the package {package} ({reason})", todo=todo) from error
