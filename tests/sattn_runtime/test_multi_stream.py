from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.engine import load_engine
from sattn_edge.errors import UsageError
from sattn_edge.statistics import channel_statistics
from sattn_edge.windows import WindowSet
from sattn_runtime import DecisionOptions, MultiStream, Stream, StreamOptions
from sattn_runtime.batch import fastest_batch
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract
from tests.helpers_engine import FakeClock
from tests.helpers_model import save_model

WINDOW, HOP = 8, 4


def told(decision) -> tuple:
    """All of a decision but its times."""
    kept = ("window", "first_sample", "last_sample", "index", "label", "score", "logits", "reason", "filled")
    return tuple(getattr(decision, key) for key in kept)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), batch=st.integers(1, 9), count=st.integers(1, 6))
def test_each_stream_decides_what_it_would_alone(data, batch, count):
    contract = make_contract(window=WINDOW, hop=HOP)
    known = channel_statistics(
        WindowSet(
            np.random.default_rng(0).normal(size=(50, 1, WINDOW, 2)).astype(np.float32), None, None, None, "", ""
        ),
        contract,
    )
    options = StreamOptions("hold", 2, decision=DecisionOptions(2, 0.1, 0.1))
    multi = MultiStream(FakeEngine(contract), options=options, statistics=known, batch=batch)
    alone = {f"s{i}": Stream(FakeEngine(contract), options=options, statistics=known) for i in range(count)}
    found: dict[str, list] = {name: [] for name in alone}
    wanted: dict[str, list] = {name: [] for name in alone}
    numbers = dict.fromkeys(alone, 0)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    for _ in range(data.draw(st.integers(1, 12))):
        turn = []
        for name in data.draw(st.permutations(sorted(alone))):
            n = int(rng.integers(0, 20))
            x = rng.normal(size=(n, 2)).astype(np.float32)
            if n and rng.random() < 0.1:
                x[rng.integers(n)] = np.nan
            sequence = numbers[name] + np.arange(n)
            numbers[name] += n + int(rng.choice([0, 0, 0, 1, 5]))
            turn.append((name, Chunk(x, None, sequence=sequence)))
        for name, decision in multi.process(turn):
            found[name].append(told(decision))
        for name, chunk in turn:
            wanted[name] += [told(d) for d in alone[name].process(chunk)]
    for name, decision in multi.finish():
        found[name].append(told(decision))
    for name, stream in alone.items():
        wanted[name] += [told(d) for d in stream.finish()]
        assert found[name] == wanted[name]
        if name in multi.streams:
            assert multi.streams[name].samples == stream.samples
            assert [(e.kind, e.sample) for e in multi.streams[name].log.fetch() if hasattr(e, "kind")] == [
                (e.kind, e.sample) for e in stream.log.fetch() if hasattr(e, "kind")
            ]


class Costly(FakeEngine):
    """Costs a fixed time a call and some a window, on a clock that only runs when somebody sleeps."""

    def __init__(self, contract, clock: FakeClock, call_s: float, window_s: float) -> None:
        super().__init__(contract)
        self._clock, self._call_s, self._window_s = clock, call_s, window_s
        self.calls = 0

    def _run(self, x: np.ndarray) -> np.ndarray:
        self.calls += 1
        self._clock.sleep(self._call_s + self._window_s * len(x))
        return np.zeros((len(x), len(self.contract.labels)), np.float32)


def lateness(monkeypatch: pytest.MonkeyPatch, batch: int) -> tuple[int, float, int]:
    """64 streams of 100 Hz, 128 x 9, hop 64, half a minute: windows, the worst latency in hops, calls."""
    contract = make_contract(tuple(f"c{i}" for i in range(9)), rate_hz=100.0, window=128, hop=64)
    with monkeypatch.context() as patch:
        clock = FakeClock(patch)
        engine = Costly(contract, clock, 0.012, 0.001)
        multi = MultiStream(engine, batch=batch)
        x, start = np.zeros((16, 9), np.float32), clock.now_ns
        worst, windows = 0.0, 0
        # Each stream sends 16 samples every 0.16 s, all of them at once.
        for turn in range(1, 3000 // 16 + 1):
            arrival = start + turn * 160_000_000
            clock.now_ns = max(clock.now_ns, arrival)
            decided = multi.process((f"s{i}", Chunk(x, arrival)) for i in range(64))
            windows += len(decided)
            for _, decision in decided:
                worst = max(worst, sum(decision.latency_ns) / 640_000_000)
    return windows, worst, engine.calls


def test_64_streams_have_no_late_window(monkeypatch):
    windows, worst, calls = lateness(monkeypatch, 64)
    assert windows == 64 * ((2992 - 128) // 64 + 1)
    assert worst < 1
    assert calls == windows / 64
    # The control: one by one the same engine can't keep up.
    assert lateness(monkeypatch, 1)[1] > 1


def test_the_batch_is_the_fastest_that_the_engine_takes(monkeypatch):
    contract = make_contract(window=WINDOW, hop=HOP)
    clock = FakeClock(monkeypatch)
    assert fastest_batch(Costly(contract, clock, 0.01, 0.001), (1, 2, 4)) == 4
    assert fastest_batch(Costly(contract, clock, 0.0, 0.001), (1, 2, 4)) == 1

    class Fixed(Costly):
        def infer(self, x):
            if len(x) > 2:
                raise UsageError("batch", f"got {len(x)}", "at most 2")
            return super().infer(x)

    assert fastest_batch(Fixed(contract, clock, 0.01, 0.001), (1, 2, 4)) == 2


def test_a_real_engine_gives_the_same_logits_in_a_batch(tmp_path):
    engine = load_engine(save_model(tmp_path))
    x = np.random.default_rng(0).normal(size=(3, 64, 2)).astype(np.float32)
    multi = MultiStream(engine, batch=16)
    decided = multi.process((f"s{i}", Chunk(x[i], None)) for i in range(3))
    for i in range(3):
        alone = [d.logits for d in Stream(engine).push(x[i])]
        mine = [d.logits for name, d in decided if name == f"s{i}"]
        np.testing.assert_allclose(mine, alone, rtol=1e-5, atol=1e-6)


def test_a_chunk_of_another_shape_loses_nothing():
    multi = MultiStream(FakeEngine(make_contract(window=WINDOW, hop=HOP)), batch=4)
    with pytest.raises(UsageError, match="samples: got shape"):
        multi.process((name, Chunk(np.zeros((8, modal), np.float32), None)) for name, modal in (("a", 2), ("b", 3)))
    assert [name for name, _ in multi.process([])] == ["a"]


def test_a_batch_of_none_is_refused():
    with pytest.raises(UsageError, match="batch: got 0; a number of windows, 1 or more"):
        MultiStream(FakeEngine(make_contract()), batch=0)
