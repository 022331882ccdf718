"""A stream decides what one pass over the whole recording decides, window for window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sattn_edge.contract import Contract
from sattn_edge.recording import Recording, open_recordings
from sattn_edge.windows import cut
from sattn_runtime.run import RunOptions, RunResult, run
from sattn_runtime.sources import replay
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import WATCH_TINY, contract_of, make_contract
from tests.helpers_engine import BACKEND, add_backend
from tests.helpers_model import logits_of, save_model, save_watch_model
from tests.helpers_run import lines_of

HOPS = (17, 50, 200, 333)  # one that divides nothing, overlapping, touching, with samples between windows
TOLERANCE = 1e-6  # of the logit scale: the same graph in another batch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_watch_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def contract() -> Contract:
    return contract_of(WATCH_TINY, window=200, hop=100)


@pytest.fixture(scope="module")
def recordings(contract: Contract) -> list[Recording]:
    return list(open_recordings(str(WATCH_TINY), contract))


def run_quietly(**options: Any) -> RunResult:
    return run(RunOptions(**options), tell=lambda _: None, stop=Stop())


@pytest.mark.parametrize("hop", HOPS)
def test_logits_and_labels_are_those_of_one_batch(model, contract, recordings, tmp_path, hop):
    journal = tmp_path / "j.jsonl"
    result = run_quietly(model=str(model), source=f"replay:{WATCH_TINY}", hop=hop, journal=str(journal))
    rows = lines_of(journal, "window")
    assert result.windows == len(rows)
    assert result.streams == len(recordings) == 2
    worst = 0.0
    for recording in recordings:
        mine = [row for row in rows if row["stream"] == recording.name]
        x, truth, start = cut(recording, contract, hop)
        logits = logits_of(model.read_bytes(), x)
        scale = np.abs(logits).max()
        assert [row["first_sample"] for row in mine] == start.tolist()
        assert [row["last_sample"] for row in mine] == (start + 199).tolist()
        assert [row["window"] for row in mine] == list(range(len(start)))
        found = np.array([row["logits"] for row in mine])
        worst = max(worst, float(np.abs(found - logits).max() / scale))
        assert [row["label"] for row in mine] == [contract.labels[i] for i in logits.argmax(1)]
        assert truth is not None
        assert [row["truth"] for row in mine] == [None if t < 0 else contract.labels[t] for t in truth]
        # The control: a stream one window late would be far outside.
        assert np.abs(found[1:] - logits[:-1]).max() > 1000 * TOLERANCE * scale
    assert worst <= TOLERANCE
    softest = [np.exp(np.max(row["logits"])) / np.exp(row["logits"]).sum() for row in rows]
    np.testing.assert_allclose([row["score"] for row in rows], softest, rtol=1e-9)


@pytest.mark.parametrize("hop", HOPS)
@pytest.mark.parametrize("chunk", [1, 37, 1024])
def test_the_chunks_of_the_source_do_not_matter(model, contract, recordings, monkeypatch, hop, chunk):
    engine = FakeEngine(contract, record=True)
    add_backend(monkeypatch, lambda _: engine)
    monkeypatch.setattr(replay, "_CHUNK", chunk)
    result = run_quietly(model=str(model), source=f"replay:{WATCH_TINY}", hop=hop, backend=BACKEND)
    wanted = np.concatenate([cut(recording, contract, hop)[0] for recording in recordings])
    del engine.windows[: len(engine.windows) - result.windows]  # those of the warm-up
    assert len(engine.windows) == len(wanted)
    assert all(np.array_equal(a, b[0]) for a, b in zip(engine.windows, wanted, strict=True))
    samples = result.samples
    assert samples["in"] == sum(len(r.samples) for r in recordings)
    assert samples["in"] == sum(v for k, v in samples.items() if k != "in")


def test_one_recording_by_its_name(model, recordings, tmp_path):
    journal = tmp_path / "j.jsonl"
    source = f"replay:{WATCH_TINY}#session_sub08"
    result = run_quietly(model=str(model), source=source, journal=str(journal))
    assert {row["stream"] for row in lines_of(journal)} == {"session_sub08"}
    assert result.samples["in"] == len(recordings[1].samples)
    assert result.streams == 1


def test_a_journal_begins_every_stream(model, tmp_path):
    journal = tmp_path / "j.jsonl"
    run_quietly(model=str(model), source=f"replay:{WATCH_TINY}", hop=1000, journal=str(journal))
    rows = lines_of(journal)
    starts = [i for i, row in enumerate(rows) if row["type"] == "start"]
    assert [rows[i]["stream"] for i in starts] == ["session_sub07", "session_sub08"]
    assert [rows[i + 1]["window"] for i in starts] == [0, 0]
    head = rows[0]
    assert (head["model"], head["backend"], head["precision"]) == ("watch.onnx", "onnxruntime", "fp32")
    assert (head["window_samples"], head["hop_samples"], head["rate_hz"]) == (200, 1000, 50.0)
    assert head["graph_digest"].startswith("sha256:")
    assert head["labels"][0] == "PEN"


def save_gappy(path: Path) -> tuple[Recording, set[int]]:
    """A recording with two gaps, a clock set back, and samples that were not measured."""
    rng = np.random.default_rng(5)
    samples = rng.normal(size=(400, 2)).astype(np.float32)
    step = np.full(400, 0.02)
    step[[100, 131, 290]] = [0.5, 7.0, -2.0]
    bad = {20, 21, 200}
    samples[sorted(bad), 1] = np.nan
    stamps = 1e6 + np.cumsum(step)
    np.savez(path, signal=samples, timestamp_s=stamps, fs=50.0)
    return Recording("gappy", samples, None, stamps, None), bad


@pytest.mark.parametrize("hop", [3, 8, 25])
@pytest.mark.parametrize("chunk", [1, 50, 1024])
def test_gaps_and_missing_values_of_a_recording(tmp_path, monkeypatch, hop, chunk):
    monkeypatch.setattr(replay, "_CHUNK", chunk)
    model, data, journal = save_model(tmp_path), tmp_path / "gappy.npz", tmp_path / "j.jsonl"
    recording, bad = save_gappy(data)
    result = run_quietly(model=str(model), source=f"replay:{data}", hop=hop, journal=str(journal))
    rows = lines_of(journal)
    contract = make_contract(("c0", "c1"), window=16, hop=hop, labels=("l0", "l1", "l2"))
    x, _, start = cut(recording, contract)
    windows = [row for row in rows if row["type"] == "window"]
    assert [row["first_sample"] for row in windows] == start.tolist()
    logits = logits_of(model.read_bytes(), np.nan_to_num(x))
    scale, unjudged = np.abs(logits).max(), 0
    for row, wanted in zip(windows, logits, strict=True):
        if bad & set(range(row["first_sample"], row["last_sample"] + 1)):
            unjudged += 1
            assert (row["label"], row["logits"], row["reason"]) == (None, None, "non-finite input")
        else:
            assert np.abs(np.array(row["logits"]) - wanted).max() <= TOLERANCE * scale
    gaps = [row for row in rows if row["type"] == "gap"]
    assert [row["sample"] for row in gaps] == [100, 131, 290]
    np.testing.assert_allclose([row["seconds"] for row in gaps], [0.5, 7.0, -2.0], atol=1e-6)
    assert (result.gaps, result.unjudged) == (3, unjudged)
    assert result.samples["dropped"] == sum(row["dropped"] for row in gaps)
    assert result.samples["in"] == 400 == sum(v for k, v in result.samples.items() if k != "in")
    # A gap stands in the journal behind the windows before it and before those after it.
    order = [row["sample"] if row["type"] == "gap" else row["first_sample"] for row in rows[1:]]
    assert order == sorted(order)


def test_a_journal_tells_of_a_gap_that_no_window_follows(tmp_path):
    model, journal = save_model(tmp_path), tmp_path / "j.jsonl"
    stamps = np.arange(30) / 50 + np.where(np.arange(30) >= 28, 1.0, 0.0)
    np.savez(tmp_path / "r.npz", signal=np.zeros((30, 2), np.float32), timestamp_s=stamps)
    run_quietly(model=str(model), source=f"replay:{tmp_path / 'r.npz'}", journal=str(journal))
    assert [row["type"] for row in lines_of(journal)] == ["start", "window", "window", "gap"]


def test_smoothed_labels_are_the_mean_of_the_scores(model, tmp_path):
    journal = tmp_path / "j.jsonl"
    options = {"model": str(model), "source": f"replay:{WATCH_TINY}#session_sub07", "journal": str(journal)}
    result = run_quietly(**options, smooth=4)
    rows = lines_of(journal, "window")
    logits = np.array([row["logits"] for row in rows])
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    mean = np.array([scores[max(0, i - 3) : i + 1].mean(0) for i in range(len(scores))])
    np.testing.assert_allclose([row["score"] for row in rows], mean.max(1), rtol=1e-9)
    labels = result.contract.labels
    assert [row["label"] for row in rows] == [labels[i] for i in mean.argmax(1)]
    assert result.delay_samples == 199 / 2 + 1.5 * 100


def test_a_listener_hears_what_the_journal_holds(model, tmp_path):
    journal, heard = tmp_path / "j.jsonl", []
    options = RunOptions(model=str(model), source=f"replay:{WATCH_TINY}", hop=500, journal=str(journal))
    run(options, tell=lambda _: None, stop=Stop(), listen=lambda *row: heard.append(row))
    rows = [(row["stream"], row["first_sample"], row["label"], row["truth"]) for row in lines_of(journal, "window")]
    assert [(s, d.first_sample, d.label, t) for s, d, t in heard] == rows


def test_notes_of_a_recording_are_told_once(tmp_path, contract):
    model, told = save_model(tmp_path), []
    np.savez(tmp_path / "r.npz", signal=np.zeros((30, 3), np.float32), channels=["c0", "c1", "temp"])
    options = RunOptions(model=str(model), source=f"replay:{tmp_path / 'r.npz'}")
    run(options, tell=told.append, stop=Stop())
    run(replace(options, hop=4), tell=told.append, stop=Stop())
    assert [note.partition(": ")[0] for note in told] == ["note"] * 2
    assert told[0].endswith("not in the contract and ignored: temp")
