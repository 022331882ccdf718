"""The page of a run and its plots."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from sattn_edge.errors import UsageError
from sattn_runtime.bench import stability
from sattn_runtime.bench.measure import bench
from sattn_runtime.bench.options import BenchOptions
from sattn_runtime.bench.report import as_text
from sattn_runtime.bench.results import read_bench
from sattn_runtime.doctor.tree import Tree
from sattn_runtime.stop import Stop
from tests.sattn_runtime.bench.helpers_bench import FAST, board

replace = msgspec.structs.replace


class Page(HTMLParser):
    """What a page would fetch, and whether its tags are balanced where that matters."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            fetches = name in ("src", "href", "xlink:href", "data", "srcset", "action")
            if fetches and not (value or "").startswith("#"):
                self.outside.append(f"{tag} {name}={value}")


def fetched(text: str) -> list[str]:
    styles = re.findall(r"url\((?!#)[^)]*\)|@import[^;]*", text)
    return Page(text).outside + styles


def test_the_page_stands_on_its_own(cli, model, tmp_path):
    pytest.importorskip("matplotlib")
    done = cli("sattn-bench", model, "--batch", "1,2", *FAST, "--report", tmp_path / "rep")
    assert done.code == 0, done.err
    assert sorted(p.name for p in (tmp_path / "rep").iterdir()) == ["bench.html", "bench.json", "bench.txt"]
    text = (tmp_path / "rep" / "bench.html").read_text()
    assert fetched(text) == []
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("figure") == page.tags.count("svg") >= 6
    assert read_bench(tmp_path / "rep" / "bench.json").measurements
    assert (tmp_path / "rep" / "bench.txt").read_text() in done.out + "\n"


def test_what_was_measured_is_printed_even_if_the_report_can_not_be_kept(cli, model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench import report_html

    def full(*_: object) -> None:
        raise UsageError("--report", "'there' can't be written (No space left on device)")

    monkeypatch.setattr(report_html, "write_files", full)
    done = cli("sattn-bench", model, *FAST, "--json", "--report", tmp_path / "there")
    assert done.code == 2
    assert "No space left" in done.err
    assert json.loads(done.out)["measurements"]


def test_names_in_a_plot_tell_rows_apart(model):
    """Cut to the width of an axis they differed in what was cut out."""
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench.plots import draw, short_names

    options = BenchOptions(str(model), batches=(1, 4), hops=(4, 8), threads=(1, 2), windows=8, speed=1e6)
    found = bench(options, stop=Stop(), tell=lambda _: None)
    for plot in draw(found):
        if plot.title in ("Where the time goes", "Beside the first"):
            text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", plot.svg))
            for words in ("batch 1, hop 4, 1 thread", "batch 4, hop 4, 1 thread", "batch 4, hop 8, 2 threads"):
                assert words in text, text
    assert short_names(
        [replace(row, configuration=name) for row, name in zip(found.measurements, NAMES, strict=False)]
    ) == [
        "fp32, batch 1",
        "int8, batch 4",
    ]


NAMES = ("onnxruntime fp32, batch 1, hop 4, 1 thread", "onnxruntime int8, batch 4, hop 4, 1 thread")


@pytest.mark.parametrize(
    "text",
    ['<img src="https://x/y.png">', '<link href="a.css">', "<style>@import 'x';</style>", "<p style='x: url(y)'>"],
)
def test_the_search_for_what_is_fetched_finds_it(text):
    """The control."""
    assert fetched(text)


def test_the_page_says_what_was_wrong_and_escapes_names(kept):
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench.report_html import page

    evil = "<script>alert(1)</script>"
    restless = replace(kept.stability, stable=False, reasons=("the CPU clock moved",))
    text = page(replace(kept, model=evil, stability=restless, stopped=True))
    assert evil not in text
    assert "NOT STABLE" in text
    assert "the CPU clock moved" in text
    assert "Stopped by a signal" in text
    assert "NOT STABLE" not in page(replace(kept, stability=replace(kept.stability, stable=True, reasons=())))


def test_the_page_of_a_board_has_its_curves_over_time(model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench.plots import draw

    tree = board("orin-nano", tmp_path)
    monkeypatch.setattr(stability, "OTHERS", 10.0)
    found = bench(
        BenchOptions(str(model), windows=5, speed=500, root=Path(tree.host_path(""))), stop=Stop(), tell=lambda _: None
    )
    titles = [plot.title for plot in draw(found) if plot.section == "device"]
    assert titles == ["CPU clocks", "Temperature", "Power of the board"]
    assert isinstance(Tree(tmp_path), Tree)


def test_a_stopped_run_without_windows_still_makes_a_page(kept):
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench.report_html import page

    empty = replace(kept, measurements=(), stopped=True)
    assert "Stopped by a signal" in page(empty)
    assert as_text(empty)
