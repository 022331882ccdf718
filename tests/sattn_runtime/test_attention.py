"""Which moments the network looked at: against np.interp, and from the gates to the journal."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sattn_edge.attention_output import AttentionBlock, AttentionLayout
from sattn_edge.errors import UsageError
from sattn_runtime import Stream
from sattn_runtime.attention import MOST_BINS, Moments, MomentView, sparkline, watch_row
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract
from tests.helpers_model import save_model

SERIES = 64
LAYOUT = AttentionLayout((AttentionBlock("a", 32, 3, 0.0, 2.0), AttentionBlock("b", 16, 3, 0.0, 4.0)))


def by_hand(layout: AttentionLayout, series: int, gates: np.ndarray, bins: int) -> np.ndarray:
    """The picture [bins], one block and one bin after another."""
    edges = [i * series // bins for i in range(bins + 1)]
    product = np.ones(bins)
    for block, gate in zip(layout.blocks, layout.split(gates[None]), strict=True):
        over_time = np.interp(np.arange(series), block.centres, gate[0].mean(axis=1, dtype=np.float64))
        profile = np.array([over_time[a:b].mean() for a, b in pairwise(edges)])
        product *= profile / profile.mean()
    return product / product.mean()


@st.composite
def layouts(draw: st.DrawFn) -> tuple[AttentionLayout, int]:
    """Blocks of any length, anywhere near a window of any length."""
    series, blocks = draw(st.integers(1, 100)), []
    for i in range(draw(st.integers(1, 4))):
        steps = draw(st.integers(1, 60))
        first, step = draw(st.floats(-5, 5)), draw(st.floats(0.5, 20))
        blocks.append(AttentionBlock(f"b{i}", steps, draw(st.integers(1, 4)), first, step))
    return AttentionLayout(tuple(blocks)), series


def gates_of(layout: AttentionLayout, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.05, 0.95, size=layout.values).astype(np.float32)


class TestTheView:
    @given(drawn=layouts(), seed=st.integers(0, 100))
    def test_it_is_what_a_person_would_compute(self, drawn, seed):
        layout, series = drawn
        view, gates = MomentView(layout, series), gates_of(layout, seed)
        found = view.of(gates, first_sample=1000)
        assert found is not None
        wanted = by_hand(layout, series, gates, view.bins)
        assert len(found.relative) == view.bins <= MOST_BINS
        assert np.abs(np.array(found.relative) - wanted).max() < 6e-4  # three digits are kept
        assert np.mean(found.relative) == pytest.approx(1, abs=6e-4)
        edges = [i * series // view.bins for i in range(view.bins + 1)]
        top = int(np.searchsorted(edges, found.peak_sample - 1000, side="right")) - 1
        assert wanted[top] == pytest.approx(wanted.max(), rel=1e-5)

    def test_control_one_gate_moved_by_a_step_is_seen(self):
        view, gates = MomentView(LAYOUT, SERIES), gates_of(LAYOUT)
        moved = AttentionLayout((AttentionBlock("a", 32, 3, 2.0, 2.0), LAYOUT.blocks[1]))
        found = view.of(gates)
        assert found is not None
        assert np.abs(np.array(found.relative) - by_hand(moved, SERIES, gates, view.bins)).max() > 0.01

    @pytest.mark.parametrize(("series", "steps", "bins"), [(64, 32, 32), (128, 64, 32), (64, 16, 16), (5, 16, 5)])
    def test_as_many_bins_as_say_something(self, series, steps, bins):
        assert MomentView(AttentionLayout((AttentionBlock("a", steps, 2, 0.0, 2.0),)), series).bins == bins

    def test_equal_gates_are_the_average_everywhere(self):
        found = MomentView(LAYOUT, SERIES).of(np.full(LAYOUT.values, 0.3, np.float32))
        assert found is not None
        assert found.relative == [1.0] * 32

    def test_the_moment_that_stands_out_is_found(self):
        gates = np.full(LAYOUT.values, 0.2, np.float32)
        gates[20 * 3 : 21 * 3] = 0.9  # step 20 of block a is centred on sample 40
        found = MomentView(LAYOUT, SERIES).of(gates, first_sample=500)
        assert found is not None
        assert found.peak_sample == 500 + 40
        assert max(found.relative) == found.relative[20] > 2

    def test_a_closed_gate_says_nothing(self):
        gates = gates_of(LAYOUT)
        open_alone = MomentView(AttentionLayout(LAYOUT.blocks[:1]), SERIES).of(gates[:96])
        gates[96:] = 0
        assert MomentView(LAYOUT, SERIES).of(gates) == open_alone

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_gates_that_are_no_numbers_give_no_picture(self, bad):
        gates = gates_of(LAYOUT)
        gates[7] = bad
        assert MomentView(LAYOUT, SERIES).of(gates) is None

    def test_gates_that_exclude_one_another_give_no_picture(self):
        gates = np.zeros(LAYOUT.values, np.float32)
        gates[:30], gates[-20:] = 1.0, 1.0  # samples 0 to 20 of block a, 40 to 60 of block b
        assert MomentView(LAYOUT, SERIES).of(gates) is None


class TestTheRow:
    def test_bars_from_the_least_to_the_largest(self):
        assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == "▁▂▃▄▅▆▇█"
        assert sparkline([1.02, 0.98, 1.0]) == "█▁▅"  # halves round to the even bar

    def test_what_is_equal_looks_equal(self):
        assert sparkline([1.0, 1.0]) == "▄▄"
        assert sparkline([]) == ""

    def test_the_row_of_a_live_view(self):
        assert watch_row(Moments([0.5, 1.5], 1234)) == "▁█  0.50 to 1.50 x, most at sample 1,234"
        assert watch_row(None) == "-"


class Watched(FakeEngine):
    """Counts the calls of each kind."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.plain = self.attended = 0

    def infer_stamped(self, x, stamps):
        self.plain += 1
        return super().infer_stamped(x, stamps)

    def infer_attention(self, x, stamps):
        self.attended += 1
        return super().infer_attention(x, stamps)


