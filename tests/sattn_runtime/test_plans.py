"""`--incremental` and `sattn-build`: which plan infers windows, why, and that their logits are those of whole ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.engine import EngineInfo, EngineOptions
from sattn_edge.errors import UnavailableError, UsageError
from sattn_edge.incremental.lower_step import plans_of
from sattn_edge.model_file import load_model_file
from sattn_runtime import plan_build, plans
from sattn_runtime.build import BuildOptions, build
from sattn_runtime.plans import choose_plan, counted
from sattn_runtime.run import RunOptions, run
from sattn_runtime.stop import Stop
from sattn_runtime.timing import CALLS
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_model import save_model
from tests.helpers_run import Cli, Done, lines_of

pytestmark = pytest.mark.usefixtures("store")

WINDOW, HOP, MODAL = 128, 4, 2
ROUNDS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two blocks whose windows overlap a lot."""
    path = save_model(tmp_path_factory.mktemp("model"), window=WINDOW, modal=MODAL, hop=HOP, widths=(16, 64))
    return calibrate_by_hand(path, int8=["block1.conv"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1000 samples, 200 of them missing in the middle, some of them no numbers."""
    path = tmp_path_factory.mktemp("data") / "rec.npz"
    signal = np.random.default_rng(0).normal(size=(1000, MODAL)).astype(np.float32)
    signal[700] = np.nan
    seconds = np.arange(1000) / 50.0
    seconds[500:] += 4.0
    np.savez(path, signal=signal, timestamp_s=seconds, fs=50.0, channels=["c0", "c1"])
    return path


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch):
    """Sets what whole windows and the plans that were accepted take, in us."""

    def set_times(*took: float) -> None:
        def time_calls(calls, rounds):
            assert len(calls) == len(took)
            return np.tile(np.array(took)[:, None, None], (1, rounds, CALLS))

        monkeypatch.setattr(plan_build, "time_calls", time_calls)

    return set_times


def windows(cli: Cli, model: Path, data: Path, journal: Path, *options: str) -> tuple[Done, list[dict]]:
    done = cli("sattn-run", model, f"replay:{data}", "--journal", journal, "--json", *options)
    assert (done.code, done.err) == (0, "")
    return done, lines_of(journal, "window")


# ------------------------------------------------------------------ running


@pytest.mark.parametrize("plan", ["edges", "stateful"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_run_by_steps_writes_what_whole_windows_write(cli, model, data, tmp_path, plan, precision):
    whole, wanted = windows(cli, model, data, tmp_path / "w", "--incremental", "off", "--precision", precision)
    done, got = windows(cli, model, data, tmp_path / "s", "--incremental", plan, "--precision", precision)
    assert whole.json["plan"] == {"kept": "full", "reason": "asked for"}
    assert done.json["plan"] == {"kept": plan, "reason": "asked for"}
    assert done.json["samples"] == whole.json["samples"]
    assert [(w["window"], w["first_sample"], w["label"]) for w in got] == [
        (w["window"], w["first_sample"], w["label"]) for w in wanted
    ]
    judged = [(a["logits"], b["logits"]) for a, b in zip(wanted, got, strict=True) if a["logits"] is not None]
    assert len(judged) < len(wanted)  # some were refused
    a, b = np.array(judged).transpose(1, 0, 2)
    assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
    assert json.loads((tmp_path / "s").read_text().splitlines()[0])["plan"] == plan


def test_several_sources_by_steps(cli, model, data, tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, **{**np.load(data), "signal": np.load(data)["signal"][::-1]})
    journals = []
    for plan in ("off", "stateful"):
        journal = tmp_path / plan
        done = cli("sattn-run", model, f"replay:{data}", f"replay:{other}", "--incremental", plan, "--journal", journal)
        assert done.code == 0, done.err
        rows = sorted(lines_of(journal, "window"), key=lambda row: (row["stream"], row["window"]))
        journals.append([(row["stream"], row["window"], row["label"]) for row in rows])
    assert journals[0] == journals[1]


def test_a_run_that_resumes_goes_on_by_steps(cli, model, data, tmp_path):
    """The journal is cut behind a window; the run that resumes fills its states again."""
    _, wanted = windows(cli, model, data, tmp_path / "one", "--incremental", "stateful")
    journal = tmp_path / "two"
    lines = (tmp_path / "one").read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:60]))
    _, got = windows(cli, model, data, journal, "--incremental", "stateful", "--resume")
    assert [(w["window"], w["logits"]) for w in got] == [(w["window"], w["logits"]) for w in wanted]


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--incremental", "stateless"], 2, "--incremental: got 'stateless'; did you mean"),
        (["--incremental", "edges", "--hop", "128"], 2, "plan 'edges': the network has none; windows of 128 samples"),
        (["--incremental", "edges", "--backend", "tensorrt-rtx"], 6, ""),
    ],
)
def test_what_can_not_be(cli, model, data, options, code, text):
    done = cli("sattn-run", model, f"replay:{data}", *options)
    assert done.code == code
    assert text in done.err


def test_attention_needs_whole_windows(cli, data, tmp_path):
    model = save_model(tmp_path, window=WINDOW, modal=MODAL, hop=HOP, widths=(16, 64), attention=True)
    asked = ["--journal", str(tmp_path / "j"), "--journal-attention"]
    done = cli("sattn-run", model, f"replay:{data}", *asked, "--incremental", "edges")
    assert (done.code, done.out) == (2, "")
    assert "--incremental edges: got --journal-attention; whole windows alone give it; leave one out" in done.err
    done = cli("sattn-run", model, f"replay:{data}", *asked, "--json")
    assert done.json["plan"]["kept"] == "full"


def test_a_plan_that_was_asked_for_goes_before_attention_on_the_picture(data, tmp_path):
    model = save_model(tmp_path, window=WINDOW, modal=MODAL, hop=HOP, widths=(16, 64), attention=True)
    for asked, plan in (("edges", "edges"), ("auto", "full")):
        options = RunOptions(str(model), f"replay:{data}", watch_attention=True, incremental=asked)
        result = run(options, tell=lambda _: None, stop=Stop())
        assert (result.plan, result.windows > 0) == (plan, True)


# ------------------------------------------------------------------ choosing


def chosen(path: Path, hop: int = HOP, asked: str = "auto", backend: str = "onnxruntime") -> tuple[str, str]:
    model = load_model_file(path)
    info = EngineInfo(backend, "1", "fp32", "CPU", 1, model.graph_digest)
    found = choose_plan(model, info, "auto", hop, asked)
    assert (found.steps is None) == (found.plan == "full")
    return found.plan, found.reason


def test_counting_takes_what_is_clearly_less_work(tmp_path):
    path = save_model(tmp_path, window=512, modal=4, hop=8, widths=(64, 128))
    plan, reason = counted(load_model_file(path), EngineOptions(), 8)
    assert plan in ("edges", "stateful")
    assert reason.startswith("counted: 0.")
    assert chosen(path, hop=8) == (plan, reason)


def test_counting_leaves_a_small_gain_to_a_measurement(model):
    plan, reason = chosen(model, hop=64)
    assert plan == "full"
    assert reason.endswith("of a whole window's work; sattn-build measures it")


def test_counting_sees_that_a_small_network_spends_its_time_on_nodes(tmp_path):
    path = save_model(tmp_path, window=WINDOW, modal=1, hop=HOP, widths=(2, 2))
    assert chosen(path)[0] == "full"


def test_counting_sees_what_moving_long_sums_takes(model, monkeypatch):
    monkeypatch.setattr(plans, "NODE_WORK", 0)
    assert counted(load_model_file(model), EngineOptions(), HOP)[0] != "full"
    monkeypatch.setattr(plans, "HISTORY_WORK", 10**9)
    assert counted(load_model_file(model), EngineOptions(), HOP)[0] == "full"


def test_a_stream_gets_no_large_states_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "NODE_WORK", 0)
    path = save_model(tmp_path, window=512, modal=4, hop=8, widths=(64, 128))
    kept = {name: plan.state_bytes for name, plan in plans_of(load_model_file(path).proto, 8).plans.items()}
    assert kept["edges"] < kept["stateful"]
    assert chosen(path, hop=8)[0] == "stateful"
    monkeypatch.setattr(plans, "LARGEST_STATES", kept["stateful"] - 1)
    assert chosen(path, hop=8)[0] == "edges"
    monkeypatch.setattr(plans, "LARGEST_STATES", kept["edges"] - 1)
    plan, reason = chosen(path, hop=8)
    assert plan == "full"
    assert reason.startswith("a stream's states would be ")
    assert chosen(path, hop=8, asked="stateful")[0] == "stateful"


def test_steps_nobody_asked_for_end_no_run(model, monkeypatch):
    """A plan that can't be opened, such as one that an earlier version measured, leaves whole windows."""

    def refuse(*_):
        raise UsageError("plan 'edges'", "the network has none")

    monkeypatch.setattr(plans, "_measured", lambda *_: ("edges", "measured"))
    monkeypatch.setattr(plans, "open_steps", refuse)
    assert chosen(model) == ("full", "edges can't be run: plan 'edges': the network has none")
    with pytest.raises(UsageError, match="the network has none"):
        chosen(model, asked="edges")


def test_other_backends_run_whole_windows(model):
    assert chosen(model, backend="tensorrt") == ("full", "tensorrt runs whole windows")
    with pytest.raises(UnavailableError, match="plan 'edges': is not available on tensorrt"):
        chosen(model, asked="edges", backend="tensorrt")


def test_no_overlap_is_said(model):
    assert chosen(model, hop=WINDOW) == ("full", "windows of 128 samples every 128 do not overlap")


# ------------------------------------------------------------------ measuring


@pytest.mark.parametrize(
    ("took", "plan", "reason"),
    [
        ((100.0, 50.0, 40.0), "stateful", "0.40 of the whole window's time, faster in 8 of 8 rounds"),
        ((100.0, 40.0, 50.0), "edges", "0.40 of the whole window's time, faster in 8 of 8 rounds"),
        ((100.0, 98.0, 99.0), "full", "no other is 3 % faster, and faster in 6 of 8 rounds"),
    ],
)
def test_what_was_measured_is_used(model, times, took, plan, reason):
    times(*took)
    built = build(load_model_file(model), BuildOptions(rounds=ROUNDS))
    assert (built.manifest.incremental.plan, built.manifest.incremental.hop) == (plan, HOP)
    assert built.manifest.incremental.reason == reason
    assert all(row.difference is None or row.difference <= 1e-5 for row in built.manifest.incremental.times)
    assert chosen(model) == (plan, f"measured here: {reason}")
    # Another hop was not measured.
    assert "counted" in chosen(model, hop=2 * HOP)[1]


def test_another_hop_is_measured_anew(model, times):
    times(100.0, 50.0, 40.0)
    file = load_model_file(model)
    first = build(file, BuildOptions(rounds=ROUNDS))
    assert build(file, BuildOptions(rounds=ROUNDS)).remembered
    assert build(file, BuildOptions(rounds=ROUNDS, hop=HOP)).remembered
    other = build(file, BuildOptions(rounds=ROUNDS, hop=2 * HOP))
    assert (other.remembered, other.manifest.incremental.hop) == (False, 2 * HOP)
    assert first.manifest.incremental.hop == HOP


def test_a_plan_that_gives_other_logits_is_not_kept(model, times, monkeypatch):
    times(100.0, 50.0)
    monkeypatch.setattr(
        plan_build, "difference", lambda _model, _engine, steps, _hop: 1e-3 if steps.plan.name == "stateful" else 1e-7
    )
    found = build(load_model_file(model), BuildOptions(rounds=ROUNDS)).manifest.incremental
    assert found.plan == "edges"
    assert [(row.plan, row.note) for row in found.times if row.note] == [
        ("stateful", "NOT accepted: at most 1e-05 is allowed")
    ]


def test_the_report_has_a_table_of_plans(cli, model):
    done = cli("sattn-build", model)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("windows every 4"))
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["full", "edges", "stateful"]
    assert any(line.startswith("windows") and "(every 4 samples)" in line for line in lines)
    assert cli("sattn-build", model, "--json").json["incremental"]["hop"] == HOP


def test_a_hop_that_can_not_be(cli, model):
    done = cli("sattn-build", model, "--hop", "0")
    assert (done.code, done.out) == (2, "")
    assert "--hop: got 0; a number of samples, 1 or more" in done.err
    done = cli("sattn-build", model, "--hop", "8", "--backend", "tensorrt-rtx")
    assert done.code == 2
    assert "it is for onnxruntime, which runs incremental plans" in done.err
