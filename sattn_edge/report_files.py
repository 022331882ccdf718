"""A report as files to keep: a page that stands on its own, its data, its text.

The page needs matplotlib and jinja2, which are the extra `[report]`; nothing here imports them before it is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from sattn_edge.errors import UnavailableError, UsageError
from sattn_edge.files import write_atomic

_NEEDED = ("matplotlib", "jinja2")
_CORE = "sattn_edge"


def check_report(folder: Path) -> None:
    """Whether a report can be made, before anything slow starts. Nothing is written.

    Raises:
        UnavailableError: matplotlib or jinja2 is missing. UsageError: the folder can't be made or written.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UnavailableError(
            "--report", f"needs {' and '.join(missing)}", todo="install it: pip install 'sattn-edge[report]'"
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError("--report", f"'{folder}' is a file", "a folder", "name another")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError("--report", f"'{folder}' can't be written", "a folder", "name another")


def write_files(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """Writes name -> text into a folder, which is made if it is not there; returns the paths.

    Raises:
        UsageError: the folder can't be written.
    """
    paths = [folder / name for name in contents]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, contents.values(), strict=True):
            write_atomic(path, text.encode())
    except OSError as error:
        raise UsageError("--report", f"'{folder}' can't be written ({error.strerror})") from error
    return paths


def render(package: str, template: str, filters: Mapping[str, Callable[..., str]], **values: object) -> str:
    """A page of a package's template, in the style that all our pages share. Every value is escaped but the style."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters)
    style = (files(_CORE) / "report_page.css").read_text(encoding="utf-8")
    text = (files(package) / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(style=style, **values)
