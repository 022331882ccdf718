"""`sattn-build`: what it measures, what it keeps, what it refuses. Times are given, not taken, wherever one decides."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sattn_edge.calibration_table import Agreement, read_table
from sattn_edge.engine import EngineOptions, load_engine
from sattn_edge.errors import QualityError, UnavailableError, UsageError
from sattn_edge.lowering import FORMS
from sattn_edge.model_file import load_model_file, with_calibration
from sattn_runtime import build as module
from sattn_runtime import build_report
from sattn_runtime.build import BuildOptions, build
from sattn_runtime.testing import FakeEngine
from sattn_runtime.timing import CALLS, time_in_turns
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_data import make_contract
from tests.helpers_model import save_model
from tests.sattn_runtime.test_verify import add_to_class_1, change_weights

pytestmark = pytest.mark.usefixtures("store")

ROUNDS = 8
QUICK = BuildOptions(rounds=ROUNDS)
QUICK_INT8 = BuildOptions(engine=EngineOptions("int8"), rounds=ROUNDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return calibrate_by_hand(save_model(tmp_path, window=32, modal=3))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Sets what each (precision, form) takes in us; a list is taken round by round. Others take 100."""

    def set_times(**times: float | list[float]) -> None:
        def timed(engines, window, rounds):
            out = np.empty((len(engines), rounds, CALLS))
            for i, engine in enumerate(engines):
                name = engine.info.attention if engine.info.precision == "fp32" else f"int8_{engine.info.attention}"
                out[i] = np.resize(times.get(name.replace("-", "_"), 100.0), rounds)[:, None]
            return out

        monkeypatch.setattr(module, "time_in_turns", timed)

    set_times()
    return set_times


# ------------------------------------------------------------------ what is kept


def test_the_fastest_is_kept_and_then_used(path, clock):
    clock(gemm=80.0, taps=90.0)
    built = build(load_model_file(path), QUICK)
    assert (built.manifest.form, built.remembered) == ("gemm", False)
    assert built.manifest.reason == "0.80 of reference's time, faster in 8 of 8 rounds"
    assert [c.form for c in built.manifest.candidates] == list(FORMS)
    assert all(c.acceptance.accepted for c in built.manifest.candidates)
    assert load_engine(path).info.attention == "gemm"


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        ({"gemm": 98.0}, "reference"),  # within the noise
        ({"gemm": 96.0}, "gemm"),
        ({"gemm": [80.0] * 5 + [110.0] * 3}, "reference"),  # a good median, but not in most rounds
        ({"gemm": [80.0] * 6 + [110.0] * 2}, "gemm"),
        ({"reference": 500.0}, "folded"),  # the first of those that are alike
    ],
)
def test_the_usual_form_stays_unless_another_is_faster_by_more_than_noise(path, clock, times, kept):
    clock(**times)
    assert build(load_model_file(path), QUICK).manifest.form == kept


def test_a_choice_is_kept_until_it_is_asked_for_again(path, clock):
    model = load_model_file(path)
    clock(gemm=50.0)
    first = build(model, QUICK)
    clock(taps=10.0)
    again = build(model, QUICK)
    assert (again.remembered, again.manifest) == (True, first.manifest)
    new = build(model, BuildOptions(retune=True, rounds=ROUNDS))
    assert (new.remembered, new.manifest.form) == (False, "taps")
    assert load_engine(path).info.attention == "taps"


def test_a_form_that_was_asked_for(path, clock):
    clock(taps=300.0)
    built = build(load_model_file(path), BuildOptions(engine=EngineOptions(attention="taps"), rounds=ROUNDS))
    assert (built.manifest.form, built.manifest.reason) == ("taps", "asked for")
    assert [c.form for c in built.manifest.candidates] == ["reference", "taps"]
    assert load_engine(path).info.attention == "reference"  # that is another request


def test_int8_has_fp32_beside_it_in_the_same_run(path, clock):
    clock(int8_gemm=40.0, int8_taps=39.0)
    built = build(load_model_file(path), QUICK_INT8)
    assert built.manifest.form == "gemm"
    rows = [(c.precision, c.form) for c in built.manifest.candidates]
    assert rows == [("fp32", "reference"), *(("int8", form) for form in FORMS)]
    data = build_report.as_data(built)
    assert {(r["precision"], r["form"]): r["ratio"] for r in data["candidates"]}["int8", "gemm"] == 0.4
    assert "2.50 times as fast as FP32 in form reference" in "\n".join(build_report.as_text(built))
    assert load_engine(path, precision="int8").info.attention == "gemm"


