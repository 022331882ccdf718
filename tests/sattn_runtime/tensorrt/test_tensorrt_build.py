"""Engines built, judged, timed and kept, on the fake device: times are given, and what is kept follows by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from sattn_edge.engine import load_engine
from sattn_edge.engine_manifest import Shortcut
from sattn_edge.engine_store import default_store
from sattn_edge.errors import ModelFileError, QualityError, UnavailableError, UsageError
from sattn_edge.lowering import FORMS
from sattn_edge.model_file import load_model_file
from sattn_runtime.tensorrt import build_report, choose, shortcuts
from sattn_runtime.timing import CALLS
from tests.helpers_device import calls
from tests.helpers_model import logits_of
from tests.sattn_runtime.tensorrt.helpers_tensorrt import RELEASES, ROUNDS, build_one, fake, save

pytestmark = pytest.mark.usefixtures("store")

# Each form has nodes that no other has: what the fake tells them apart by.
NODE = {"gemm": "normalised.rows", "taps": "attention.slice", "composed": "attention.composed"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Sets the time in us of a window through each shortcut; others take 100."""

    def set_times(**times: float) -> None:
        def timed(engines, window, rounds):
            names = [e._executor.shortcut.text.replace(" memory", "").replace(", CUDA ", "_") for e in engines]
            return np.array([np.full((rounds, CALLS), times.get(name, 100.0)) for name in names])

        monkeypatch.setattr(shortcuts, "time_in_turns", timed)

    set_times()
    return set_times


def candidate(built, form: str, precision: str = "fp32"):
    (row,) = (c for c in built.manifest.candidates if (c.form, c.precision) == (form, precision))
    return row


# ------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("release", RELEASES)
def test_every_release_builds_and_runs_every_precision(path, monkeypatch, clock, release, precision):
    fake(monkeypatch, release=release)
    built = build_one(path, precision)
    assert built.manifest.accepted
    assert (built.manifest.form, built.manifest.precision) == ("gemm", precision)
    engine = load_engine(path, "tensorrt", precision, attention="gemm")
    model = load_model_file(path)
    scale = np.abs(model.golden.logits).max()
    # INT8 on golden windows that are the very ones it was calibrated on: a few thousandths of the logit scale.
    allowed = {"fp32": 1e-5, "fp16": 1e-3, "int8": 2e-2}[precision]
    assert np.abs(engine.infer(model.golden.x) - model.golden.logits).max() <= allowed * scale
    assert engine.info.version == release
    engine.close()


def test_tensorrt_rtx_on_its_own_gpu(path, monkeypatch, clock):
    fake(monkeypatch, compute_capability="8.6", integrated=False)
    built = build_one(path, "fp16", backend="tensorrt-rtx", arch="SM86")
    assert built.manifest.subject.request.arch is None  # this GPU's own
    assert built.manifest.accepted
    load_engine(path, "tensorrt-rtx", "fp16", attention="gemm").close()


def test_the_fastest_form_on_the_gpu_is_kept(path, monkeypatch, clock, log):
    fake(monkeypatch, costs_us=[[NODE["taps"], 60.0], [NODE["gemm"], 80.0], [NODE["composed"], 70.0]], log=log)
    built = build_one(path, attention="auto")
    assert [c.form for c in built.manifest.candidates] == ["gemm", *(f for f in FORMS if f != "gemm")]
    assert all(c.acceptance.accepted for c in built.manifest.candidates)
    times = {c.form: c.median_us for c in built.manifest.candidates}
    assert times == {"gemm": 80, "taps": 60, "composed": 70, "reference": 100, "folded": 100, "mean-conv": 100}
    assert built.manifest.form == "taps"
    assert built.manifest.reason == "0.75 of gemm's time, faster in 4 of 4 rounds"
    assert calls(log).count("Builder.build_serialized_network") == 6
    engine = load_engine(path, "tensorrt")
    assert engine.info.attention == "taps"
    engine.close()


def test_the_usual_form_stays_where_none_is_faster(path, monkeypatch, clock):
    fake(monkeypatch, costs_us=[[NODE["gemm"], 100.0]], default_cost_us=98.0)
    assert build_one(path, attention="auto").manifest.form == "gemm"


