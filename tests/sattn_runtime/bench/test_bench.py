"""Whole runs: on ONNX Runtime as a user starts them, and on fakes where an order or a ratio is judged."""

from __future__ import annotations

import json
import re
import signal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sattn_edge.errors import BudgetError, QualityError, UsageError
from sattn_edge.model_file import load_model_file
from sattn_runtime.bench import measure, stability
from sattn_runtime.bench.compare import check_context, compare
from sattn_runtime.bench.feed import Feed, load_samples
from sattn_runtime.bench.measure import bench
from sattn_runtime.bench.options import BenchOptions, check, configurations, parse_modes, parse_numbers, parse_words
from sattn_runtime.bench.report import as_text
from sattn_runtime.bench.results import Bench, Clock, Compared, read_bench
from sattn_runtime.bench.summary import check_budget
from sattn_runtime.doctor.tree import Tree
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import ROOT, WATCH_TINY
from tests.helpers_engine import BACKEND, FakeClock, add_backend
from tests.helpers_model import save_model, save_watch_model
from tests.helpers_run import finish, start
from tests.sattn_runtime.bench.helpers_bench import board
from tests.sattn_runtime.sources.helpers_serial import wait_until

FAST = ("--windows", "20", "--speed", "500")
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def kept(model: Path) -> Bench:
    """A short real run."""
    options = BenchOptions(str(model), batches=(1, 2), windows=20, speed=500.0)
    return bench(options, stop=Stop(), tell=lambda _: None)


# ------------------------------------------------------------------ the command


def test_a_run_in_text(cli, model):
    done = cli("sattn-bench", model, "--batch", "1,3", "--threads", "1,2", *FAST)
    assert done.code == 0, done.err
    for words in ("paced at the sensor's rate", "back to back", "p99.9", "wait", "cold", "onnxruntime fp32, batch 3"):
        assert words in done.out
    assert "windows of 16 x 2" in done.out


def test_a_run_in_json_is_one_that_can_be_read_back(cli, model, tmp_path):
    done = cli("sattn-bench", model, "--batch", "1,3", "--hop", "4,8", *FAST, "--json")
    assert done.code == 0, done.err
    (tmp_path / "run.json").write_text(done.out)
    found = read_bench(tmp_path / "run.json")
    assert json.loads(msgspec.json.encode(found)) == done.json
    keys = {(row.configuration, row.mode) for row in found.measurements}
    assert len(keys) == len(found.measurements) == 8
    for row in found.measurements:
        assert row.windows >= 20
        assert row.windows % row.batch == 0
        assert set(row.stages_us) == {"wait", "assemble", "copy_in", "infer", "copy_out", "decide"}
        assert row.deadline_us == pytest.approx(row.hop_samples / 50 / 500 * 1e6)
        means = sum(stage["mean"] or 0 for stage in row.stages_us.values())
        assert means == pytest.approx(row.total_us["mean"], abs=0.1)
        assert row.total_us["p99"] is None
    assert {row.basis for row in found.measurements if row.mode == "paced"} == {"due to done"}
    assert {row.basis for row in found.measurements if row.mode != "paced"} == {"service time only"}


def test_every_key_of_the_json_is_in_the_docs(kept):
    page = (ROOT / "docs" / "bench.md").read_text()
    named = set(re.findall(r"`([a-z_0-9]+)`", page))
    assert _keys(msgspec.to_builtins(kept)) | {"comparison", "energy"} <= named


def _keys(value: Any) -> set[str]:
    """Keys that are fields: not the names of quantiles, stages, sensors or clocks."""
    maps = {"total_us", "stages_us", "temperature_c", "throttled", "cooling", "cpu_mhz", "gpu_mhz", "power_w"}
    if isinstance(value, dict):
        return set(value).union(*(_keys(v) for k, v in value.items() if k not in maps))
    if isinstance(value, (list, tuple)):
        return set().union(*(_keys(v) for v in value))
    return set()


