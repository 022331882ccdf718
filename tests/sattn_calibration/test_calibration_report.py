"""What a calibration tells: every promised number, and a page that needs and lets in nothing from outside."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sattn_calibration.collect import Observation
from sattn_calibration.histogram import histogram
from sattn_calibration.pipeline import Calibration
from sattn_calibration.report import as_data, as_text, best_tried, percent
from sattn_calibration.report_data import clipped_share
from sattn_calibration.report_html import NAMES, check_report, write_report
from sattn_edge import report_files
from sattn_edge.calibration_table import LayerChoice
from sattn_edge.errors import UnavailableError, UsageError
from tests.sattn_calibration.helpers_calibration import NASTY, make_calibration, with_flips

VOID = {"meta", "br", "img", "link", "hr", "input"}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    return make_calibration(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def written(result: Calibration, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The three files, by name."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    folder = tmp_path_factory.mktemp("written") / "new" / "folder"
    return {path.name: path.read_bytes() for path in write_report(result, folder)}


def without_int8(result: Calibration) -> Calibration:
    """The same calibration with every layer of one target kept out of INT8."""
    chosen = result.chosen["onnxruntime"]
    layers = tuple(LayerChoice(c.layer, int8=False, reason="it hurts") for c in chosen.placement.layers)
    placement = msgspec.structs.replace(chosen.placement, layers=layers)
    new = replace(chosen, placement=placement, alone={})
    return with_flips(
        replace(result, chosen={**result.chosen, "onnxruntime": new}), {"onnxruntime": (), "tensorrt": ()}
    )


# -- data


AGREEMENT = {"windows", "flips", "worst_margin", "rms", "largest", "points"}
KEYS = {
    "": {
        "model", "output", "bytes", "graph_digest", "version", "method", "budget_points", "clear_margin", "met_budget",
        "data", "split", "layers", "values", "targets", "accuracy", "warnings",
    },
    "data": {
        "source", "digest", "windows", "effective_windows", "exceedance", "duplicates", "overlapping", "order_from",
        "classes", "groups", "channels", "notes",
    },
    "split": {"by", "ranges", "judge", "note"},
    "layers.0": {"layer", "op", "input", "output", "multiply_adds", "share", "terms"},
    "values.0": {"name", "minimum", "maximum", "histogram", "u8", "s8"},
    "targets": {"onnxruntime", "tensorrt"},
    "targets.tensorrt": {
        "scheme", "higher_precision", "met_budget", "int8_layers", "int8_share", "judged", "final",
        "score", "layers", "tried", "flips", "flips_by_class", "forms",
    },
    "targets.tensorrt.judged": AGREEMENT,
    "targets.tensorrt.final": AGREEMENT,
    "targets.tensorrt.layers.1": {
        "layer", "int8", "reason", "method", "low", "high", "out_low", "out_high", "factors", "clipped", "alone",
    },
    "targets.tensorrt.layers.1.alone": AGREEMENT,
    "targets.tensorrt.tried.0": {"what", "score", "within_budget", *AGREEMENT},
    "targets.tensorrt.flips.0": {"window", "group", "start", "fp32", "int8", "truth", "margin"},
    "targets.tensorrt.flips_by_class.0": {
        "fp32", "int8", "windows", "largest_margin", "median_margin", "known", "fp32_right", "int8_right",
    },
    "accuracy": {"scored", "fp32", "onnxruntime", "tensorrt"},
}  # fmt: skip


@pytest.mark.parametrize("where", KEYS)
def test_every_key_that_is_promised(where: str, result: Calibration) -> None:
    found = as_data(result)
    for step in where.split(".") if where else []:
        found = found[int(step)] if isinstance(found, list) else found[step]
    assert set(found) == KEYS[where]


def test_the_data_are_plain_and_the_docstring_names_them(result: Calibration) -> None:
    data = as_data(result)
    assert json.loads(json.dumps(data)) == data
    assert all(re.search(rf"\b{key}\b", as_data.__doc__ or "") for key in data)
    assert data["bytes"] == len(result.output.read_bytes())
    assert sum(row["share"] for row in data["layers"]) == pytest.approx(1)
    target = data["targets"]["onnxruntime"]
    in_int8 = {row["layer"] for row in target["layers"] if row["int8"]}
    assert target["int8_layers"] == len(in_int8) == 2
    assert target["int8_share"] == pytest.approx(sum(r["share"] for r in data["layers"] if r["layer"] in in_int8))


def test_accuracy_counts_what_flips_change(result: Calibration) -> None:
    assert result.final_truth is not None
    truth = result.final_truth.astype(np.int64)
    for name, rows in result.flips.items():
        int8 = result.fp32.copy()
        for flip in rows:
            int8[flip.window] = flip.int8
        scored = truth >= 0
        found = as_data(result)["accuracy"]
        assert found["scored"] == scored.sum()
        assert found["fp32"] == pytest.approx((result.fp32 == truth)[scored].mean())
        assert found[name] == pytest.approx((int8 == truth)[scored].mean())


def test_accuracy_moves_both_ways(result: Calibration) -> None:
    """The control of the test above: a flip to the true label gains a window, one from it loses one."""
    base = as_data(with_flips(result, {"onnxruntime": (), "tensorrt": ()}))["accuracy"]
    flip = result.flips["tensorrt"][0]
    for truth, sign in ((flip.int8, 1), (flip.fp32, -1), (None, 0)):
        changed = replace(result, flips={"onnxruntime": (), "tensorrt": (replace(flip, truth=truth),)})
        found = as_data(changed)["accuracy"]
        assert found["tensorrt"] - base["fp32"] == pytest.approx(sign / base["scored"])


def test_accuracy_is_none_without_labels(result: Calibration) -> None:
    assert as_data(replace(result, final_truth=None))["accuracy"] is None
    assert as_data(replace(result, final_truth=np.full(len(result.fp32), -1, np.int16)))["accuracy"] is None


def test_flips_by_class_hold_every_flip(result: Calibration) -> None:
    target = as_data(result)["targets"]["onnxruntime"]
    rows = target["flips_by_class"]
    assert sum(row["windows"] for row in rows) == len(target["flips"]) == 3
    assert [row["windows"] for row in rows] == sorted((row["windows"] for row in rows), reverse=True)
    for row in rows:
        own = [f for f in target["flips"] if (f["fp32"], f["int8"]) == (row["fp32"], row["int8"])]
        assert row["largest_margin"] == max(f["margin"] for f in own)
        assert row["known"] == sum(f["truth"] is not None for f in own)


@pytest.mark.parametrize("high", [0.5, 1.0, 2.0, 9.0])
def test_clipped_is_the_share_beyond_the_range(high: float) -> None:
    x = np.maximum(np.random.default_rng(0).normal(size=(50, 2, 40, 1)), -0.3).astype(np.float32)
    seen = Observation("v", histogram(x), float(x.min()), float(x.max()), np.zeros(2), np.zeros(2))
    choice = LayerChoice("l", int8=True, low=-0.2, high=high)
    expected = float(((x < choice.low) | (x > choice.high)).mean())
    found = clipped_share(choice, seen)
    assert found == pytest.approx(expected, abs=2e-3)
    assert clipped_share(msgspec.structs.replace(choice, low=float(x.min()), high=float(x.max())), seen) == 0
    assert clipped_share(msgspec.structs.replace(choice, factors=(1.0, 2.0)), seen) is None


# -- text


def test_the_page_of_text_says_what_matters(result: Calibration) -> None:
    text = "\n".join(as_text(result))
    for part in (
        "out.onnx: written with its calibration table, ",
        "onnxruntime (u8 inputs, the rest FP32): within the budget",
        "tensorrt (s8 symmetric inputs, the rest FP16): within the budget",
        "held out  ",
        "block0.conv stays in FP32: its sums have 3 terms",
        "<- chosen",
        "labels that change, over all windows:",
        "accuracy ",
        "the same choices in other attention forms:",
        "equal to an earlier one",
    ):
        assert part in text, text
    assert "NOT within" not in text


def test_no_layer_in_int8_is_said_plainly(result: Calibration) -> None:
    changed = without_int8(result)
    lines = as_text(changed)
    assert any(li.startswith("warning: onnxruntime: no layer runs in INT8, all stay in FP32") for li in lines)
    assert not any("tensorrt: no layer" in line for line in lines)
    data = as_data(changed)
    assert data["targets"]["onnxruntime"]["int8_share"] == 0


def test_what_is_wrong_is_warned_about(result: Calibration) -> None:
    assert as_data(result)["warnings"] == []
    chosen = result.chosen["tensorrt"]
    final = msgspec.structs.replace(chosen.placement.final, windows=100, flips=3, worst_margin=0.2)
    placement = msgspec.structs.replace(chosen.placement, final=final, met_budget=False)
    channel = replace(result.data.channels[0], dead=True, saturated=True, at_maximum=0.25)
    changed = replace(
        result,
        chosen={**result.chosen, "tensorrt": replace(chosen, placement=placement)},
        data=replace(result.data, channels=(channel,), classes={"a": 1, "lost": 0}),
    )
    found = "\n".join(as_data(changed)["warnings"])
    for part in ("the budget of 0.5% is missed", "3.00% of the labels differ", "leads with 20.0%", "one value only"):
        assert part in found
    assert "25.00% of the samples" in found
    assert "no window is labelled 'lost'" in found
    assert "tensorrt (s8 symmetric inputs, the rest FP16): NOT within the budget" in "\n".join(as_text(changed))


def test_names_do_not_steer_the_terminal(result: Calibration) -> None:
    text = "\n".join(as_text(result))
    assert "eight\N{REPLACEMENT CHARACTER}[31m" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_the_best_come_first_and_one_is_chosen(result: Calibration) -> None:
    row = {"what": "x", "within_budget": True, "score": 0.5}
    target = {"score": 0.3, "tried": [row, {**row, "within_budget": False, "score": 0.1}, {**row, "score": 0.3}]}
    found = best_tried(target)
    assert [r["score"] for r in found] == [0.3, 0.5, 0.1]
    assert [r["chosen"] for r in found] == [True, False, False]
    assert len(best_tried(target, 2)) == 2


def test_a_small_share_is_not_shown_as_none() -> None:
    assert [percent(v) for v in (None, 0.0, 1e-6, 5e-5, 0.1234)] == ["-", "0.00%", "<0.01%", "0.01%", "12.34%"]


# -- the page


class Tags(HTMLParser):
    """Which tags are open, which were there, their ids, and the text between."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def parsed(written: dict[str, bytes]) -> Tags:
    tags = Tags()
    tags.feed(written["calibration.html"].decode())
    tags.close()
    return tags


