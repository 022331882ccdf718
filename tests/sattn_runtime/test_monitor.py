from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.contract import Channel, Contract
from sattn_edge.recording import open_recordings
from sattn_edge.statistics import channel_statistics
from sattn_edge.windows import WindowSet, load_windows
from sattn_runtime import Stream, StreamOptions
from sattn_runtime.events import Event
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import ROOT, WATCH_TINY, contract_of, make_contract

WINDOW, HOP, RATE = 32, 16, 50.0
NAMES = ("ax", "ay", "az", "wx")
UNITS = ("g", "g", "g", "rad/s")


def contract_with(**limits: float) -> Contract:
    rows = tuple(Channel(n, u, **limits) for n, u in zip(NAMES, UNITS, strict=True))
    return Contract(RATE, WINDOW, HOP, ("rest", "walk", "run"), rows)


def healthy(n: int, seed: int = 0) -> np.ndarray:
    """Gravity on ax, noise on all; values of 0.01, so that some repeat."""
    x = np.random.default_rng(seed).normal(size=(n, 4)) * [0.1, 0.1, 0.1, 1.0] + [1.0, 0.0, -0.2, 0.0]
    return (np.round(x, 2)).astype(np.float32)


def statistics_of(contract: Contract, windows: int = 200) -> Any:
    x = healthy(WINDOW * windows, 9).reshape(windows, 1, WINDOW, 4)
    return channel_statistics(WindowSet(x, None, None, None, "t", ""), contract)


def run(x: np.ndarray, contract: Contract | None = None, sizes: int = HOP, **options: Any) -> tuple[Stream, list]:
    contract = contract or contract_with()
    stream = Stream(FakeEngine(contract), options=StreamOptions(**options), statistics=statistics_of(contract))
    decisions = [d for at in range(0, len(x), sizes) for d in stream.process(Chunk(x[at : at + sizes], None))]
    return stream, decisions


def details(stream: Stream) -> list[tuple[str, str]]:
    return [(e.kind, f"{e.channel}: {e.detail}") for e in stream.log.fetch() if isinstance(e, Event)]


def test_nothing_is_wrong_with_what_is_like_the_training_data():
    stream, decisions = run(healthy(5000))
    assert len(decisions) == 311
    assert stream.unjudged == 0
    assert not details(stream)


@pytest.mark.parametrize(("windows", "reasons"), [(31, {None, "stuck: ay"}), (32, {None, "stuck: ay", "scale: wx"})])
def test_few_windows_do_not_say_what_is_usual(windows, reasons):
    """Another scale could be one that they happen not to have; a stuck channel is none."""
    contract, x = contract_with(), healthy(3000)
    x[1000:1500, 1] = 0.03
    x[2000:, 3] *= 20
    stream = Stream(FakeEngine(contract), statistics=statistics_of(contract, windows))
    assert {d.reason for d in stream.push(x)} <= reasons | {"out of range: wx"}
    assert stream.reasons["stuck: ay"] > 0
    assert (len(stream.reasons) > 1) == (windows >= 32)


@pytest.mark.parametrize("sizes", [1, 5, 16, 64, 5000])
def test_a_stuck_channel_is_not_decided_on(sizes):
    x = healthy(3000)
    x[1000:1500, 1] = 0.03
    stream, decisions = run(x, sizes=sizes)
    refused = [d for d in decisions if d.reason == "stuck: ay"]
    assert {d.reason for d in decisions} == {None, "stuck: ay"}
    # Sure after half a second (26 samples here) and at most a quarter more.
    assert 1026 <= refused[0].last_sample <= 1026 + 13 + HOP
    assert all(d.first_sample < 1500 for d in refused)
    assert {d.reason for d in decisions if d.last_sample >= 1026 + 13 and d.first_sample < 1497} == {"stuck: ay"}
    assert all(d.reason is None for d in decisions if d.first_sample > 1503)
    assert [kind for kind, _ in details(stream)] == ["input_bad", "input_good"]


