"""A calibration as a page of text for a person; `report_data` has the same as plain data for a program."""

from __future__ import annotations

import textwrap
from typing import Any

from sattn_calibration.pipeline import Calibration
from sattn_calibration.report_data import Row, as_data
from sattn_edge.calibration_table import Agreement
from sattn_edge.text import count, fields, table

__all__ = ["SCHEME_TEXT", "as_data", "as_text", "best_tried", "number", "percent", "range_text"]

SCHEME_TEXT = {"u8": "u8 inputs", "s8": "s8 symmetric inputs"}
_BEST = 5
_WIDTH = 79
_NAMES = 24  # classes or subjects a line of text lists before it says how many more there are


def as_text(result: Calibration) -> list[str]:
    """The report a person reads: what was written, each target, the data, warnings."""
    data = as_data(result)
    lines = [f"{data['output']}: written with its calibration table, {data['bytes']:,} bytes", ""]
    lines += _wrapped(
        [
            ("model", f"{data['model']}, graph {data['graph_digest'][:19]}"),
            ("data", f"{data['data']['source']}: {_windows_text(data)}"),
            ("split", split_text(data)),
            ("method", f"{data['method']}, budget {data['budget_points']:g}% of the labels"),
            ("accuracy", _accuracy_text(data)),
        ]
    )
    for name, target in data["targets"].items():
        lines += ["", *_target_text(name, target, data)]
    lines += ["", *_data_text(data["data"])]
    return lines + ([""] if data["warnings"] else []) + [f"warning: {w}" for w in data["warnings"]]


def percent(share: float | None, digits: int = 2) -> str:
    """A share of 1 in percent, `-` for None; what would round to 0 and is not shows as `<0.01%`."""
    if share is None:
        return "-"
    text = f"{100 * share:.{digits}f}%"
    least = 10.0**-digits
    return text if share == 0 or 100 * share >= least / 2 else f"<{least:.{digits}f}%"


def number(value: float | None) -> str:
    """Four significant digits, `-` for None."""
    return "-" if value is None else f"{value:.4g}"


def range_text(low: float, high: float) -> str:
    """`-1.5 to 3.2`, short enough for a table."""
    return f"{low:.3g} to {high:.3g}"


def best_tried(target: Row, limit: int = _BEST) -> list[Row]:
    """The best candidates of a target, those within the budget first, each with whether it is the `chosen` one."""
    rows = sorted(target["tried"], key=lambda row: (not row["within_budget"], row["score"]))
    taken = next((row for row in rows if row["score"] == target["score"]), None)
    return [{**row, "chosen": row is taken} for row in rows[:limit]]


def _windows_text(data: Row) -> str:
    groups = len(data["data"]["groups"])
    return count(data["data"]["windows"], "window") + (f" of {count(groups, 'subject')}" if groups else "")


def split_text(data: Row) -> str:
    """Which windows gave ranges and which judged them."""
    parts, by = data["split"], {"group": "subject", "label": "label", "time": "time"}
    first, second = parts["ranges"], parts["judge"]
    left = data["data"]["windows"] - first - second
    return f"by {by[parts['by']]} into {first:,} and {second:,} windows, each judged with ranges from the other" + (
        f"; {left:,} that share samples with both are in neither" if left else ""
    )


def overlap_text(data: Row) -> str:
    """How many windows share samples, and how that is known; `data` is the part on the windows."""
    if data["order_from"] == "order":
        return "not known: the windows say no 'start', and none continues another"
    how = {"start": "by their 'start'", "samples": "by the samples themselves"}[data["order_from"]]
    return f"{percent(data['overlapping'], 1)} of the windows share samples with another, {how}"


def _accuracy_text(data: Row) -> str | None:
    found = data["accuracy"]
    if found is None:
        return None
    int8 = ", ".join(f"INT8 {name} {found[name]:.2%}" for name in data["targets"])
    return f"FP32 {found['fp32']:.2%}, {int8} of {count(found['scored'], 'scored window')}"


def _target_text(name: str, target: Row, data: Row) -> list[str]:
    kept = "within the budget" if target["met_budget"] else "NOT within the budget"
    higher = target["higher_precision"]
    lines = [f"{name} ({SCHEME_TEXT[target['scheme']]}, the rest {higher}): {kept}", *_agreement_text(target)]
    lines += ["", *_layers_text(target, data)]
    if target["int8_layers"]:
        lines += ["", *_tried_text(target), *_forms_text(target, data["budget_points"])]
    if target["flips_by_class"]:
        lines += ["", "  labels that change, over all windows:", *_flips_text(target["flips_by_class"])]
    return lines


def _agreement_text(target: Row) -> list[str]:
    rows = []
    for title, key in (("held out", "judged"), ("all", "final")):
        found = target[key]
        rows.append(
            (
                title,
                f"{found['windows']:,}",
                f"{100 - found['points']:.2f}%",
                found["flips"],
                percent(found["worst_margin"]) if found["flips"] else "-",
                percent(found["rms"]),
                percent(found["largest"]),
            )
        )
    header = ("windows", "count", "labels as FP32", "differ", "worst margin", "logit error", "largest")
    return table(rows, header=header)


