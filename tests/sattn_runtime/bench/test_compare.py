"""A run beside an earlier one, like with like only."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sattn_edge.errors import QualityError
from sattn_runtime.bench import measure
from sattn_runtime.bench.compare import check_context, compare
from sattn_runtime.bench.measure import bench
from sattn_runtime.bench.options import BenchOptions
from sattn_runtime.bench.results import Bench, Clock, Compared
from sattn_runtime.stop import Stop
from tests.sattn_runtime.bench.helpers_bench import FAST

replace = msgspec.structs.replace


def alike(kept: Bench, **changes: Any) -> Bench:
    return replace(kept, before=replace(kept.before, **changes))


def test_a_run_beside_itself(kept):
    found = compare(kept, kept, "old.json")
    assert [row.p50_ratio for row in found.rows] == [1.0] * len(kept.measurements)
    assert isinstance(found.rows[0], Compared)


def test_ratios_of_a_run_that_was_twice_as_slow(kept):
    rows = []
    for row in kept.measurements:
        doubled = {name: None if v is None else 2 * v for name, v in row.total_us.items()}
        rows.append(replace(row, total_us=doubled))
    found = compare(kept, replace(kept, measurements=tuple(rows)), "old.json")
    assert [row.p50_ratio for row in found.rows] == [0.5] * len(rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpu": "Another"}, "cpu '.*' here, 'Another' there"),
        ({"cpus": 99}, "cpus .* here, 99 there"),
        ({"power_mode": "15W"}, "power mode not told here, '15W' there"),
        ({"kernel": "1.0"}, "kernel '.*' here, '1.0' there"),
        ({"cpu_clocks": (Clock("policy0", 1.0, 2.0, 2.0, "powersave"),)}, "CPU clock limits .* there"),
        ({"gpu_clock": Clock("gpu", 1.0, 2.0, 2.0, None)}, "GPU clock limits not told here"),
    ],
)
def test_unlike_devices_are_not_compared(kept, changes, words):
    other = alike(kept, **changes)
    with pytest.raises(QualityError, match=rf"--compare old.json: {words}.*; like with like only; measure both"):
        compare(kept, other, "old.json")
    with pytest.raises(QualityError, match=words):
        check_context(kept.before, other, "old.json")
    check_context(kept.before, kept, "old.json")  # the control


def test_what_a_device_only_did_is_no_difference(kept):
    """Load, heat and the clock of a moment vary from run to run."""
    other = alike(kept, load_1min=7.0, temperature_c={"cpu": 90.0}, busy_s=1.0, at="another day")
    assert compare(kept, other, "old.json").rows


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": 1.0}, "speed 500.0 here, 1.0 there"),
        ({"rate_hz": 10.0}, "rate_hz 50.0 here, 10.0 there"),
        ({"window_samples": 8}, "window '16 x 2' here, '8 x 2' there"),
    ],
)
def test_unlike_runs_are_not_compared(kept, changes, words):
    with pytest.raises(QualityError, match=words):
        compare(kept, replace(kept, **changes), "old.json")


def test_another_release_of_the_runtime_is_not_compared(kept):
    rows = [replace(row, engine=replace(row.engine, version="1.0")) for row in kept.measurements]
    with pytest.raises(QualityError, match=r"onnxruntime version '.*' here, '1.0' there"):
        compare(kept, replace(kept, measurements=tuple(rows)), "old.json")


def test_what_could_not_be_compared_is_not_measured(kept, model, monkeypatch):
    monkeypatch.setattr(measure, "_run", lambda *_: pytest.fail("it measures what it could not compare"))
    rows = [replace(row, engine=replace(row.engine, version="1.0")) for row in kept.measurements]
    for other, words in (
        (replace(kept, measurements=tuple(rows)), "onnxruntime version '.*' here, '1.0' there"),
        (replace(kept, speed=7.0), "speed 500.0 here, 7.0 there"),
        (replace(kept, measurements=()), "mode '.*' here, '' there"),
    ):
        with pytest.raises(QualityError, match=words):
            bench(
                BenchOptions(str(model), windows=20, speed=500.0),
                stop=Stop(),
                tell=lambda _: None,
                like=("old.json", other),
            )


def test_another_form_is_noted(kept):
    rows = [replace(row, engine=replace(row.engine, attention="gemm")) for row in kept.measurements]
    found = compare(kept, replace(kept, measurements=tuple(rows)), "old.json")
    name = kept.measurements[0].configuration
    assert f"{name} ran in form reference here, gemm there" in found.notes
    assert len(found.notes) == len(set(found.notes))
    assert not any("form" in note for note in compare(kept, kept, "old.json").notes)


def test_other_threads_are_not_compared(kept):
    rows = [
        replace(row, configuration=f"{row.configuration}s", engine=replace(row.engine, threads=2))
        for row in kept.measurements
    ]
    with pytest.raises(QualityError, match="threads '1' here, '2' there"):
        compare(kept, replace(kept, measurements=tuple(rows)), "old.json")


def test_another_network_and_a_restless_run_are_noted(kept):
    restless = replace(kept.stability, stable=False, reasons=("x",))
    found = compare(replace(kept, graph_digest="sha256:0", stability=restless), kept, "old.json")
    assert found.notes[0] == "this run was not stable"
    assert found.notes[-1].startswith("another network")


def test_the_command_compares_and_refuses(cli, model, tmp_path, monkeypatch):
    first = cli("sattn-bench", model, *FAST, "--json")
    (tmp_path / "old.json").write_text(first.out)
    done = cli("sattn-bench", model, *FAST, "--compare", tmp_path / "old.json")
    assert done.code == 0, done.err
    assert "beside " in done.out
    data = json.loads(first.out)
    data["before"]["cpu"] = "Another"
    (tmp_path / "old.json").write_text(json.dumps(data))
    monkeypatch.setattr(measure, "_lanes", lambda *_: pytest.fail("it measures what it could not compare"))
    done = cli("sattn-bench", model, *FAST, "--compare", tmp_path / "old.json")
    assert done.code == 4
    assert "'Another' there" in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no benchmark"),
        ("{}", "is no benchmark"),
        ('{"kind": "sattn-bench", "format": 99}', "is of format 99; up to 1"),
        ('{"kind": "other", "format": 99}', "is no benchmark"),
        ("\udcff", "is no benchmark"),
    ],
)
def test_a_file_that_is_no_run(cli, model, tmp_path, text, words):
    (tmp_path / "old.json").write_bytes(text.encode(errors="surrogateescape"))
    done = cli("sattn-bench", model, *FAST, "--compare", tmp_path / "old.json")
    assert done.code == 3
    assert words in done.err