@pytest.mark.parametrize("sizes", [1, 7, 16, 200])
def test_a_run_that_is_no_longer_than_allowed_is_nothing(sizes):
    """The control: half a second is 25 samples."""
    x = healthy(600)
    x[100:125, 1] = 0.03
    assert run(x, sizes=sizes)[0].unjudged == 0
    x[100:140, 1] = 0.03
    assert run(x, sizes=sizes)[0].unjudged > 0


@pytest.mark.parametrize("rate_hz", [10.0, 50.0, 400.0])
def test_a_run_is_stuck_to_the_sample_wherever_it_lies(rate_hz):
    rows = tuple(Channel(n, u) for n, u in zip(NAMES, UNITS, strict=True))
    contract = Contract(rate_hz, WINDOW, HOP, ("rest", "walk", "run"), rows)
    longest = channel_longest(contract)
    for at in range(100, 140, 3):
        for more, sizes in ((0, 16), (0, 7), (1, 16), (1, 7), (1, 1000)):
            x = healthy(1000)
            x[at - 1 : at + longest + more + 1, 1] = 0.5
            x[at : at + longest + more, 1] = 0.03
            stream, _ = run(x, contract, sizes=sizes)
            told = [text for kind, text in details(stream) if kind == "input_bad"]
            assert told == ["ay: stuck, at 0.03"] * more, (at, more, sizes)


def channel_longest(contract: Contract) -> int:
    """What may be equal in a row: four times the longest run in training, and half a second."""
    runs = [channel["longest_equal_samples"] for channel in statistics_of(contract)["channels"]]
    return max(4 * runs[1], int(contract.rate_hz / 2))


def test_out_of_the_contracts_range():
    contract = contract_with(min=-8.0, max=8.0)
    x = healthy(400)
    x[100, 2] = -8.5
    stream, decisions = run(x, contract)
    assert [(d.first_sample, d.reason) for d in decisions if d.reason] == [
        (80, "out of range: az"),
        (96, "out of range: az"),
    ]
    assert details(stream) == [("input_bad", "az: out of range, -8.5"), ("input_good", "az: out of range, over")]
    x[100, 2] = -8.0
    assert run(x, contract)[0].unjudged == 0


def test_far_outside_the_training_range_without_one_in_the_contract():
    x = healthy(400)
    x[100, 0] = 50.0
    assert set(run(x)[0].reasons) == {"out of range: ax"}
    x[100, 0] = 2.0  # beyond all of training, but not by that much
    assert not run(x)[0].reasons


def test_a_contract_with_a_range_needs_no_statistics():
    contract = contract_with(min=-8.0, max=8.0)
    x = healthy(64)
    x[10, 0] = 9
    stream = Stream(FakeEngine(contract))
    assert [d.reason for d in stream.push(x)] == ["out of range: ax"] + [None] * 2


def test_saturated_at_the_contracts_limit_and_at_a_rail():
    contract = contract_with(min=-8.0, max=8.0)
    x = healthy(400)
    x[100:103, 0] = 8.0
    assert set(run(x, contract)[0].reasons) == {"saturated: ax"}
    x[102, 0] = 7.99
    assert not run(x, contract)[0].reasons
    x = healthy(400)
    x[100:118, 0] = 2.1  # no limit is known, but it is flat where training never was
    assert set(run(x)[0].reasons) == {"saturated: ax"}
    x[100:118, 0] = 1.1
    assert not run(x)[0].reasons


def test_another_scale_is_named_with_its_factor():
    x = healthy(3000)
    x[1000:, :3] *= 9.80665
    stream, decisions = run(x, contract_with(min=-50.0, max=50.0))  # else each is far outside the training range
    assert set(stream.reasons) == {"wrong scale: ax, ay, az"}
    assert all(d.reason for d in decisions if d.first_sample >= 1000 + 4 * WINDOW)
    ((kind, text),) = details(stream)
    assert kind == "input_bad"
    assert re.search(r"9\.[678]\d? times the usual level, as between m/s\^2 and g", text)


def test_swapped_axes_are_named():
    x = healthy(3000)
    x[1000:, [0, 2]] = x[1000:, [2, 0]]
    contract = contract_with(min=-50.0, max=50.0)  # else each value is far outside the training range
    stream, _ = run(x, contract)
    assert set(stream.reasons) == {"swapped axes: ax, ay, az"}
    assert "ax looks like az" in details(stream)[0][1]
    assert not run(healthy(3000), contract)[0].reasons


