"""From a matplotlib figure to SVG that a page of any colour scheme can hold, the same bytes for the same data.

Figures are drawn in a few fixed colours, each of which becomes a CSS variable: the page says what they look like in
light and in dark. Text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sattn_edge.text import printable

INK, MUTED, LINE, FILL = "#1b1f24", "#59636e", "#d0d7df", "#86a9d1"
FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH = "#0b5cad", "#c2410c", "#1a7f37", "#8250df", "#9a6700", "#bf3989"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    FILL: "--fill",
    FIRST: "--first",
    SECOND: "--second",
    THIRD: "--third",
    FOURTH: "--fourth",
    FIFTH: "--fifth",
    SIXTH: "--sixth",
}
WIDTH = 4.5  # inches, at 72 units each: on a narrow page a unit is about a pixel
_LONGEST = 22  # characters of a name on an axis
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sattn-edge",
    "text.parse_math": False,  # a label may hold a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@contextmanager
def styled() -> Iterator[None]:
    """Our style over matplotlib's own defaults, whatever the user's settings are."""
    with mpl.rc_context(), warnings.catch_warnings():
        # A name may hold characters matplotlib has no glyph for; the reader's browser has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of the page's width with one axes, `height` inches high. No pyplot: no state, no window system."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot()


def log_axis(axes: Axes, which: Literal["x", "y"], subs: tuple[int, ...] = (1,)) -> None:
    """Makes an axis logarithmic, its numbers plain: `0.2`, `1,000`, `1 M`."""
    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    axis.set_minor_formatter(NullFormatter())


def plain_number(value: float) -> str:
    """A tick of a logarithmic axis."""
    if value >= 1e6:
        return f"{value / 1e6:,.0f} M"
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def clip_name(name: str) -> str:
    """A name short enough for an axis; the tables have it whole."""
    name = printable(name)
    if len(name) <= _LONGEST:
        return name
    half = (_LONGEST - 1) // 2
    return f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def svg_of(figure: Figure, key: str) -> str:
    """The figure as an SVG element to stand in a page; `key` makes its ids its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    size = box.group(1) if box else ""
    # Only inside of tags: what a user named something stays as it is.
    body = re.sub(r"<[^>]*>", lambda tag: _own(tag.group(), key), body)
    return f'<svg viewBox="{size}" aria-hidden="true">{body}'.strip()


def _own(tag: str, key: str) -> str:
    """A tag with ids of its own, and the page's colours and font."""
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', tag)
    tag = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{key}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", tag)
    for colour, variable in VARIABLES.items():  # in style attributes, in lower case
        tag = tag.replace(colour, f"var({variable})")
    return re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "var(--font)", tag)
