from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.errors import RecordingError, UsageError
from sattn_edge.recording_base import RATE_TOLERANCE, check_rate
from sattn_runtime import DecisionOptions, Stream, StreamOptions
from sattn_runtime.resample import Resampler
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import make_contract
from tests.helpers_model import save_model
from tests.helpers_run import Cli, lines_of

RATES = [(100.0, 50.0), (50.0, 100.0), (52.0, 50.0), (51.2, 50.0), (360.0, 128.0), (50.0, 50.0), (12_000.0, 100.0)]


def oracle(x: np.ndarray, rate_in: float, rate_out: float, half: int) -> np.ndarray:
    """Each output on its own, by numpy's sinc and Kaiser window in float64, weights made to add up to one."""
    cut = 0.9 * min(1.0, rate_out / rate_in)
    found, j = [], 0
    while True:
        time = round(j * rate_in / rate_out, 9)
        j += 1
        taps = np.arange(int(time) - half + 1, int(time) + half + 1)
        if taps[0] < 0:
            continue
        if taps[-1] >= len(x):
            return np.array(found)
        off = time - taps
        w = np.sinc(cut * off) * np.i0(8.0 * np.sqrt(np.clip(1 - (off / half) ** 2, 0, None)))
        found.append((w[:, None] * x[taps]).sum(0) / w.sum())


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_against_the_formula(rate_in, rate_out):
    resampler = Resampler(rate_in, rate_out, 2)
    x = np.random.default_rng(0).normal(size=(2 * resampler.half + 900, 2)).astype(np.float32)
    found, wanted = resampler.push(x), oracle(x, rate_in, rate_out, resampler.half)
    assert found.shape == wanted.shape
    assert len(found) > 5
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert np.abs(found[1:] - wanted[:-1]).max() > 0.01  # the control: one output late


@settings(deadline=None, max_examples=60)
@given(
    rates=st.sampled_from([*RATES[:6], (1000.0, 50.0)]), sizes=st.lists(st.integers(0, 200), min_size=1, max_size=12)
)
def test_streaming_gives_the_very_bits_of_one_pass(rates, sizes):
    x = np.random.default_rng(1).normal(size=(sum(sizes), 3)).astype(np.float32)
    whole, parts, at = Resampler(*rates, 3).push(x), [], 0
    resampler = Resampler(*rates, 3)
    for size in sizes:
        parts.append(resampler.push(x[at : at + size]))
        at += size
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES[:5])
def test_a_slow_sine_stays_and_a_fast_one_goes(rate_in, rate_out):
    def sine(hz: float) -> tuple[np.ndarray, np.ndarray]:
        resampler = Resampler(rate_in, rate_out, 1)
        t = np.arange(4000) / rate_in
        made = resampler.push(np.sin(2 * np.pi * hz * t)[:, None].astype(np.float32))[:, 0]
        first = -(-(resampler.half - 1) * resampler.up // resampler.down)
        return made, np.sin(2 * np.pi * hz * (first + np.arange(len(made))) / rate_out)

    made, wanted = sine(0.3 * min(rate_in, rate_out))
    np.testing.assert_allclose(made, wanted, atol=1e-3)
    if rate_out < 0.8 * rate_in:
        made, _ = sine(0.5 * rate_out * 1.15)
        assert np.abs(made).max() < 1e-3


def test_a_constant_stays_what_it_is():
    made = Resampler(360.0, 100.0, 1).push(np.full((2000, 1), 3.25, np.float32))
    assert len(made) > 400
    assert (made == 3.25).all()


def stream_at(rate: float, **options: object) -> Stream:
    contract = make_contract(window=20, hop=10, rate_hz=50.0)
    made = StreamOptions(resample_hz=rate, **options)  # type: ignore[arg-type]
    return Stream(FakeEngine(contract, record=True), options=made)


def test_its_delay_is_counted():
    plain = Stream(FakeEngine(make_contract(window=20, hop=10)), options=StreamOptions(decision=DecisionOptions(3)))
    resampled = stream_at(100.0, decision=DecisionOptions(3))
    # 16 crossings of a sinc for 0.9 of half the rate: 36 samples of the source.
    assert resampled.delay_samples - plain.delay_samples == 36 / 2


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=10), rate=st.sampled_from([100.0, 25.0, 51.2]))
def test_the_books_are_right(sizes, rate):
    stream = stream_at(rate)
    for size in sizes:
        list(stream.process(Chunk(np.zeros((size, 2), np.float32), None)))
        samples = stream.samples
        rest = sum(v for k, v in samples.items() if k not in ("in", "filled", "resampled"))
        assert samples["in"] + samples["filled"] + samples["resampled"] == rest


