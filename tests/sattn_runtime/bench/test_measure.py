"""Whole runs by the library: turns, paces, stops, and on fakes where an order or a ratio is judged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sattn_edge.errors import BudgetError, UsageError
from sattn_runtime.bench import measure
from sattn_runtime.bench.measure import bench
from sattn_runtime.bench.options import BenchOptions, check, configurations, parse_modes, parse_numbers, parse_words
from sattn_runtime.bench.report import as_text
from sattn_runtime.bench.summary import check_budget
from sattn_runtime.stop import Stop
from sattn_runtime.testing import FakeEngine
from tests.helpers_engine import BACKEND, FakeClock, add_backend
from tests.sattn_runtime.bench.helpers_bench import board


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
