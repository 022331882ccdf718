"""`sattn-bench --incremental`: plans beside whole windows in one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sattn_runtime.bench.measure import bench
from sattn_runtime.bench.options import BenchOptions, configurations
from sattn_runtime.stop import Stop
from tests.helpers_model import save_model

HOP = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bench"), window=64, hop=HOP)


def names(model: Path, **options: object) -> list[str]:
    found = bench(
        BenchOptions(str(model), modes=("back-to-back",), windows=20, **options),  # type: ignore[arg-type]
        stop=Stop(),
        tell=lambda _: None,
    )
    assert all(row.windows >= 20 and (row.total_us["mean"] or 0) > 0 for row in found.measurements)
    return [row.configuration for row in found.measurements]


def test_plans_are_configurations_of_their_own(model):
    plain = "onnxruntime fp32, batch 1, hop 8, 1 thread"
    found = names(model, incremental=("off", "edges", "stateful"))
    assert found == [plain, f"{plain}, edges", f"{plain}, stateful"]


def test_what_comes_to_the_same_is_measured_once(model):
    assert names(model, hops=(64,), incremental=("auto", "off")) == ["onnxruntime fp32, batch 1, hop 64, 1 thread"]


def test_several_sensors_in_one_call_have_whole_windows(model):
    assert names(model, batches=(2,)) == ["onnxruntime fp32, batch 2, hop 8, 1 thread"]


def test_every_combination(model):
    rows = configurations(BenchOptions(str(model), hops=(4, 8), incremental=("off", "edges")), 1)
    assert [(row.hop, row.plan) for row in rows] == [(4, "off"), (4, "edges"), (8, "off"), (8, "edges")]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--incremental", "stately"], "--incremental: got 'stately'"),
        (["--incremental", "off,edges", "--batch", "1,4"], "--incremental edges: got --batch 4; one sensor at a time"),
        (["--incremental", "edges", "--hop", "64"], "plan 'edges': the network has none; windows of 64 samples every"),
    ],
)
def test_what_can_not_be(cli, model, options, text):
    done = cli("sattn-bench", model, "--windows", "20", *options)
    assert (done.code, done.out) == (2, "")
    assert text in done.err