def test_windows_are_placed_by_the_sources_own_samples():
    stream = stream_at(100.0)
    x = np.arange(400, dtype=np.float32)[:, None].repeat(2, 1)
    decisions = [d for at in range(0, 400, 7) for d in stream.process(Chunk(x[at : at + 7], None))]
    assert len(decisions) > 10
    for decision, window in zip(decisions, stream.engine.windows, strict=True):  # type: ignore[attr-defined]
        # The signal is a ramp: its value is the number of the sample.
        assert decision.first_sample == pytest.approx(window[0, 0], abs=1.01)
        assert decision.last_sample == pytest.approx(window[-1, 0], abs=1.01)


def test_a_gap_begins_a_stretch():
    stream = stream_at(100.0)
    stamps = np.arange(400) / 100
    stamps[200:] += 5
    x = np.where(np.arange(400) < 200, 0.0, 100.0)[:, None].repeat(2, 1).astype(np.float32)
    cuts = [slice(at, at + 8) for at in range(0, 400, 8)]
    decisions = [d for c in cuts for d in stream.process(Chunk(x[c], None, 0, stamps[c]))]
    assert [gap.sample for gap in stream.gaps] == [200]
    for window in stream.engine.windows:  # type: ignore[attr-defined]
        assert len(set(window[:, 0].round(3).tolist())) == 1  # no window rings with both sides
    assert {bool(d.first_sample >= 200) for d in decisions} == {False, True}


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(UsageError, match="resample: got"):
        Resampler(rate, 50.0, 1)


def test_a_ratio_that_is_none_is_refused():
    with pytest.raises(UsageError, match=r"is no ratio of whole numbers up to 4096; round the rate"):
        Resampler(50.0 * np.pi, 50.0 / 1000, 1)


def test_on_the_command_line(capfd, monkeypatch, tmp_path):
    cli, model = Cli(capfd, monkeypatch), save_model(tmp_path)
    label = (np.arange(400) >= 200).astype(np.int16)
    keys = {"channels": ["c0", "c1"], "label": label, "class_names": ["l0", "l1", "l2"], "fs": 100.0}
    np.savez(tmp_path / "r.npz", signal=np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32), **keys)
    source = f"replay:{tmp_path / 'r.npz'}"
    assert cli("sattn-run", model, source).code == 3
    done = cli("sattn-run", model, source, "--resample", "100", "--json", "--journal", tmp_path / "j")
    assert (done.code, done.err) == (0, "")
    samples = done.json["samples"]
    assert samples["in"] == 400
    assert samples["in"] + samples["resampled"] == samples["in_windows"] + samples["waiting"]
    rows = lines_of(tmp_path / "j", "window")
    before = [row["truth"] for row in rows if row["last_sample"] < 199]
    behind = [row["truth"] for row in rows if row["first_sample"] > 200]
    assert set(before) == {"l0"}
    assert set(behind) == {"l1"}
    assert "by resampling" in cli("sattn-run", model, source, "--resample", "100").out
    wrong = cli("sattn-run", model, source, "--resample", "0")
    assert (wrong.code, "--resample: got 0; the source's rate in Hz, above 0" in wrong.err) == (2, True)


@pytest.mark.parametrize("measured", [99.8734, 12.3456, 359.87, 1024.3])
def test_the_rate_that_is_named_can_be_resampled(measured):
    contract = make_contract(("a", "b"), rate_hz=50.0)
    with pytest.raises(RecordingError) as caught:
        check_rate(measured, "fs", contract, "r")
    named = float(str(caught.value).partition("--resample ")[2].partition(")")[0])
    assert abs(named - measured) <= RATE_TOLERANCE * measured
    Resampler(named, contract.rate_hz, 2)