def test_a_form_asked_for_is_built_alone(path, monkeypatch, clock, log):
    fake(monkeypatch, log=log)
    built = build_one(path, attention="composed")
    assert (built.manifest.form, built.manifest.reason) == ("composed", "asked for")
    assert calls(log).count("Builder.build_serialized_network") == 1


def test_fp32_clears_tf32_and_nothing_else_does(path, monkeypatch, clock, log):
    fake(monkeypatch, log=log)
    build_one(path, "fp32")
    assert "IBuilderConfig.clear_flag:TF32" in calls(log)
    log.unlink()
    fake(monkeypatch, log=log)
    build_one(path, "fp16")
    assert "IBuilderConfig.clear_flag:TF32" not in calls(log)


def test_it_is_remembered_until_it_is_asked_for_again(path, monkeypatch, clock, log):
    fake(monkeypatch, log=log)
    first = build_one(path)
    again = build_one(path)
    assert (again.remembered, again.manifest) == (True, first.manifest)
    assert calls(log).count("Builder.build_serialized_network") == 1
    new = build_one(path, retune=True)
    assert not new.remembered
    assert new.manifest.created > first.manifest.created
    assert calls(log).count("Builder.build_serialized_network") == 2


def test_an_engine_that_was_damaged_is_built_anew(path, monkeypatch, clock):
    fake(monkeypatch)
    first = build_one(path)
    plan = default_store().plan_path(first.manifest)
    plan.write_bytes(plan.read_bytes()[:-1] + b"x")
    again = build_one(path)
    assert not again.remembered
    assert any("is not used, and built anew" in note for note in again.notes)
    load_engine(path, "tensorrt", attention="gemm").close()


# ------------------------------------------------------------------ shortcuts


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        ({}, Shortcut()),
        ({"pinned": 98.0, "mapped": 98.0}, Shortcut()),  # no more than noise
        ({"pinned": 90.0}, Shortcut("pinned")),
        ({"pinned": 90.0, "mapped": 89.0}, Shortcut("pinned")),  # mapped earns nothing on top
        ({"pinned": 90.0, "mapped": 80.0}, Shortcut("mapped")),
        ({"mapped": 80.0, "pinned_graph": 70.0, "mapped_graph": 60.0}, Shortcut("mapped", graph=True)),
        ({"pinned": 90.0, "pinned_graph": 70.0, "mapped_graph": 75.0}, Shortcut("pinned", graph=True)),
    ],
)
def test_a_shortcut_is_kept_only_where_it_is_faster(path, monkeypatch, clock, times, kept):
    fake(monkeypatch)
    clock(**times)
    built = build_one(path)
    assert built.manifest.shortcut == kept
    assert [row.shortcut for row in built.manifest.shortcuts] == list(shortcuts.SHORTCUTS)
    engine = load_engine(path, "tensorrt", attention="gemm")
    assert engine._executor.shortcut == kept
    assert kept.text in engine.info.device
    engine.close()


@pytest.mark.parametrize(
    ("config", "left_out", "why"),
    [
        ({"cuda_python": ""}, {"pinned, graph", "mapped, graph"}, "pycuda 2026.1 has no CUDA graphs"),
        ({"can_map_host": False}, {"mapped", "mapped, graph"}, "this GPU can't read the host's memory"),
        ({"faults": {"capture": True}}, {"pinned, graph", "mapped, graph"}, "cudaErrorStreamCapture"),
    ],
)
def test_a_shortcut_the_device_does_not_have_is_left_out(path, monkeypatch, clock, config, left_out, why):
    fake(monkeypatch, **config)
    clock(mapped_graph=10.0, pinned=50.0)
    built = build_one(path)
    notes = {f"{r.shortcut.memory}{', graph' * r.shortcut.graph}": r.note for r in built.manifest.shortcuts}
    assert {name for name, note in notes.items() if note} == left_out
    assert all(why in notes[name] for name in left_out)
    assert built.manifest.shortcut == Shortcut("pinned")