def test_int8_is_compared_with_the_form_fp32_runs_in_too(path, clock):
    clock(gemm=50.0)
    build(load_model_file(path), QUICK)
    built = build(load_model_file(path), QUICK_INT8)
    assert [(c.precision, c.form) for c in built.manifest.candidates][:2] == [("fp32", "reference"), ("fp32", "gemm")]


# ------------------------------------------------------------------ what is not


@pytest.mark.parametrize(
    ("taps", "kept", "note"),
    [
        (Agreement(200, 1, 0.01, 0.0, 0.0), "taps", ""),
        (Agreement(200, 2, 0.01, 0.0, 0.0), "gemm", "calibration: 1 % of the labels differ (largest margin 0.01)"),
        (Agreement(200, 1, 0.06, 0.0, 0.0), "gemm", "calibration: 0.5 % of the labels differ (largest margin 0.06)"),
        (None, "gemm", "calibration did not judge it"),
    ],
)
def test_a_form_over_the_calibrations_budget_is_not_tried(path, clock, taps, kept, note):
    model = load_model_file(path)
    table = read_table(model.calibration, model.name, model.graph_digest)
    placement = table.placements["onnxruntime"]
    forms = {form: found for form, found in {**placement.forms, "taps": taps}.items() if found is not None}
    placement = msgspec.structs.replace(placement, forms=forms)
    table = msgspec.structs.replace(table, placements={**table.placements, "onnxruntime": placement})
    path.write_bytes(with_calibration(model, table))
    clock(int8_taps=50.0)
    built = build(load_model_file(path), QUICK_INT8)
    assert built.manifest.form == kept
    (row,) = (c for c in built.manifest.candidates if (c.precision, c.form) == ("int8", "taps"))
    assert row.note == note
    assert row.left_out == ("over the budget" if note else "")
    assert load_engine(path, precision="int8", attention="taps").info.attention == "taps"  # it can still be asked for


def spoil(monkeypatch: pytest.MonkeyPatch, *forms: str) -> None:
    """Makes engines of these forms give other logits."""
    opened = module.open_engine

    def open_spoilt(model, backend, options):
        engine = opened(model, backend, options)
        if options.attention in forms:
            inner = engine._run
            engine._run = lambda x: inner(x) + np.float32(1)
        return engine

    monkeypatch.setattr(module, "open_engine", open_spoilt)


def test_a_form_that_gives_other_logits_is_not_kept_however_fast(path, clock, monkeypatch):
    clock(gemm=1.0)
    spoil(monkeypatch, "gemm")
    built = build(load_model_file(path), QUICK)
    assert built.manifest.form == "reference"
    (row,) = (c for c in built.manifest.candidates if c.form == "gemm")
    assert (row.acceptance.accepted, row.median_us) == (False, None)
    assert any(line.startswith("gemm") and line.endswith("NOT accepted") for line in build_report.as_text(built))


def test_where_the_usual_form_fails_the_best_of_the_others_is_kept(path, clock, monkeypatch):
    clock(int8_taps=50.0)
    spoil(monkeypatch, "gemm")
    assert build(load_model_file(path), QUICK_INT8).manifest.form == "taps"


def test_a_file_whose_golden_windows_nothing_reproduces(cli, path, store):
    change_weights(path, "fc.bias", add_to_class_1(5))
    done = cli("sattn-build", path)
    assert done.code == 4
    assert "no form in fp32 reproduces its golden windows (reference 4, folded 4," in done.err
    assert "at most 0.0001; export the model again" in done.err
    assert [p.name for p in store.iterdir()] == ["lock"]  # nothing is remembered


def test_a_form_asked_for_that_fails(path, monkeypatch):
    spoil(monkeypatch, "gemm")
    with pytest.raises(QualityError, match="no form in fp32 reproduces"):
        build(load_model_file(path), BuildOptions(engine=EngineOptions(attention="gemm"), rounds=1))