def test_the_page_is_well_formed(parsed: Tags) -> None:
    assert parsed.open == []
    assert {"svg", "table", "figure", "h1", "main"} <= parsed.seen
    assert len(parsed.ids) == len(set(parsed.ids)) > 100


def test_every_reference_stays_in_the_page(written: dict[str, bytes], parsed: Tags) -> None:
    page = written["calibration.html"].decode()
    assert not re.search(r"https?:|//[a-z]", page, flags=re.IGNORECASE)
    assert not {"script", "link", "iframe", "img", "object", "image", "a"} & parsed.seen
    targets = [value for name, value in parsed.attributes if name in ("href", "xlink:href", "src") and value]
    targets += re.findall(r"url\((#[^)]+)\)", page)
    assert targets
    assert {t[1:] for t in targets} <= set(parsed.ids)
    assert all(t.startswith("#") for t in targets)
    assert "default-src 'none'" in page


def test_names_are_text_and_never_markup(written: dict[str, bytes], parsed: Tags) -> None:
    page = written["calibration.html"].decode()
    assert not {"b", "i", "script"} & parsed.seen
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    for name in NASTY:
        assert name in parsed.text
    assert "</svg><i>seven</i>" in parsed.text
    assert "\x1b" not in page


def test_the_check_for_markup_can_fail(written: dict[str, bytes]) -> None:
    tags = Tags()
    tags.feed(written["calibration.html"].decode().replace("&lt;b&gt;", "<b>").replace("&lt;/b&gt;", "</b>"))
    assert "b" in tags.seen