def test_a_shortcut_that_gives_other_logits_is_left_out(path, monkeypatch, clock):
    fake(monkeypatch)
    clock(pinned=10.0)
    run = shortcuts.TensorRTEngine.infer

    def spoilt(engine, x):
        return run(engine, x) + np.float32(engine._executor.shortcut.memory == "pinned")

    monkeypatch.setattr(shortcuts.TensorRTEngine, "infer", spoilt)
    built = build_one(path)
    assert [r.note for r in built.manifest.shortcuts if r.shortcut.memory == "pinned"] == ["gives other logits"] * 2
    assert built.manifest.shortcut == Shortcut()


# ------------------------------------------------------------------ what is not kept


def test_logits_other_than_onnx_runtimes_are_not_accepted(path, monkeypatch, clock, store):
    fake(monkeypatch, faults={"logits": 0.5})
    text = r"no engine in fp32 gives what ONNX Runtime gives on its graph \(gemm 0\.\d+ of the logit scale\)"
    with pytest.raises(QualityError, match=text) as caught:
        build_one(path)
    assert caught.value.exit_code == 4
    assert default_store().entries() == []
    assert default_store().leftovers() == []


@pytest.mark.parametrize(
    ("precision", "within", "beyond"), [("fp32", 5e-5, 2e-4), ("fp16", 5e-3, 2e-2), ("int8", 1e-2, 4e-2)]
)
def test_how_far_logits_may_be_off(path, monkeypatch, clock, precision, within, beyond):
    """The bounds are 1e-4, 1e-2 and 2e-2 of the logit scale; the fake adds a number to every logit."""
    scale = load_model_file(path).golden.logit_scale
    fake(monkeypatch, faults={"logits": float(within * scale)})
    assert build_one(path, precision).manifest.accepted
    fake(monkeypatch, faults={"logits": float(beyond * scale)})
    with pytest.raises(QualityError):
        build_one(path, precision, retune=True)


def test_a_form_that_is_off_is_left_and_the_others_go_on(path, monkeypatch, clock):
    fake(monkeypatch, faults={"logits": 0.5, "only_form": NODE["gemm"]}, costs_us=[[NODE["gemm"], 1.0]])
    built = build_one(path, attention="auto")
    assert built.manifest.form != "gemm"
    assert (candidate(built, "gemm").acceptance.accepted, candidate(built, "gemm").median_us) == (False, None)
    assert any(line.startswith("gemm") and line.endswith("NOT accepted") for line in build_report.as_text(built))