CONTRACT = make_contract(window=SERIES, hop=32)


def looks_at(window: np.ndarray) -> np.ndarray:
    """Gates of block a that follow the first channel; b is open throughout."""
    return np.concatenate([np.repeat(window[::2, 0], 3), np.ones(48)])


class TestTheStream:
    def test_each_decision_says_where_in_its_own_window(self):
        samples = np.full((3 * SERIES, CONTRACT.modal), 0.1, np.float32)
        samples[70] = samples[150] = 0.9
        stream = Stream(FakeEngine(CONTRACT, gates=LAYOUT, attention=looks_at), attention=True)
        peaks = {d.first_sample: d.attention.peak_sample for d in stream.push(samples) if d.attention is not None}
        assert [peaks[first] for first in (32, 64, 96, 128)] == [70, 70, 150, 150]

    def test_control_without_it_nobody_asks_for_the_gates(self):
        engine = Watched(CONTRACT, gates=LAYOUT)
        decisions = Stream(engine).push(np.zeros((SERIES, CONTRACT.modal), np.float32))
        assert [d.attention for d in decisions] == [None]
        assert (engine.plain, engine.attended) == (1, 0)
        Stream(engine, attention=True).push(np.zeros((SERIES, CONTRACT.modal), np.float32))
        assert (engine.plain, engine.attended) == (1, 1)

    def test_logits_and_labels_are_the_same_with_it(self):
        samples = np.random.default_rng(0).normal(size=(5 * SERIES, CONTRACT.modal)).astype(np.float32)
        engine = FakeEngine(CONTRACT, gates=LAYOUT)
        plain, attended = Stream(engine).push(samples), Stream(engine, attention=True).push(samples)
        assert [(d.logits, d.label) for d in plain] == [(d.logits, d.label) for d in attended]

    def test_an_engine_without_is_refused(self):
        with pytest.raises(UsageError, match="attention: the model file does not give it"):
            Stream(FakeEngine(CONTRACT), attention=True)

    def test_a_window_that_is_not_judged_was_not_looked_at(self):
        samples = np.zeros((SERIES, CONTRACT.modal), np.float32)
        samples[3, 0] = np.nan
        (decision,) = Stream(FakeEngine(CONTRACT, gates=LAYOUT), attention=True).push(samples)
        assert decision.label is None
        assert decision.attention is None


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), window=32, modal=2, hop=16, attention=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    signal = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    signal[90, 1] = np.nan
    path = tmp_path_factory.mktemp("data") / "rec.npz"
    np.savez(path, signal=signal, fs=50.0, channels=["c0", "c1"])
    return path


class TestTheJournal:
    def test_every_window_that_was_judged_has_its_moments(self, cli, model, data, tmp_path):
        done = cli("sattn-run", model, f"replay:{data}", "--journal", tmp_path / "j", "--journal-attention")
        assert done.code == 0, done.err
        lines = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
        rows = [line for line in lines if line["type"] == "window"]
        assert [row["first_sample"] for row in rows] == [0, 16, 32, 48, 64]
        for row in rows[:-1]:
            assert list(row["attention"]) == ["relative", "peak_sample"]
            assert len(row["attention"]["relative"]) == 16  # the first block has 16 steps
            assert np.mean(row["attention"]["relative"]) == pytest.approx(1, abs=1e-3)
            assert row["first_sample"] <= row["attention"]["peak_sample"] <= row["last_sample"]
        assert rows[-1]["label"] is None
        assert "attention" not in rows[-1]

    def test_without_it_the_lines_are_as_ever(self, cli, model, data, tmp_path):
        cli("sattn-run", model, f"replay:{data}", "--journal", tmp_path / "j")
        assert '"attention":{' not in (tmp_path / "j").read_text()

    def test_a_file_without_attention_is_refused_before_anything_is_written(self, cli, data, tmp_path):
        plain = save_model(tmp_path, window=32, modal=2, hop=16, name="plain.onnx")
        done = cli("sattn-run", plain, f"replay:{data}", "--journal", tmp_path / "j", "--journal-attention")
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            "error: --journal-attention: plain.onnx does not give its attention; export it with --attention-output\n"
        )
        assert not (tmp_path / "j").exists()

    def test_attention_in_no_journal_is_refused(self, cli, model, data):
        done = cli("sattn-run", model, f"replay:{data}", "--journal-attention")
        assert (done.code, done.err) == (
            2,
            "error: --journal-attention: there is no journal; add --journal FILE\n",
        )
