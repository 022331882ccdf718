"""From training windows to a run that refuses exchanged axes, by way of the model file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from sattn_edge.model_file import load_model_file
from sattn_export.report import as_text
from tests.helpers_axes import STRETCH, WINDOW, exchanged, people, person
from tests.helpers_data import ROOT, WATCH_TINY
from tests.helpers_run import Cli, lines_of
from tests.sattn_export.helpers_export import Bench, Case, contract_dict, make_bench

pytestmark = pytest.mark.torch
REASON = "swapped axes: ch0 and ch1"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A network and the windows of ten people, exported; channels ch0 to ch3 are ax, ay, az and wx."""
    made = make_bench(tmp_path_factory.mktemp("axes"), Case(window=WINDOW, modal=4))
    known = people()
    np.savez(made.folder / "windows.npz", x=known.x, group=known.group, start=known.start)
    return made


def record(folder: Path, name: str, signal: np.ndarray) -> Path:
    path = folder / f"{name}.npz"
    np.savez(path, signal=signal, fs=50.0, channels=[f"ch{i}" for i in range(4)])
    return path


def test_from_training_windows_to_a_refusal(bench: Bench, cli: Cli) -> None:
    rows = contract_dict(bench.case)["channel"]
    rows[3]["unit"] = "rad/s"
    result = bench.export(contract=bench.recontract(channel=rows), data=str(bench.folder / "windows.npz"))
    assert any("exchanges are told of ch0/ch1, ch0/ch2; not of ch1/ch2" in line for line in as_text(result))
    assert "exchanges are told of ch0/ch1, ch0/ch2" in cli("sattn-inspect", bench.output).out

    healthy = person(31, 200)
    for name, signal in (("right", healthy), ("exchanged", exchanged(healthy, 0, 1))):
        journal = bench.folder / f"{name}.jsonl"
        source = record(bench.folder, name, signal)
        done = cli("sattn-run", bench.output, f"replay:{source}", "--journal", journal, "--json")
        assert (done.code, done.err) == (0, "")
        rows = lines_of(journal)
        reasons = [row.get("reason") for row in rows if row["type"] == "window"]
        told = [row for row in rows if row["type"] == "event" and row["kind"] == "input_bad"]
        if name == "right":
            assert set(reasons) == {None}
            assert not told
            continue
        assert set(reasons) == {None, REASON}
        assert reasons[-1] == REASON
        (row,) = told
        assert row["channel"] == "ch0 and ch1"
        assert done.json["unjudged_reasons"] == {REASON: reasons.count(REASON)}
        # Windows begin every half of one: no sooner than a stretch, and no later than a window after it.
        assert 2 * (STRETCH - 1) <= reasons.index(REASON) <= 2 * STRETCH


def test_two_people_are_too_few_to_tell(bench: Bench) -> None:
    """The recording that ships: blocks of it would say that its first two axes can be told, and refuse most people."""
    demo, output = ROOT / "sattn_edge" / "demo_data", bench.folder / "watch.onnx"
    result = bench.export(demo / "watch.safetensors", contract=demo / "watch.toml", output=output, data=str(WATCH_TINY))
    assert "axes" not in (load_model_file(result.output).statistics or {})
    assert any("not watched: that takes windows of 4 people" in line for line in as_text(result))