@pytest.mark.parametrize("release", ["8.6.1", "10.3.0", "11.4.0.106"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_in_another_precision_is_an_error(path, monkeypatch, clock, release, precision):
    fake(monkeypatch, release=release, faults={"precision": "fp32"})
    with pytest.raises(QualityError, match=f"no engine holds {precision}: ") as caught:
        build_one(path, precision)
    assert caught.value.exit_code == 4
    assert default_store().entries() == []


def test_control_the_same_engine_is_right_for_fp32(path, monkeypatch, clock):
    fake(monkeypatch, faults={"precision": "fp32"})
    assert build_one(path, "fp32").manifest.accepted


def test_a_form_that_can_not_be_compiled_is_left_and_the_others_go_on(path, monkeypatch, clock):
    fake(monkeypatch, faults={"build": "none", "only_form": NODE["gemm"]})
    built = build_one(path, attention="auto")
    assert candidate(built, "gemm").left_out == "not compiled"
    assert built.manifest.accepted
    with pytest.raises(QualityError, match=r"TensorRT 10\.3\.0 makes no engine of it"):
        build_one(path, attention="gemm")


def test_memory_that_ran_out_ends_the_build_with_advice(path, monkeypatch, clock):
    fake(monkeypatch, faults={"build": "kill"})
    with pytest.raises(UnavailableError, match=r"building gemm, fp32: out of memory: the kernel ended the compiler"):
        build_one(path)
    fake(monkeypatch)
    assert build_one(path).manifest.accepted
    assert default_store().leftovers() == []


def test_an_engine_that_can_not_be_read_back_is_an_error(path, monkeypatch, clock):
    fake(monkeypatch, faults={"deserialize": "none"})
    with pytest.raises(UnavailableError, match=r"engine: TensorRT 10\.3\.0 does not take it"):
        build_one(path)


# ------------------------------------------------------------------ best


@pytest.fixture
def data(tmp_path: Path) -> str:
    x = np.random.default_rng(1).normal(size=(60, 32, 3)).astype(np.float32)
    np.savez(tmp_path / "windows.npz", x=x)
    return str(tmp_path / "windows.npz")


COSTS = [["quantize", 75.0], ["half", 60.0], ["sigmoid", 90.0]]  # INT8, then FP16, then FP32, by names of their nodes


def test_fp16_that_beats_int8_is_kept_and_said_so(path, monkeypatch, clock, data):
    fake(monkeypatch, costs_us=COSTS)
    built = build_one(path, "best", attention="auto", data=data, budget=100.0)
    assert built.manifest.precision == "fp16"
    assert built.manifest.reason == (
        "FP16 beats INT8 here: fp16 within the budget, 0.67 of fp32's time, 0.80 of int8's time"
    )
    assert {c.precision for c in built.manifest.candidates} == {"fp32", "fp16", "int8"}
    assert sum(c.agreement is not None for c in built.manifest.candidates) == 3
    engine = load_engine(path, "tensorrt", "best")
    assert engine.info.precision == "fp16"
    engine.close()


def test_int8_where_it_is_fastest(path, monkeypatch, clock, data):
    fake(monkeypatch, costs_us=[["quantize", 50.0], *COSTS[1:]])
    built = build_one(path, "best", data=data, budget=100.0)
    assert built.manifest.precision == "int8"
    assert built.manifest.reason == "int8 within the budget, 0.56 of fp32's time, 0.83 of fp16's time"


def test_a_lower_precision_that_is_no_faster_is_not_kept(path, monkeypatch, clock, data):
    fake(monkeypatch, costs_us=[["quantize", 89.0], ["half", 88.0], ["sigmoid", 90.0]])
    assert build_one(path, "best", data=data, budget=100.0).manifest.precision == "fp32"


def test_a_precision_over_the_budget_is_left_out_however_fast(path, monkeypatch, clock, data):
    """INT8 gives every window another label: its logits are those of other classes."""
    fake(monkeypatch, costs_us=[["quantize", 10.0], *COSTS[1:]])
    logits = choose.logits_of

    def rolled(tried, x):
        return np.roll(logits(tried, x), int(tried.candidate.precision == "int8"), axis=1)

    monkeypatch.setattr(choose, "logits_of", rolled)
    built = build_one(path, "best", data=data, budget=0.5)
    assert built.manifest.precision == "fp16"
    assert candidate(built, "gemm", "int8").left_out == "over the budget"
    assert "int8's time (over the budget: 100 % of the labels differ" in built.manifest.reason


def test_other_windows_or_another_budget_are_measured_anew(path, monkeypatch, clock, data, tmp_path):
    fake(monkeypatch)
    build_one(path, "best", data=data, budget=100.0)
    assert build_one(path, "best", data=data, budget=100.0).remembered
    other = build_one(path, "best", data=data, budget=50.0)
    assert not other.remembered
    assert any("other windows or by another budget" in note for note in other.notes)
    x = np.random.default_rng(2).normal(size=(40, 32, 3)).astype(np.float32)
    np.savez(tmp_path / "other.npz", x=x)
    assert not build_one(path, "best", data=str(tmp_path / "other.npz"), budget=50.0).remembered


def test_best_without_a_calibration_table_leaves_int8_out_and_says_so(monkeypatch, clock, data, tmp_path):
    fake(monkeypatch)
    built = build_one(save(tmp_path, calibrated=False), "best", data=data)
    assert {c.precision for c in built.manifest.candidates} == {"fp32", "fp16"}
    assert any("int8 was not tried" in note for note in built.notes)


# ------------------------------------------------------------------ what it is not asked for


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "fp8"}, "--precision: got 'fp8'"),
        ({"attention": "gem"}, "--attention: got 'gem'; did you mean 'gemm'?"),
        ({"batch": 0}, "--batch: got 0; 1 to 4096"),
        ({"batch": 2, "batch_range": (1, 2, 4)}, "--batch: got --batch-range too; one of the two"),
        ({"batch_range": (2, 1, 4)}, "--batch-range: got 2,1,4; MIN,OPT,MAX"),
        ({"batch_range": (0, 1, 4)}, "--batch-range: got 0,1,4"),
        ({"workspace_mib": 0}, "--workspace: got 0; MiB, 1 or more"),
        ({"precision": "best"}, "--precision best: got no --data"),
        ({"data": "x.npz"}, "--data: got --precision fp32"),
        ({"budget": -1.0}, "--budget: got -1"),
        ({"threads": 2}, "--threads: got 2; tensorrt runs on the GPU"),
        ({"arch": "sm86"}, "--arch: got 'sm86'; tensorrt builds for the GPU it runs on"),
    ],
)
def test_options_that_do_not_go_together(path, monkeypatch, store, options, text):
    fake(monkeypatch)
    with pytest.raises(UsageError, match=text.replace("(", r"\(").replace("?", r"\?")):
        build_one(path, **options)
    assert not store.exists()