@pytest.mark.parametrize(("limit", "code"), [("1000", 0), ("0.0001", 5)])
def test_a_budget(cli, model, limit, code):
    done = cli("sattn-bench", model, *FAST, "--max-p99-ms", limit)
    assert done.code == code
    assert "p50" in done.out  # the report comes first
    if code:
        assert re.search(r"latency of onnxruntime fp32, batch 1.*the longest of 20 windows is ", done.err)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--backend", "onnxruntim"), 2, "did you mean 'onnxruntime'"),
        (("--backend", "onnxruntime,nothing"), 2, "got 'nothing'"),
        (("--precision", "fp16"), 6, "is not available on onnxruntime"),
        (("--batch", "0"), 2, "--batch: got 0; 1 or more"),
        (("--batch", "4,100000"), 2, "--batch: got 100000; 1 to 1024"),
        (("--batch", "1,x"), 2, "--batch: got '1,x'; whole numbers"),
        (("--hop", "-4"), 2, "--hop: got -4"),
        (("--threads", "1,,2"), 2, "--threads: got '1,,2'"),
        (("--mode", "pace"), 2, "did you mean 'paced'"),
        (("--speed", "0"), 2, "--speed: got 0"),
        (("--speed", "inf"), 2, "--speed: got inf"),
        (("--seconds", "nan"), 2, "--seconds: got nan"),
        (("--windows", "0"), 2, "--windows: got 0"),
        (("--max-p99-ms", "-1"), 2, "--max-p99-ms: got -1"),
        (("--data", "nothing.npz"), 3, "nothing.npz: does not exist"),
        (("--compare", "nothing.json"), 3, "nothing.json: can't be read"),
        (("--batch", ",".join(map(str, range(1, 70)))), 2, "69 configurations; at most 64"),
    ],
)
def test_what_is_refused(cli, model, options, code, words):
    done = cli("sattn-bench", model, *FAST, *options)
    assert done.code == code
    assert words in done.err
    assert done.out == ""


def test_a_backend_that_is_not_installed(cli, model, monkeypatch):
    from sattn_edge import engine

    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    done = cli("sattn-bench", model, "--backend", "tensorrt", *FAST)
    assert done.code == 6
    assert "backend 'tensorrt': is not installed" in done.err


# ------------------------------------------------------------------ data


def test_windows_lie_behind_one_another(model):
    loaded = load_model_file(model)
    samples, source = load_samples(loaded, None)
    np.testing.assert_array_equal(samples, np.concatenate(list(loaded.golden.x[:, 0])))
    assert source == "6 golden windows"


def test_a_recording_and_windows_of_ones_own(tmp_path):
    loaded = load_model_file(save_watch_model(tmp_path))
    samples, source = load_samples(loaded, str(WATCH_TINY))
    assert samples.shape[1] == 6
    assert len(samples) > 1000
    assert source == str(WATCH_TINY)
    x = np.random.default_rng(0).normal(size=(3, 200, 6)).astype(np.float32)
    np.savez(tmp_path / "w.npz", x=x)
    np.testing.assert_array_equal(load_samples(loaded, str(tmp_path / "w.npz"))[0], x.reshape(-1, 6))


def test_what_could_not_be_judged_is_not_measured(cli, model, tmp_path):
    signal = np.zeros((100, 2), np.float32)
    signal[50, 1] = np.nan
    np.savez(tmp_path / "r.npz", signal=signal)
    done = cli("sattn-bench", model, *FAST, "--data", tmp_path / "r.npz")
    assert done.code == 3
    assert "not finite" in done.err
    np.savez(tmp_path / "r.npz", signal=signal[:10])
    assert "has 10 samples; a window is 16" in cli("sattn-bench", model, *FAST, "--data", tmp_path / "r.npz").err
    np.savez(tmp_path / "r.npz", signal=signal[:50])
    assert cli("sattn-bench", model, *FAST, "--data", tmp_path / "r.npz").code == 0