def test_the_wrong_rate_is_not_decided_on():
    contract = contract_with()
    stream = Stream(FakeEngine(contract), statistics=statistics_of(contract))
    x, stamps = healthy(3000), np.arange(3000) / (2 * RATE)
    for at in range(0, 3000, HOP):
        list(stream.process(Chunk(x[at : at + HOP], None, 0, stamps[at : at + HOP])))
    assert set(stream.reasons) == {"wrong rate"}


def test_nan_and_inf_do_not_upset_it():
    x = healthy(400)
    x[50, 0], x[60, 1], x[61, 1] = np.nan, np.inf, -np.inf
    stream, _ = run(x)
    assert "non-finite input" in stream.reasons
    assert stream.windows == 24


def test_a_gap_ends_a_run():
    x = healthy(400)
    x[100:140, 1] = 0.03
    contract = contract_with()
    numbers = np.arange(400)
    numbers[120:] += 10
    stream = Stream(FakeEngine(contract), statistics=statistics_of(contract))
    for at in range(0, 400, 8):
        list(stream.process(Chunk(x[at : at + 8], None, sequence=numbers[at : at + 8])))
    assert stream.unjudged == 0


def test_it_can_be_left_out():
    x = healthy(400)
    x[100:200, 1] = 0.03
    assert run(x)[0].unjudged
    assert not run(x, monitor=False)[0].unjudged


@pytest.mark.parametrize(
    "statistics",
    [None, {}, {"n": 3}, {"channels": []}, {"channels": [{"name": "ax"}]}, {"channels": 7}],
)
def test_files_without_statistics_run(statistics):
    stream = Stream(FakeEngine(contract_with()), statistics=statistics)
    assert len(stream.push(np.zeros((640, 4)))) == 39
    assert stream.unjudged == 0


def test_files_of_before_there_were_window_levels_run():
    contract = contract_with()
    old = json.loads(json.dumps(statistics_of(contract)))
    del old["units"]
    for channel in old["channels"]:
        del channel["window_mean"]
    stream = Stream(FakeEngine(contract), statistics=old)
    x = healthy(400)
    x[100:200, 1] = 0.03
    stream.push(x)
    assert set(stream.reasons) == {"stuck: ay"}


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_chunks_do_not_change_what_is_refused(data):
    contract = contract_with()
    x = healthy(300)
    at = data.draw(st.integers(0, 200))
    x[at : at + data.draw(st.integers(20, 90)), 2] = 0.5
    x[data.draw(st.integers(0, 299)), 0] = 50.0
    ends = []
    for sizes in (data.draw(st.integers(1, 40)), 1):
        _, decisions = run(x, contract, sizes)
        ends.append([d.reason for d in decisions])
    assert ends[0] == ends[1]


@pytest.mark.parametrize("path", [WATCH_TINY, ROOT / "benchmarks/data/watch_dev.npz"])
def test_no_false_alarm_on_whole_recordings(path):
    """Statistics of one set of people, the recordings of others: `benchmarks/false_alarms.py` has more of them."""
    contract = contract_of(path, 200, 100)
    names = [r.name for r in open_recordings(str(path), contract)]
    known = channel_statistics(load_windows(str(WATCH_TINY), contract), contract)
    windows = 0
    for recording in list(open_recordings(str(path), contract))[:40]:
        stream = Stream(FakeEngine(contract), statistics=known)
        for at in range(0, len(recording.samples), 100):
            list(stream.process(Chunk(recording.samples[at : at + 100], None)))
        assert not stream.reasons, recording.name
        windows += stream.windows
    assert windows > 100
    assert names


def test_a_bundle_of_plain_channels():
    """Without units every channel is on its own."""
    found = channel_statistics(WindowSet(np.ones((2, 1, 8, 2), np.float32), None, None, None, "t", ""), make_contract())
    assert [u["channels"] for u in found["units"]] == [[0], [1]]
    assert found["units"][0]["window_rms"] == {"min": 1.0, "max": 1.0}
