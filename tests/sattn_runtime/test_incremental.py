"""A stream that infers by steps decides what one that infers whole windows decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.engine import EngineOptions, open_engine
from sattn_edge.errors import UnavailableError, UsageError
from sattn_edge.incremental.engine import StepEngine, Stepper, open_steps
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_runtime.decider import DecisionOptions
from sattn_runtime.decision import Decision
from sattn_runtime.sources.base import Chunk
from sattn_runtime.stream import Stream
from sattn_runtime.stream_options import StreamOptions
from tests.helpers_model import save_model

WITHIN = 1e-5  # of the logit scale
WINDOW, MODAL = 60, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return load_model_file(save_model(tmp_path_factory.mktemp("steps"), window=WINDOW, modal=MODAL, hop=8))


def steps(model: ModelFile, plan: str, hop: int) -> StepEngine:
    return open_steps(model, plan, hop, "onnxruntime", EngineOptions())


def both(model: ModelFile, plan: str, hop: int) -> tuple[Stream, Stream]:
    """A stream of whole windows and one of steps."""
    engine = open_engine(model, "onnxruntime", EngineOptions())
    return Stream(engine, hop), Stream(engine, hop, steps=steps(model, plan, hop))


def chunks(signal: np.ndarray, sizes: list[int], lost: set[int]) -> Iterator[Chunk]:
    """The signal in chunks of these sizes, in turns; of those in `lost` nothing arrives, and their number tells."""
    begin = number = 0
    while begin < len(signal):
        size = sizes[number % len(sizes)]
        part = signal[begin : begin + size]
        if number not in lost:
            yield Chunk(part, begin * 1_000_000, sequence=np.arange(begin, begin + len(part)))
        begin, number = begin + size, number + 1


def same(whole: list[Decision], stepped: list[Decision]) -> None:
    assert [(d.window, d.first_sample, d.reason) for d in whole] == [
        (d.window, d.first_sample, d.reason) for d in stepped
    ]
    pairs = [(a.logits, b.logits) for a, b in zip(whole, stepped, strict=True) if a.logits is not None]
    wanted, got = (np.array(column) for column in zip(*pairs, strict=True))
    assert np.abs(got - wanted).max() <= WITHIN * np.abs(wanted).max()


@pytest.mark.parametrize("plan", ["edges", "stateful"])
@settings(max_examples=25, deadline=None)
@given(
    hop=st.sampled_from([4, 5, 6, 8, 12]),
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    lost=st.sets(st.integers(2, 30), max_size=3),
    bad=st.sets(st.integers(0, 599), max_size=3),
)
def test_gaps_chunks_and_values_that_are_no_numbers(model, plan, hop, sizes, lost, bad):
    signal = np.random.default_rng(hop).normal(size=(600, MODAL)).astype(np.float32)
    signal[sorted(bad), 0] = np.nan
    whole, stepped = both(model, plan, hop)
    decided = [
        [d for chunk in chunks(signal, sizes, lost) for d in stream.process(chunk)] for stream in (whole, stepped)
    ]
    if any(d.logits is not None for d in decided[0]):
        same(*decided)


@pytest.mark.parametrize("plan", ["edges", "stateful"])
def test_overflow_in_one_window_leaves_the_next_ones_right(model, plan):
    signal = np.random.default_rng(0).normal(size=(600, MODAL)).astype(np.float32)
    signal[300] = 3e38  # finite, and infinite behind the first product
    whole, stepped = both(model, plan, 8)
    decided = whole.push(signal), stepped.push(signal)
    assert {d.reason for d in decided[0]} == {None, "non-finite logits"}
    same(*decided)


@pytest.mark.parametrize("plan", ["edges", "stateful"])
def test_first_window_is_prepared_while_it_fills(model, plan, monkeypatch):
    """By the time the first window is whole one step is left to do, as for any other window."""
    _, stream = both(model, plan, 8)
    calls = []
    step = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, phase: calls.append(phase) or step(self, phase))
    signal = np.random.default_rng(0).normal(size=(WINDOW + 8, MODAL)).astype(np.float32)
    for row in signal[: WINDOW - 1]:
        assert not stream.push(row[None])
    before = len(calls)
    assert before == (WINDOW - 1) // 8
    assert len(stream.push(signal[WINDOW - 1 : WINDOW])) == 1
    assert len(calls) == before + 1
    assert len(stream.push(signal[WINDOW:])) == 1
    assert len(calls) == before + 2


@pytest.mark.parametrize("plan", ["edges", "stateful"])
def test_no_drift(model, plan):
    signal = np.random.default_rng(0).normal(size=(4096, MODAL)).astype(np.float32)
    whole, stepped = both(model, plan, 8)
    first = whole.push(signal), stepped.push(signal)
    same(*first)
    for _ in range(37):
        stepped.push(signal)
        whole.push(signal)
    # The same samples come round again: what steps give must not have moved by a bit.
    again = stepped.push(signal)
    assert len(again) == 512
    assert [d.logits for d in again[8:]] == [d.logits for d in stepped.push(signal)[8:]]
    same(whole.push(signal)[8:], again[8:])


def test_what_steps_can_not_be_opened_for(model):
    with pytest.raises(UsageError, match="plan 'edges': the network has none; windows of 60 samples every 60 do not"):
        steps(model, "edges", 60)
    with pytest.raises(UnavailableError, match="plan 'edges': is not available on tensorrt"):
        open_steps(model, "edges", 8, "tensorrt", EngineOptions())


def test_model_file_stays_whole(model: ModelFile, tmp_path: Path):
    before = model.proto.SerializeToString(deterministic=True)
    steps(model, "stateful", 8)
    assert model.proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("plan", [None, "edges", "stateful"])
@pytest.mark.parametrize("at", [0, 30, 59, 60, 131, 300])
def test_a_snapshot_goes_on_to_the_bit(model, plan, at):
    signal = np.random.default_rng(1).normal(size=(600, MODAL)).astype(np.float32)
    signal[200, 1] = np.nan
    engine = open_engine(model, "onnxruntime", EngineOptions())
    options = StreamOptions(decision=DecisionOptions(smooth=3))

    def stream() -> Stream:
        return Stream(engine, 8, options=options, steps=None if plan is None else steps(model, plan, 8))

    one, other = stream(), stream()
    begun = one.push(signal[:at])
    kept = one.snapshot()
    first = one.push(signal[at:])
    assert begun + first  # the snapshot is not what goes on
    other.push(signal[::-1])  # something else
    for _ in range(2):  # a snapshot can be gone back to
        other.restore(kept)
        second = other.push(signal[at:])
        for a, b in zip(first, second, strict=True):
            assert (a.window, a.first_sample, a.reason, a.logits, a.score) == (
                b.window,
                b.first_sample,
                b.reason,
                b.logits,
                b.score,
            )
        assert other.samples == one.samples


def test_a_snapshot_of_something_else_is_refused(model):
    engine = open_engine(model, "onnxruntime", EngineOptions())
    whole, by_steps = Stream(engine, 8), Stream(engine, 8, steps=steps(model, "edges", 8))
    with pytest.raises(UsageError, match=r"snapshot: got \[window, hop, channels\] \[60, 8, 2\]; the stream has"):
        Stream(engine, 4).restore(whole.snapshot())
    with pytest.raises(UsageError, match="one of it and the stream infers by steps"):
        by_steps.restore(whole.snapshot())
    with pytest.raises(UsageError, match="its states are of another plan"):
        by_steps.restore(Stream(engine, 8, steps=steps(model, "stateful", 8)).snapshot())
