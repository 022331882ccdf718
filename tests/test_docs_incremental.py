"""docs/incremental.md: its commands are the product's, its figures what the planner counts, its drawing there."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sattn_edge.incremental import Plans, plans_for, read_chain
from sattn_edge.incremental.extents import extents
from sattn_runtime.plans import CLEARLY_LESS, INCREMENTAL, NODE_WORK
from tests.helpers_lowering import Layer, Network, build
from tests.test_docs import code_spans, console_lines, options_of, parsed, product_command

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "incremental.md").read_text()


def network(series: int) -> Network:
    return Network(tuple(Layer(width) for width in (64, 128, 256, 512)), series=series, modal=9, classes=6)


def plans(series: int, hop: int) -> Plans:
    return plans_for(read_chain(build(network(series))), hop)


def rows(of: str) -> list[list[str]]:
    """The cells of a table by the begin of its header."""
    table = PAGE[PAGE.index(of) :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("line", console_lines(PAGE))
def test_a_line_is_one_the_command_takes(line, monkeypatch):
    parsed(line, monkeypatch)


def test_options_within_sentences_are_options_of_some_command(monkeypatch):
    commands = [product_command(name, monkeypatch) for name in ("sattn-run", "sattn-build", "sattn-inspect")]
    known = set().union(*map(options_of, commands))
    used = {word for span in code_spans(PAGE) for word in span.split() if word.startswith("--")}
    assert {"--incremental", "--hop", "--resume"} <= used <= known


def test_the_drawing_is_there():
    (target,) = re.findall(r"!\[[^]]*\]\(([^)]*)\)", PAGE)
    assert ElementTree.parse(DOCS / target).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_columns_that_deviate():
    _, layers = extents(read_chain(build(network(256))))
    for (_, step, start, end), found in zip(rows("| block |"), layers, strict=True):
        assert int(step) == found.out.step
        assert [int(n) for n in re.findall(r"\d+", start)] == [found.conv.left, found.out.left]
        assert [int(n) for n in re.findall(r"\d+", end)] == [found.conv.right, found.out.right]


@pytest.mark.parametrize("row", rows("| window |"), ids=lambda row: f"{row[0]} every {row[1]}")
def test_counted_figures(row):
    series, hop = int(row[0]), int(row[1])
    found = plans(series, hop)
    shares = {name: f"{plan.multiply_adds / found.full_multiply_adds:.2f}" for name, plan in found.plans.items()}
    state = found.plans["stateful"].state_values * 4 / 1024
    assert row[2:] == [
        f"{1 - hop / series:.0%}".replace("%", " %"),
        shares.get("edges", "-"),
        shares["stateful"],
        f"{state:.0f}",
    ]


def test_figures_within_sentences():
    assert plans(256, 16).plans["edges"].samples == 96
    assert plans(1024, 24).phases == 2
    assert plans(1024, 24).plans["stateful"].advance == 48
    assert not plans(200, 50).plans
    assert plans(200, 48).plans
    right = [extents(read_chain(build(network(series))))[1][-1].out.right for series in (256, 200, 203)]
    assert right == [2, 3, 3]
    held = [held for stage in plans(256, 16).plans["stateful"].stages for held in (stage.source, stage.mapped)]
    assert {len(one.state) for one in held} == {2, 3, 4, 6}
    assert f"at most {CLEARLY_LESS} of the whole window's work with {NODE_WORK:,} multiply-adds" in " ".join(
        PAGE.split()
    )
    assert set(INCREMENTAL) <= set(code_spans(PAGE)) | {"auto"}