def _layers_text(target: Row, data: Row) -> list[str]:
    share = {p["layer"]: p["share"] for p in data["layers"]}
    rows = []
    for row in target["layers"]:
        int8 = row["int8"]
        rows.append(
            (
                row["layer"],
                percent(share[row["layer"]], 1),
                "INT8" if int8 else target["higher_precision"],
                range_text(row["low"], row["high"]) if int8 else "-",
                percent(row["clipped"]),
                percent(row["alone"]["rms"]) if row["alone"] else "-",
                row["method"] or "-",
            )
        )
    header = ("layer", "work", "in", "input range", "clipped", "alone", "method")
    why = [f"  {r['layer']} stays in {target['higher_precision']}: {r['reason']}" for r in target["layers"]]
    kept = [line for row, line in zip(target["layers"], why, strict=True) if not row["int8"]]
    return table(rows, header=header) + [line for text in kept for line in _filled(text)]


def _tried_text(target: Row) -> list[str]:
    best = best_tried(target)
    rows = [
        (percent(row["score"]), row["flips"], percent(row["worst_margin"]) if row["flips"] else "-", _what(row))
        for row in best
    ]
    more = len(target["tried"]) - len(rows)
    title = f"  tried {count(len(target['tried']), 'candidate')}" + (", the best" if more else "")
    by_layer = any(not row["what"].startswith("all layers") for row in best)
    title += " (LAYER: that layer changed in the best so far):" if by_layer else ":"
    return [title, *table(rows, header=("score", "differ", "worst margin", "candidate"))]


def _forms_text(target: Row, budget_points: float) -> list[str]:
    rows = [
        (
            form,
            f"{100 - found['points']:.2f}%",
            found["flips"],
            percent(found["worst_margin"]) if found["flips"] else "-",
            percent(found["rms"]),
            "kept" if form_kept(found, budget_points) else "missed",
        )
        for form, found in target["forms"].items()
    ]
    header = ("form", "labels as FP32", "differ", "worst margin", "logit error", "budget")
    return ["", "  the same choices in other attention forms:", *table(rows, header=header)] if rows else []


def form_kept(found: Row, budget_points: float) -> bool:
    """Whether an agreement, as plain data, keeps the budget; the rule is `Agreement.within`."""
    plain = {key: value for key, value in found.items() if key != "points"}
    return Agreement(**plain).within(budget_points)


def _what(row: Row) -> str:
    return f"{row['what']}  <- chosen" if row["chosen"] else str(row["what"])


def _flips_text(rows: list[Row]) -> list[str]:
    body = [
        (
            r["fp32"],
            r["int8"],
            r["windows"],
            percent(r["largest_margin"]),
            r["fp32_right"] if r["known"] else "-",
            r["int8_right"] if r["known"] else "-",
        )
        for r in rows
    ]
    return table(body, header=("FP32", "INT8", "windows", "largest margin", "FP32 right", "INT8 right"))


def _data_text(data: Row) -> list[str]:
    once = f"{data['effective_windows']:,.0f} without overlap"
    lines = ["data:"]
    lines += _wrapped(
        [
            (
                "windows",
                f"{data['windows']:,}, as many samples as {once}; another one goes beyond all of these in a "
                f"quantity with a chance of 1 in {1 / data['exceedance']:,.0f}",
            ),
            ("repeated", f"{data['duplicates']:,} equal to an earlier one"),
            ("overlap", overlap_text(data)),
            ("classes", _listed(data["classes"]) or "not known"),
            ("subjects", _listed(data["groups"]) or "not known"),
            ("digest", data["digest"][:19]),
        ],
        indent="  ",
    )
    return [*lines, "", *_channels_text(data["channels"])]


def _channels_text(channels: list[Row]) -> list[str]:
    rows = [
        (
            c["name"],
            c["unit"] or "-",
            number(c["minimum"]),
            number(c["maximum"]),
            "-" if c["mean_offset"] is None else f"{round(c['mean_offset'], 2) + 0.0:+.2f}",
            "-" if c["std_ratio"] is None else f"{c['std_ratio']:.2f}",
            percent(c["outside"]),
            percent(max(c["at_minimum"], c["at_maximum"])),
            "dead" if c["dead"] else "saturated" if c["saturated"] else "",
        )
        for c in channels
    ]
    header = ("channel", "unit", "min", "max", "mean", "std", "outside", "limit", "")
    title = (
        "  channels, mean and std beside the contract's: the distance in its std, and the ratio; limit: the share at "
        "the extreme value"
    )
    return [*_filled(title, "  "), *table(rows, header=header)]


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{name or '(not known)'} {n:,}" for name, n in list(counts.items())[:_NAMES]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _wrapped(rows: list[tuple[str, Any]], indent: str = "") -> list[str]:
    """`fields`, broken at the width of a terminal with the values aligned."""
    lines = []
    for line in fields(rows):
        value_at = max(len(name) for name, value in rows if value is not None) + 2
        lines += _filled(indent + line, " " * (len(indent) + value_at))
    return lines


def _filled(text: str, indent: str = "    ") -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
