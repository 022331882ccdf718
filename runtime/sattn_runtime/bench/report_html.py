"""A benchmark as files to keep: a page that stands on its own, its data, its text.

The page needs matplotlib and jinja2, which are the extra `[report]`.
"""

from __future__ import annotations

from pathlib import Path

from sattn_edge.report_files import check_report, render, write_files
from sattn_edge.text import microseconds
from sattn_runtime.bench import report
from sattn_runtime.bench.results import Bench, encode

NAMES = ("bench.html", "bench.json", "bench.txt")


def write_report(bench: Bench, folder: Path) -> list[Path]:
    """Writes bench.html, .json and .txt into a folder, which is made if it is not there; returns their paths.

    Raises:
        UnavailableError: matplotlib or jinja2 is missing. UsageError: the folder can't be written.
    """
    check_report(folder)
    contents = (page(bench), encode(bench).decode(), "\n".join(report.as_text(bench)) + "\n")
    return write_files(folder, dict(zip(NAMES, contents, strict=True)))


def page(bench: Bench) -> str:
    """The page, with everything it needs inside. Every name is escaped; plots escape their own."""
    from sattn_runtime.bench.plots import draw

    modes = {
        mode: [row for row in bench.measurements if row.mode == mode]
        for mode in report.MODE_TITLES
        if any(row.mode == mode for row in bench.measurements)
    }
    return render(
        "sattn_runtime.bench",
        "report.html",
        {
            "cell": report.cell,
            "time": microseconds,
            "commas": "{:,}".format,
            "joules": report.joules,
            "ratio": report.ratio_text,
        },
        bench=bench,
        modes=modes,
        titles=report.MODE_TITLES,
        columns=report.COLUMNS,
        stages=report.STAGE_WORDS,
        cold=report.cold_rows(bench),
        plots=draw(bench),
        verdict=report.VERDICTS[bench.stability.stable],
        pace=report.pace(bench),
        device=report.device(bench.before),
        clocks=report.clocks(bench),
        temperatures=report.temperatures(bench),
    )