@pytest.mark.parametrize(("length", "size"), [(10, 3), (10, 10), (3, 10), (1, 7)])
def test_a_feed_goes_round(length, size):
    feed = Feed(np.arange(length, dtype=np.float32)[:, None], size)
    for _ in range(20):
        piece = feed.take(size)
        assert piece.shape == (size, 1)
        steps = np.diff(piece[:, 0])
        assert set(steps.tolist()) <= {1.0, 1.0 - length}


# ------------------------------------------------------------------ turns


def test_configurations_are_every_combination_once():
    options = BenchOptions("m", precisions=("fp32", "int8"), batches=(1, 2, 1), hops=(4,))
    found = configurations(options, 99)
    assert [(c.precision, c.batch) for c in found] == [("fp32", 1), ("fp32", 2), ("int8", 1), ("int8", 2)]
    assert {c.hop for c in found} == {4}
    assert configurations(BenchOptions("m"), 99)[0].hop == 99


def test_lists_and_modes():
    assert parse_words("--x", "a, b") == ("a", "b")
    assert parse_numbers("--x", "1,4") == (1, 4)
    assert parse_modes("both") == ("paced", "back-to-back")
    assert parse_modes("paced") == ("paced",)
    check(BenchOptions("m"))
    with pytest.raises(UsageError, match="--deadline-ms: got 0"):
        check(BenchOptions("m", deadline_ms=0))