def without_changes(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Makes lowering in a form leave every block alone."""
    lowered = module.lower

    def lower(model, target):
        if target.form != form:
            return lowered(model, target)
        made = lowered(model, type(target)(target.backend, "reference", target.precision, placement=target.placement))
        return type(made)(made.model, target, (module_report(form), *made.reports))

    monkeypatch.setattr(module, "lower", lower)


def module_report(form: str):
    from sattn_edge.passes import NearMiss, PassReport

    return PassReport(form, 0, (), (NearMiss("block0", "its pooling is max"),))


def test_a_form_that_changes_nothing_is_the_reference(path, clock, monkeypatch):
    without_changes(monkeypatch, "composed")
    built = build(load_model_file(path), QUICK)
    (row,) = (c for c in built.manifest.candidates if c.form == "composed")
    assert (row.acceptance, row.median_us) == (None, None)
    lines = build_report.as_text(built)
    assert "composed: changes no block (its pooling is max)" in lines
    assert any(line.startswith("composed") and line.endswith("same as reference") for line in lines)
    with pytest.raises(UsageError, match=r"--attention composed: changes no block \(its pooling is max\) of small"):
        build(load_model_file(path), BuildOptions(engine=EngineOptions(attention="composed")))


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("--attention", "gem"), 2, "attention form: got 'gem'; did you mean 'gemm'?"),
        (("--threads", "0"), 2, "threads: got 0; 1 or more"),
        (("--backend", "onnx"), 2, "backend: got 'onnx'"),
        (("--precision", "fp16"), 6, "is not available on onnxruntime"),
    ],
)
def test_what_it_is_not_asked_for(cli, path, store, args, code, text):
    done = cli("sattn-build", path, *args)
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert not store.exists()


def test_int8_without_a_table(cli, tmp_path):
    done = cli("sattn-build", save_model(tmp_path, name="bare.onnx"), "--precision", "int8")
    assert done.code == 3
    assert "carries no calibration table" in done.err


def test_a_store_that_can_not_be_written_is_told_before_anything_is_measured(path, store, monkeypatch):
    store.write_text("")
    monkeypatch.setattr(module, "lower", None)
    with pytest.raises(UnavailableError, match=r"engine store: '.*store' can't be written"):
        build(load_model_file(path), QUICK)


def test_a_broken_manifest_is_built_anew(path, clock):
    model = load_model_file(path)
    first = build(model, QUICK)
    first.path.write_text("{")
    again = build(model, QUICK)
    assert (again.remembered, len(again.notes)) == (False, 1)
    assert build(model, QUICK).remembered


# ------------------------------------------------------------------ the command


def test_the_report(cli, path, store):
    done = cli("sattn-build", path)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("small.onnx on onnxruntime 1.")
    assert lines[2].split() == ["form", "median", "us", "ratio", "rounds", "won", "difference"]
    assert [line.split()[0] for line in lines[3:9]] == list(FORMS)
    assert sum(line.endswith("kept") for line in lines) == 2  # a form and a plan
    assert f"store     {store}/" in done.out
    assert "6 golden windows (synthetic), at most 0.0001 of the logit scale" in done.out
    again = cli("sattn-build", path)
    assert "remembered; --retune measures again" in again.out
    assert again.out.splitlines()[:9] == lines[:9]


def test_as_json(cli, path):
    done = cli("sattn-build", path, "--precision", "int8", "--json")
    assert (done.code, done.err) == (0, "")
    report = done.json
    assert report["remembered"] is False
    assert report["form"] in FORMS
    assert report["subject"]["request"]["precision"] == "int8"
    assert all(row["median_us"] > 0 and row["ratio"] > 0 for row in report["candidates"])
    assert report["measurement"] == {"calls": 200, "rounds": 40, "warm_up": 10, "clock": "monotonic"}
    assert Path(report["path"]).exists()


# ------------------------------------------------------------------ turns


def test_everyone_has_his_turn_and_nobody_always_follows_the_same():
    contract, order = make_contract(window=8), []

    class Marked(FakeEngine):
        def __init__(self, mark: int) -> None:
            super().__init__(contract)
            self.mark = mark

        def _run(self, x):
            order.append(self.mark)
            return super()._run(x)

    times = time_in_turns([Marked(i) for i in range(3)], np.zeros((1, 1, 8, 2), np.float32), rounds=20)
    assert times.shape == (3, 20, CALLS)
    assert (times > 0).all()
    turns = [mark for i, mark in enumerate(order[30:]) if i % (CALLS + 1) == 0]
    assert order[30:] == [mark for mark in turns for _ in range(CALLS + 1)]
    assert all(sorted(turns[i : i + 3]) == [0, 1, 2] for i in range(0, 60, 3))
    followed = {(a, b) for a, b in pairwise(turns) if a != b}
    assert followed == {(a, b) for a in range(3) for b in range(3) if a != b}
