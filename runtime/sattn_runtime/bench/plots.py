"""The plots of a benchmark's page, each an SVG element with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sattn_edge.plot_style import (
    FIFTH,
    FILL,
    FIRST,
    FOURTH,
    MUTED,
    SECOND,
    SIXTH,
    THIRD,
    clip_name,
    log_axis,
    new_figure,
    styled,
    svg_of,
)
from sattn_runtime.bench.report import STAGE_WORDS
from sattn_runtime.bench.results import Bench, Measurement

_COLOURS = (FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH)
_STYLES: tuple[str, ...] = ("-", "--", ":")
_MOST = len(_COLOURS) * len(_STYLES)
_STAGE_COLOURS = dict(zip(STAGE_WORDS, (MUTED, FOURTH, THIRD, FIRST, FIFTH, SECOND), strict=True))
_LEGEND_ROW = 0.19  # inches
_ROW, _NAME_LINE = 0.3, 0.13  # inches of a row, and of each further line of its name
_NAME_WIDTH = 24  # characters in a line of it
_TAIL = {0.0: "0", 0.5: "50", 0.9: "90", 0.99: "99", 0.999: "99.9", 0.9999: "99.99", 0.99999: "99.999"}
_OVER_TIME = {
    "cpu_mhz": ("CPU clocks", "MHz"),
    "gpu_mhz": ("GPU clock", "MHz"),
    "temperature_c": ("Temperature", "\N{DEGREE SIGN}C"),
    "power_w": ("Power of the board", "W"),
}


@dataclass(frozen=True)
class Plot:
    """section: where on the page it stands. svg: an element of its own. description: what a reader would see."""

    section: str
    title: str
    svg: str
    description: str


def draw(bench: Bench) -> list[Plot]:
    """All plots of a run."""
    plots = []
    with styled():
        for mode in dict.fromkeys(row.mode for row in bench.measurements):
            rows = [row for row in bench.measurements if row.mode == mode][:_MOST]
            names = short_names(rows)
            plots += [_tail(mode, rows, names), _stages(mode, rows, names)]
            if len(rows) > 1:
                plots.append(_ratios(mode, rows, names))
        plots += _over_time(bench)
    return plots


def short_names(rows: Sequence[Measurement]) -> list[str]:
    """What tells configurations apart: `batch 4`, of names that are otherwise alike."""
    # Backend and precision stand together in a name, and are two things to differ in.
    parts = [row.configuration.replace(" ", ", ", 1).split(", ") for row in rows]
    differ = [i for i in range(len(parts[0])) if len({p[i] for p in parts}) > 1] or [0]
    return [", ".join(p[i] for i in differ) for p in parts]


def _name_axis(axes: Axes, names: Sequence[str], above: float) -> None:
    """Names down the left side, whole: cut short, those that differ in their middle would look alike."""
    axes.set_yticks(range(len(names)), labels=[fill(name, _NAME_WIDTH) for name in names])
    axes.set_ylim(len(names) - 0.4, -above)


def _row_height(names: Sequence[str]) -> float:
    """Inches for each row of a plot with names down its side."""
    return _ROW + _NAME_LINE * (max(fill(name, _NAME_WIDTH).count("\n") for name in names))


def _plot(section: str, key: str, title: str, description: str, figure: Figure) -> Plot:
    return Plot(section, title, svg_of(figure, f"{section}-{key}"), description)


def _tail(mode: str, rows: Sequence[Measurement], names: Sequence[str]) -> Plot:
    """Latency over how rare it is: each decade to the right is ten times rarer."""
    figure, axes = new_figure(2.7 + _LEGEND_ROW * len(rows))
    rarest = 1.0
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        part, value = np.array(row.percentiles_us).T
        # The last point is the maximum, which so many windows show: one in all of them.
        times = np.append(1 / (1 - part[:-1]), row.windows)
        rarest = max(rarest, row.windows)
        colour, style = _COLOURS[i % len(_COLOURS)], _STYLES[i // len(_COLOURS)]
        axes.step(times, value / 1000, where="pre", color=colour, linestyle=style, linewidth=1.6, label=name)
    if mode == "paced":
        _deadlines(axes, rows)
    log_axis(axes, "y", subs=(1, 2, 5))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - q) for q in _TAIL if 1 / (1 - q) <= rarest * 1.001]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _TAIL[min(_TAIL, key=lambda q: abs(1 / (1 - q) - x))]))
    axes.set(xlabel="percent of the windows (log scale to the right)", ylabel="latency, ms (log scale)")
    axes.grid(axis="both")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), handlelength=2.6)
    text = "How many percent of the windows take no longer. The end of a line is the slowest of all."
    return _plot(mode, "tail", "Latency and its tail", text, figure)


def _deadlines(axes: Axes, rows: Sequence[Measurement]) -> None:
    for deadline_us in dict.fromkeys(row.deadline_us for row in rows):
        axes.axhline(deadline_us / 1000, color=MUTED, linestyle=":", linewidth=1.2)
        axes.annotate(
            f"deadline {deadline_us / 1000:g} ms",
            (1, deadline_us / 1000),
            xycoords=("axes fraction", "data"),
            xytext=(-3, -9),
            textcoords="offset points",
            ha="right",
            color=MUTED,
            fontsize=8,
        )


def _stages(mode: str, rows: Sequence[Measurement], names: Sequence[str]) -> Plot:
    """Means, since only they add up to the whole."""
    figure, axes = new_figure(1.25 + _row_height(names) * len(rows))
    left = np.zeros(len(rows))
    for stage, word in STAGE_WORDS.items():
        width = np.array([(row.stages_us[stage]["mean"] or 0.0) / 1000 for row in rows])
        axes.barh(range(len(rows)), width, left=left, height=0.62, color=_STAGE_COLOURS[stage], label=word)
        left += width
    _name_axis(axes, names, 0.6)
    axes.set_xlabel("mean time of a window, ms")
    axes.grid(axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, handlelength=1.1)
    return _plot(
        mode, "stages", "Where the time goes", "Mean of each stage; together they are the mean latency.", figure
    )


def _ratios(mode: str, rows: Sequence[Measurement], names: Sequence[str]) -> Plot:
    figure, axes = new_figure(0.8 + _row_height(names) * len(rows))
    for i, row in enumerate(rows):
        if row.ratio is None or row.ratio_low is None or row.ratio_high is None:
            continue
        colour = _COLOURS[i % len(_COLOURS)]
        axes.plot([row.ratio_low, row.ratio_high], [i, i], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(row.ratio, i, "o", color=colour, markersize=6)
        axes.annotate(f"{row.ratio:.2f}", (row.ratio, i), xytext=(0, 6), textcoords="offset points", ha="center")
    axes.axvline(1.0, color=FILL, linewidth=1.2)
    _name_axis(axes, names, 0.8)
    axes.margins(x=0.1)
    axes.set_xlabel("median over the first one's (below 1: faster)")
    axes.grid(axis="x")
    text = "The median over the rounds; the bar is the middle half of them. Each round had every configuration."
    return _plot(mode, "ratios", "Beside the first", text, figure)


def _over_time(bench: Bench) -> list[Plot]:
    plots = []
    for key, (title, unit) in _OVER_TIME.items():
        series: dict[str, tuple[float | None, ...]] = getattr(bench.series, key)
        shown = list(series.items())[:_MOST]
        if not shown or len(bench.series.at_s) < 2:
            continue
        figure, axes = new_figure(1.9 + _LEGEND_ROW * (len(shown) + 1) // 2)
        for i, (name, values) in enumerate(shown):
            told = np.array([np.nan if v is None else v for v in values], np.float64)
            colour, style = _COLOURS[i % len(_COLOURS)], _STYLES[i // len(_COLOURS)]
            axes.plot(bench.series.at_s, told, color=colour, linestyle=style, linewidth=1.3, label=clip_name(name))
        axes.set(xlabel="seconds since the first turn", ylabel=unit)
        axes.grid(axis="y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
        more = f" {len(series) - len(shown)} more are in bench.json." if len(series) > len(shown) else ""
        plots.append(_plot("device", key, title, f"As the device told it during the run.{more}", figure))
    return plots
