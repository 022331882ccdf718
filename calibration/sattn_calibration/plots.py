"""The plots of a calibration report, each an SVG element with a caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sattn_calibration.histogram import Histogram
from sattn_calibration.pipeline import Calibration
from sattn_calibration.report_data import Row
from sattn_edge.calibration_table import CLEAR_MARGIN
from sattn_edge.contract import Channel
from sattn_edge.plot_style import (
    FILL,
    FIRST,
    INK,
    LINE,
    MUTED,
    SECOND,
    clip_name,
    log_axis,
    new_figure,
    styled,
    svg_of,
)
from sattn_edge.statistics import channel_statistics
from sattn_edge.text import printable

_COLOURS = {"onnxruntime": FIRST, "tensorrt": SECOND}
_MARKERS = {"onnxruntime": "o", "tensorrt": "s"}
_STYLES = {"onnxruntime": "-", "tensorrt": (0, (4, 2))}
_BINS = 120
_MOST_ROWS = 32  # of classes or subjects in one plot
_LEAST_ERROR = 1e-4  # percent; where a logarithmic axis of errors begins


@dataclass(frozen=True)
class Plot:
    """section: where in the report it stands. svg: an element of its own. description: what a reader would see."""

    section: str
    title: str
    svg: str
    description: str


def draw(result: Calibration, data: Row) -> list[Plot]:
    """All plots of a calibration; `data` is `as_data(result)`."""
    with styled():
        plots = [*_layer_inputs(result, data), _errors(data), _candidates(data), _margins(result, data)]
        plots += [*_channels(result), *_balance(result)]
    return [plot for plot in plots if plot is not None]


def _plot(section: str, key: str, title: str, description: str, figure: Figure) -> Plot:
    return Plot(section, title, svg_of(figure, key), description)


# -- the layers


def _layer_inputs(result: Calibration, data: Row) -> list[Plot]:
    plots = []
    for i, product in enumerate(data["layers"]):
        chosen = {n: t["layers"][i] for n, t in data["targets"].items() if t["layers"][i]["int8"]}
        if not chosen:
            continue
        seen = result.observations[product["input"]].histogram
        figure, axes = new_figure(2.5)
        _draw_histogram(axes, seen)
        for k, (name, row) in enumerate(chosen.items()):
            _draw_thresholds(axes, name, row, height=0.97 - 0.06 * k)
        axes.set(xlabel="value of the layer's input (no unit)", ylabel="values, log scale")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0))
        zeros = seen.zeros / max(seen.total, 1)
        plots.append(
            _plot(
                "layers",
                f"input{i}",
                f"{product['layer']}: its input",
                f"{seen.total:,} values from {seen.minimum:.4g} to {seen.maximum:.4g}, {zeros:.1%} exactly zero. "
                + _ends(chosen),
                figure,
            )
        )
    return plots


def _ends(chosen: dict[str, Row]) -> str:
    """Says what a bar at the top means, where there is one."""
    if not any(row["factors"] for row in chosen.values()):
        return "The lines are the ends of the integer range."
    return "The lines are the ends of the integer range; in the bar along the top lie those of equalised maps."


def _draw_histogram(axes: Axes, seen: Histogram) -> None:
    low, high = seen.edges()
    middle = np.append((low + high) / 2, 0.0)
    weight = np.append(seen.count, seen.zeros).astype(np.float64)
    span = (min(seen.minimum, 0.0), max(seen.maximum, 0.0))
    counts, edges = np.histogram(np.clip(middle, *span), bins=_BINS, range=span, weights=weight)
    axes.stairs(counts, edges, fill=True, color=FILL)
    log_axis(axes, "y")
    axes.set_ylim(0.7, 8 * counts.max())


def _draw_thresholds(axes: Axes, name: str, row: Row, height: float) -> None:
    """A line at each end; for divided maps that of the widest one, with a bar over where the others end."""
    factors = row["factors"] or [1.0]
    for i, end in enumerate((row["low"], row["high"])):
        if end == 0 and row["low"] != row["high"]:
            continue  # the range begins at zero, as the values do
        ends = [end * min(factors), end * max(factors)]
        label = f"{name} ({row['method']})" if i == 1 else None
        if len(factors) > 1:
            bar = {"color": _COLOURS[name], "alpha": 0.5, "linewidth": 0}
            axes.axvspan(min(ends), max(ends), ymin=height - 0.04, ymax=height, **bar)
        axes.axvline(ends[1], color=_COLOURS[name], linestyle=_STYLES[name], linewidth=1.5, label=label)


def _errors(data: Row) -> Plot | None:
    names = [p["layer"] for p in data["layers"]]
    rows = [i for i in range(len(names)) if any(t["layers"][i]["alone"] for t in data["targets"].values())]
    if not rows:
        return None
    figure, axes = new_figure(0.9 + 0.42 * (len(rows) + 1))
    for k, (name, target) in enumerate(data["targets"].items()):
        found = [target["layers"][i]["alone"] for i in rows] + [target["judged"] if target["int8_layers"] else None]
        _draw_errors(axes, name, found, offset=(k - 0.5) * 0.26)
    axes.set_yticks(range(len(rows) + 1), labels=[*(clip_name(names[i]) for i in rows), "all together"])
    axes.set_ylim(len(rows) + 0.6, -0.6)
    log_axis(axes, "x", subs=(1, 2, 5))
    axes.set_xlabel("logit error, % of the logit scale (log scale)")
    axes.grid(axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    text = "Root mean square (filled) to largest (open) error of the logits when only this layer runs in INT8."
    return _plot("layers", "errors", "Error each layer makes", text, figure)


def _draw_errors(axes: Axes, name: str, found: list[Row | None], offset: float) -> None:
    for i, row in enumerate(found):
        if row is None:
            continue
        ends = [max(100 * row[key], _LEAST_ERROR) for key in ("rms", "largest")]
        label = name if row is next(r for r in found if r is not None) else None
        colour, marker = _COLOURS[name], _MARKERS[name]
        axes.plot(ends, [i + offset] * 2, color=colour, linewidth=1.2)
        axes.plot(ends[0], i + offset, marker, color=colour, markersize=5.5, label=label)
        axes.plot(ends[1], i + offset, marker, color=colour, markersize=5.5, markerfacecolor="none")


# -- the choice


def _candidates(data: Row) -> Plot | None:
    figure, axes = new_figure(2.9)
    for k, (name, target) in enumerate(data["targets"].items()):
        if not target["int8_layers"] and len({row["score"] for row in target["tried"]}) < 2:
            continue
        _draw_candidates(axes, name, target, said_at=9 if k else -16)
    if not axes.collections:
        return None
    axes.axhline(data["budget_points"], color=MUTED, linestyle=":", linewidth=1.2)
    axes.annotate(
        f"budget {data['budget_points']:g}%",
        (1.0, data["budget_points"]),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color=MUTED,
    )
    log_axis(axes, "x", subs=(1, 2, 5))
    axes.set(xlabel="score: logit error, % of the logit scale (log scale)", ylabel="labels that differ, %")
    axes.margins(x=0.08, y=0.15)
    axes.grid(axis="both")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    text = "Each candidate as it did on windows that gave it no ranges; open ones are beyond the budget."
    return _plot("choice", "candidates", "Candidates tried", text, figure)


def _draw_candidates(axes: Axes, name: str, target: Row, said_at: int) -> None:
    colour, marker = _COLOURS[name], _MARKERS[name]
    for within in (True, False):
        rows = [row for row in target["tried"] if row["within_budget"] == within]
        if rows:
            axes.scatter(
                [max(100 * row["score"], _LEAST_ERROR) for row in rows],
                [row["points"] for row in rows],
                s=26,
                marker=marker,
                facecolors=colour if within else "none",
                edgecolors=colour,
                alpha=0.75,
                label=name if within else f"{name}, beyond",
            )
    chosen = (max(100 * target["score"], _LEAST_ERROR), target["judged"]["points"])
    axes.scatter(*chosen, s=120, marker=marker, facecolors="none", edgecolors=INK, linewidths=1.4)
    axes.annotate("chosen", chosen, xytext=(0, said_at), textcoords="offset points", ha="center", fontsize=8)


def _margins(result: Calibration, data: Row) -> Plot:
    margins = 100 * result.margins.astype(np.float64)
    figure, axes = new_figure(2.7)
    counts, edges = np.histogram(margins, bins=60, range=(0.0, max(float(margins.max()), 100 * CLEAR_MARGIN)))
    axes.stairs(counts, edges, fill=True, color=FILL, label="all windows")
    log_axis(axes, "y")
    axes.set_ylim(0.7, max(10.0, 3.0 * counts.max()))
    axes.axvline(100 * CLEAR_MARGIN, color=MUTED, linestyle=":", linewidth=1.2)
    axes.annotate(
        " FP32 is sure",
        (100 * CLEAR_MARGIN, 1.0),
        xycoords=("data", "axes fraction"),
        va="top",
        color=MUTED,
    )
    for k, (name, target) in enumerate(data["targets"].items()):
        at = [100 * flip["margin"] for flip in target["flips"]]
        label = f"{name}: {len(at)} changed"
        height = 1.0 * 2.2**k  # a row of markers for each target
        line = axes.plot(at, [height] * len(at), _MARKERS[name], color=_COLOURS[name], markersize=5, label=label)
        line[0].set(markeredgecolor=INK, markeredgewidth=0.5)
    axes.set(xlabel="FP32's lead over the next label, % of the logit scale", ylabel="windows, log scale")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    text = "A label may change where FP32 itself hardly preferred it; where it is sure, none may."
    return _plot("flips", "margins", "How sure FP32 was", text, figure)


# -- the data


def _channels(result: Calibration) -> list[Plot]:
    """One plot a unit: only what has the same unit shares an axis."""
    channels = result.model.contract.channel
    found = channel_statistics(result.windows, result.model.contract)["channels"]
    plots = []
    for k, unit in enumerate(dict.fromkeys(c.unit for c in channels)):
        rows = [i for i, c in enumerate(channels) if c.unit == unit]
        figure, axes = new_figure(0.95 + 0.36 * len(rows))
        for y, i in enumerate(rows):
            _draw_channel(axes, y, channels[i], found[i])  # type: ignore[arg-type]
        axes.set_yticks(range(len(rows)), labels=[clip_name(channels[i].name) for i in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"value, {printable(unit)}" if unit else "value (the contract gives no unit)")
        axes.grid(axis="x")
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        axes.legend(once.values(), once.keys(), loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2)
        text = "What the windows hold, beside what the contract says."
        plots.append(
            _plot("data", f"channels{k}", f"Channels in {printable(unit)}" if unit else "Channels", text, figure)
        )
    return plots


def _draw_channel(axes: Axes, y: int, channel: Channel, found: Row) -> None:
    if channel.min is not None and channel.max is not None:
        axes.barh(y, channel.max - channel.min, left=channel.min, height=0.62, color=LINE, label="valid range")
    axes.plot([found["min"], found["max"]], [y, y], color=FIRST, linewidth=1.2, label="smallest to largest")
    inner = [found["quantiles"]["0.01"], found["quantiles"]["0.99"]]
    axes.plot(inner, [y, y], color=FIRST, linewidth=5, solid_capstyle="butt", label="middle 98%")
    if channel.mean is not None and channel.std is not None:
        axes.errorbar(
            channel.mean,
            y + 0.26,
            xerr=channel.std,
            fmt="D",
            color=SECOND,
            markersize=3.5,
            linewidth=1.2,
            label="contract: mean and std",
        )


def _balance(result: Calibration) -> list[Plot | None]:
    windows, labels = result.windows, result.model.contract.labels
    plots: list[Plot | None] = []
    if windows.y is not None:
        names = [*labels, "(unscored)"]
        index = np.where(windows.y < 0, len(labels), windows.y).astype(np.int64)
        if (windows.y >= 0).all():
            names.pop()
        plots.append(_balance_plot(result, "classes", "Windows by class", names, index))
    if windows.group is not None:
        found, index = np.unique(windows.group, return_inverse=True)
        names = [str(name) or "(not known)" for name in found]
        plots.append(_balance_plot(result, "subjects", "Windows by subject", names, index.astype(np.int64)))
    return plots


def _balance_plot(result: Calibration, key: str, title: str, names: list[str], index: NDArray[np.int64]) -> Plot:
    first, second = result.split.ranges, result.split.judge
    left = np.setdiff1d(np.arange(len(index)), np.concatenate([first, second]))
    shown = names[:_MOST_ROWS]
    figure, axes = new_figure(0.95 + 0.24 * len(shown))
    start = np.zeros(len(shown))
    parts = (("first part", first, FIRST), ("second part", second, FILL), ("in neither", left, MUTED))
    for label, part, colour in parts:
        count = np.bincount(index[part], minlength=len(names))[: len(shown)]
        if count.any():
            axes.barh(range(len(shown)), count, left=start, height=0.7, color=colour, label=label)
        start += count
    axes.set_yticks(range(len(shown)), labels=[clip_name(name) for name in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("windows")
    axes.grid(axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3)
    more = f" {len(names) - len(shown)} more are not shown." if len(names) > len(shown) else ""
    return _plot("data", key, title, f"The two parts judge each other's ranges.{more}", figure)
