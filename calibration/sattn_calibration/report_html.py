"""A calibration as files to keep: a page that stands on its own, its data, its text.

The page needs matplotlib and jinja2, which are the extra `[report]`.
"""

from __future__ import annotations

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
from sattn_edge.report_files import check_report, render, write_files

__all__ = ["NAMES", "check_report", "page", "write_report"]

NAMES = ("calibration.html", "calibration.json", "calibration.txt")
_BEST = 12  # candidates a target's table shows


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
    return write_files(folder, dict(zip(NAMES, contents, strict=True)))


def page(result: Calibration, data: Row) -> str:
    """The page, with everything it needs inside. Every name a user gave is escaped; plots escape their own."""
    from sattn_calibration.plots import draw

    sections: dict[str, list[object]] = {"layers": [], "choice": [], "flips": [], "data": []}
    for plot in draw(result, data):
        sections[plot.section].append(plot)
    return render(
        "sattn_calibration",
        "report.html",
        {"percent": percent, "number": number, "commas": "{:,}".format},
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
