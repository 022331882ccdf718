"""A calibration as files to keep: a page that stands on its own, its data, its text.

The page needs matplotlib and jinja2, which are the extra `[report]`.
"""

from __future__ import annotations

import os
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import msgspec

from sattn_calibration.pipeline import Calibration
from sattn_calibration.report import (
    SCHEME_TEXT,
    as_data,
    as_text,
    best_tried,
    form_kept,
    number,
    overlap_text,
    percent,
    range_text,
    split_text,
)
from sattn_calibration.report_data import Row
from sattn_edge.errors import UnavailableError, UsageError
from sattn_edge.files import write_atomic

NAMES = ("calibration.html", "calibration.json", "calibration.txt")
_NEEDED = ("matplotlib", "jinja2")
_BEST = 12  # candidates a target's table shows


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


def write_report(result: Calibration, folder: Path) -> list[Path]:
    """Writes calibration.html, .json and .txt into a folder, which is made if it is not there; returns their paths.

    Raises:
        UnavailableError: matplotlib or jinja2 is missing. UsageError: the folder can't be written.
    """
    check_report(folder)
    data = as_data(result)
    contents = (
        page(result, data),
        msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n",
        "\n".join(as_text(result)) + "\n",
    )
    paths = [folder / name for name in NAMES]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, contents, strict=True):
            write_atomic(path, text.encode())
    except OSError as error:
        raise UsageError("--report", f"'{folder}' can't be written ({error.strerror})") from error
    return paths


def page(result: Calibration, data: Row) -> str:
    """The page, with everything it needs inside. Every name a user gave is escaped; plots escape their own."""
    from jinja2 import Environment, StrictUndefined

    from sattn_calibration.plots import draw

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, number=number, commas="{:,}".format)
    template = environment.from_string((files("sattn_calibration") / "report.html").read_text(encoding="utf-8"))
    sections: dict[str, list[object]] = {"layers": [], "choice": [], "flips": [], "data": []}
    for plot in draw(result, data):
        sections[plot.section].append(plot)
    return template.render(
        data=data,
        plots=sections,
        schemes=SCHEME_TEXT,
        best={name: best_tried(target, _BEST) for name, target in data["targets"].items()},
        share={row["layer"]: row["share"] for row in data["layers"]},
        split=split_text(data),
        overlap=overlap_text(data["data"]),
        range_text=range_text,
        form_kept=form_kept,
    )