def test_int8_without_a_table(monkeypatch, tmp_path):
    fake(monkeypatch)
    with pytest.raises(ModelFileError, match="carries no calibration table"):
        build_one(save(tmp_path, calibrated=False), "int8")


def test_without_a_gpu(path, monkeypatch):
    fake(monkeypatch, visible=False)
    with pytest.raises(UnavailableError, match=r"there is no GPU to build for \(.*cudaErrorNoDevice") as caught:
        build_one(path)
    assert caught.value.exit_code == 6


def test_without_an_adapter(path, monkeypatch):
    fake(monkeypatch, cuda_python="", pycuda="")
    with pytest.raises(UnavailableError, match=r"neither cuda-python nor pycuda is installed; .*sattn-edge\[jetson6\]"):
        build_one(path)


def test_compiled_for_another_machine_it_is_kept_and_never_run(path, monkeypatch):
    fake(monkeypatch, visible=False)
    built = build_one(path, "fp16", attention="auto", backend="tensorrt-rtx", arch="SM86")
    assert (built.manifest.accepted, built.manifest.subject.request.arch) == (False, "sm86")
    assert built.manifest.reason.endswith("kernels, the fewest; nothing here can run and time it")
    assert all(c.kernels >= candidate(built, built.manifest.form, "fp16").kernels for c in built.manifest.candidates)
    assert any("NO: nothing here can run it" in line for line in build_report.as_text(built))
    with pytest.raises(UnavailableError):
        load_engine(path, "tensorrt-rtx", "fp16")
    with pytest.raises(UnavailableError, match="--precision best: nothing here can run that engine"):
        build_one(path, "best", backend="tensorrt-rtx", arch="sm86", data="x.npz")


# ------------------------------------------------------------------ the report


def test_the_report_is_the_manifest_and_can_be_read(path, monkeypatch, clock):
    fake(monkeypatch)
    built = build_one(path, "fp16", attention="auto")
    data = msgspec.json.decode(msgspec.json.encode(build_report.as_data(built)))
    assert (data["accepted"], data["remembered"], data["form"]) == (True, False, built.manifest.form)
    assert data["subject"]["platform"]["gpu"]["name"] == "Fake Orin"
    assert data["measurement"] == {"calls": CALLS * ROUNDS, "rounds": ROUNDS, "warm_up": 10, "clock": "CUDA events"}
    text = "\n".join(build_report.as_text(built))
    assert text.startswith("small.onnx on TensorRT 10.3.0, fp16: gemm\n")
    assert sum(line.endswith("kept") for line in text.splitlines()) == 2  # a form and a way to call it
    assert "6 golden windows (synthetic), at most 0.01 of the logit scale" in text


def test_the_logits_are_those_of_the_model_file(path, monkeypatch, clock):
    """The oracle is ONNX Runtime on the model file itself, which no part of the build has touched."""
    fake(monkeypatch)
    build_one(path)
    x = np.random.default_rng(5).normal(size=(7, 1, 32, 3)).astype(np.float32)
    engine = load_engine(path, "tensorrt", attention="gemm")
    wanted = logits_of(path.read_bytes(), x)
    assert np.abs(engine.infer(x) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    engine.close()