def test_turns_are_taken_in_rounds_whose_order_is_drawn(model):
    said: list[str] = []
    options = BenchOptions(str(model), batches=(1, 2, 3, 4), windows=40, modes=("back-to-back",))
    found = bench(options, stop=Stop(), tell=lambda _: None, progress=lambda what, *_: said.append(what))
    assert len(said) == 4 * 10
    rounds = [said[i : i + 4] for i in range(0, 40, 4)]
    assert all(set(r) == set(rounds[0]) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 3
    assert [row.batch for row in found.measurements] == [1, 2, 3, 4]
    assert [row.rounds for row in found.measurements] == [10] * 4
    assert [row.windows for row in found.measurements] == [40, 40, 42, 40]


def test_ratios_are_to_the_first_configuration(tmp_path, monkeypatch, model):
    """On a clock of our own: an engine that takes 1 ms a window, whose batches of 3 take 3."""
    clock = FakeClock(monkeypatch)

    class Slow(FakeEngine):
        def _run(self, x):
            clock.sleep(0.001 * len(x))
            return super()._run(x)

    add_backend(monkeypatch, Slow)
    options = BenchOptions(str(model), backends=(BACKEND,), batches=(1, 3), seconds=2)
    found = bench(options, stop=Stop(), tell=lambda _: None)
    ratios = {(row.batch, row.mode): row.ratio for row in found.measurements}
    assert ratios[1, "back-to-back"] == ratios[1, "paced"] == 1.0
    assert ratios[3, "back-to-back"] == ratios[3, "paced"] == pytest.approx(3.0, rel=1e-3)
    paced = [row for row in found.measurements if row.mode == "paced"]
    assert [row.windows for row in paced] == [12, 36]  # 2 s of a hop of 0.16 s
    assert all(row.misses == 0 for row in paced)
    assert [row.windows for row in found.measurements if row.mode != "paced"] == [2000, 2010]


def test_the_pace_and_the_deadline_follow_the_speed(monkeypatch, model):
    clock = FakeClock(monkeypatch)
    add_backend(monkeypatch, lambda contract: FakeEngine(contract, delay_s=0))
    found = {}
    for speed in (1.0, 4.0):
        began = clock.now_ns
        options = BenchOptions(str(model), backends=(BACKEND,), modes=("paced",), windows=10, speed=speed)
        found[speed] = bench(options, stop=Stop(), tell=lambda _: None).measurements[0].deadline_us
        assert (clock.now_ns - began) / 1e9 == pytest.approx(10 * 0.16 / speed)
    assert found == {1.0: 160_000, 4.0: 40_000}


def test_a_stop_gives_what_was_measured(model):
    stop, turns = Stop(), []

    def ask(*_: object) -> None:
        turns.append(1)
        if len(turns) == 3:
            stop.ask()

    options = BenchOptions(str(model), windows=50, modes=("back-to-back",))
    found = bench(options, stop=stop, tell=lambda _: None, progress=ask)
    assert found.stopped
    assert found.measurements[0].windows == 10
    assert any(line.startswith("stopped") for line in as_text(found))
    stop = Stop()
    stop.ask()
    found = bench(options, stop=stop, tell=lambda _: None)
    assert (found.measurements, len(found.unmeasured)) == ((), 1)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_budget_that_nothing_was_measured_against_is_not_kept(model, turns):
    """`turns`: how many there are before the stop; the second mode has none."""
    stop, seen = Stop(), []

    def ask(*_: object) -> None:
        if len(seen) == turns:
            stop.ask()
        seen.append(1)

    found = bench(BenchOptions(str(model), windows=1, speed=500), stop=stop, tell=lambda _: None, progress=ask)
    assert (len(found.measurements), len(found.unmeasured)) == (turns, 2 - turns)
    check_budget(found, None)
    text = r"latency of onnxruntime fp32, .*: stopped before a window of it was measured; --max-p99-ms 1e\+06; let it"
    with pytest.raises(BudgetError, match=text) as caught:
        check_budget(found, 1e6)
    assert caught.value.exit_code == 5


def test_the_command_stopped_before_its_first_window(model):
    options = ("--max-p99-ms", "1000", "--mode", "paced", "--speed", "0.0001", "--json")
    process = start("sattn-bench", model, *options)
    wait_until("it listens", lambda: _catches(process.pid, signal.SIGTERM), 30)
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.code == 5, done.err
    assert done.json["measurements"] == []
    assert "stopped before a window of it was measured; --max-p99-ms 1000" in done.err


def _catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def test_engines_are_shared_and_closed_whatever_happens(monkeypatch, model):
    made: list[FakeEngine] = []

    def make(contract):
        made.append(FakeEngine(contract))
        return made[-1]

    add_backend(monkeypatch, make)
    options = BenchOptions(str(model), backends=(BACKEND,), batches=(1, 2), windows=3, speed=1e6)
    bench(options, stop=Stop(), tell=lambda _: None)
    assert [engine.closed for engine in made] == [True]
    monkeypatch.setattr(measure, "_rounds", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench(options, stop=Stop(), tell=lambda _: None)
    assert [engine.closed for engine in made] == [True, True]


# ------------------------------------------------------------------ the device in the report


def test_a_board_is_told_with_its_power(model, tmp_path):
    tree = board("orin-nano", tmp_path)
    options = BenchOptions(str(model), windows=40, speed=100, root=Path(tree.host_path("")))
    found = bench(options, stop=Stop(), tell=lambda _: None)
    assert found.stability.stable is True
    for row in found.measurements:
        assert row.energy is not None
        assert (row.energy.basis, row.energy.mean_w) == ("VDD_IN", 6.0)
        assert row.energy.joules_per_window == pytest.approx(6.0 * row.energy.seconds / row.windows, rel=0.01)
    text = "\n".join(as_text(found))
    for words in ("1344 then 1344 of 1344 to 1344 MHz (schedutil)", "cpu-thermal 48.6 to 48.6 C", "6.00 W", "VDD_IN"):
        assert words in text
    assert re.search(r"^run +stable$", text, re.MULTILINE)


def test_this_machine_is_not_called_stable_without_reason(kept):
    """Whatever it is: the verdict follows from what is told."""
    said = kept.stability
    assert said.stable is (False if said.reasons else None if "CPU clocks" in said.not_told else True)


# ------------------------------------------------------------------ comparing


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


# ------------------------------------------------------------------ the page


class Page(HTMLParser):
    """What a page would fetch, and whether its tags are balanced where that matters."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            fetches = name in ("src", "href", "xlink:href", "data", "srcset", "action")
            if fetches and not (value or "").startswith("#"):
                self.outside.append(f"{tag} {name}={value}")


def fetched(text: str) -> list[str]:
    styles = re.findall(r"url\((?!#)[^)]*\)|@import[^;]*", text)
    return Page(text).outside + styles


def test_the_page_stands_on_its_own(cli, model, tmp_path):
    pytest.importorskip("matplotlib")
    done = cli("sattn-bench", model, "--batch", "1,2", *FAST, "--report", tmp_path / "rep")
    assert done.code == 0, done.err
    assert sorted(p.name for p in (tmp_path / "rep").iterdir()) == ["bench.html", "bench.json", "bench.txt"]
    text = (tmp_path / "rep" / "bench.html").read_text()
    assert fetched(text) == []
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("figure") == page.tags.count("svg") >= 6
    assert read_bench(tmp_path / "rep" / "bench.json").measurements
    assert (tmp_path / "rep" / "bench.txt").read_text() in done.out + "\n"


def test_what_was_measured_is_printed_even_if_the_report_can_not_be_kept(cli, model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench import report_html

    def full(*_: object) -> None:
        raise UsageError("--report", "'there' can't be written (No space left on device)")

    monkeypatch.setattr(report_html, "write_files", full)
    done = cli("sattn-bench", model, *FAST, "--json", "--report", tmp_path / "there")
    assert done.code == 2
    assert "No space left" in done.err
    assert json.loads(done.out)["measurements"]


def test_names_in_a_plot_tell_rows_apart(model):
    """Cut to the width of an axis they differed in what was cut out."""
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench.plots import draw, short_names

    options = BenchOptions(str(model), batches=(1, 4), hops=(4, 8), threads=(1, 2), windows=8, speed=1e6)
    found = bench(options, stop=Stop(), tell=lambda _: None)
    for plot in draw(found):
        if plot.title in ("Where the time goes", "Beside the first"):
            text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", plot.svg))
            for words in ("batch 1, hop 4, 1 thread", "batch 4, hop 4, 1 thread", "batch 4, hop 8, 2 threads"):
                assert words in text, text
    assert short_names(
        [replace(row, configuration=name) for row, name in zip(found.measurements, NAMES, strict=False)]
    ) == [
        "fp32, batch 1",
        "int8, batch 4",
    ]


NAMES = ("onnxruntime fp32, batch 1, hop 4, 1 thread", "onnxruntime int8, batch 4, hop 4, 1 thread")


@pytest.mark.parametrize(
    "text",
    ['<img src="https://x/y.png">', '<link href="a.css">', "<style>@import 'x';</style>", "<p style='x: url(y)'>"],
)
def test_the_search_for_what_is_fetched_finds_it(text):
    """The control."""
    assert fetched(text)


def test_the_page_says_what_was_wrong_and_escapes_names(kept):
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench.report_html import page

    evil = "<script>alert(1)</script>"
    restless = replace(kept.stability, stable=False, reasons=("the CPU clock moved",))
    text = page(replace(kept, model=evil, stability=restless, stopped=True))
    assert evil not in text
    assert "NOT STABLE" in text
    assert "the CPU clock moved" in text
    assert "Stopped by a signal" in text
    assert "NOT STABLE" not in page(replace(kept, stability=replace(kept.stability, stable=True, reasons=())))


def test_the_page_of_a_board_has_its_curves_over_time(model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench.plots import draw

    tree = board("orin-nano", tmp_path)
    monkeypatch.setattr(stability, "OTHERS", 10.0)
    found = bench(
        BenchOptions(str(model), windows=5, speed=500, root=Path(tree.host_path(""))), stop=Stop(), tell=lambda _: None
    )
    titles = [plot.title for plot in draw(found) if plot.section == "device"]
    assert titles == ["CPU clocks", "Temperature", "Power of the board"]
    assert isinstance(Tree(tmp_path), Tree)


def test_a_stopped_run_without_windows_still_makes_a_page(kept):
    pytest.importorskip("matplotlib")
    from sattn_runtime.bench.report_html import page

    empty = replace(kept, measurements=(), stopped=True)
    assert "Stopped by a signal" in page(empty)
    assert as_text(empty)