def test_every_colour_follows_the_page(written: dict[str, bytes]) -> None:
    svgs = re.findall(r"<svg.*?</svg>", written["calibration.html"].decode(), flags=re.DOTALL)
    assert len(svgs) >= 8
    for svg in svgs:
        assert not re.search(r"#[0-9a-f]{6}\b", svg)
        assert "var(--ink)" in svg
        assert "viewBox" in svg
        assert "DejaVu" not in svg
        assert "<metadata" not in svg


def test_the_same_data_give_the_same_bytes(result: Calibration, written: dict[str, bytes], tmp_path: Path) -> None:
    again = {path.name: path.read_bytes() for path in write_report(result, tmp_path)}
    assert again == written
    assert tuple(again) == NAMES
    other = with_flips(result, {"onnxruntime": (4,), "tensorrt": ()})
    changed = {path.name: path.read_bytes() for path in write_report(other, tmp_path)}
    assert all(changed[name] != written[name] for name in NAMES)
    assert json.loads(changed["calibration.json"]) == as_data(other)
    assert changed["calibration.txt"].decode().splitlines() == as_text(other)


def test_a_calibration_with_nothing_to_plot(result: Calibration, written: dict[str, bytes], tmp_path: Path) -> None:
    """Neither labels nor subjects, and a target without INT8."""
    pytest.importorskip("matplotlib")
    bare = without_int8(result)
    windows = replace(bare.windows, y=None, group=None, start=None)
    data = replace(bare.data, classes={}, groups={})
    bare = replace(bare, windows=windows, data=data, final_truth=None)
    page = write_report(bare, tmp_path)[0].read_text()
    assert "No layer runs in INT8: all stay in FP32" in page
    assert "Windows by class" not in page
    assert "Windows by class" in written["calibration.html"].decode()


# -- what can be missing


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = report_files.find_spec
    monkeypatch.setattr(report_files, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(UnavailableError, match=rf"needs .*{missing}.*pip install 'sattn-edge\[report\]'") as caught:
        check_report(tmp_path)
    assert caught.value.exit_code == 6


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="--report: "):
            check_report(folder)
    check_report(tmp_path / "new" / "below")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
