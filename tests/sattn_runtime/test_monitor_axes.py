"""Exchanged axes that no single channel shows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sattn_runtime import Stream
from sattn_runtime.events import Event
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.helpers_axes import STRETCH, WINDOW, axes_contract, axes_statistics, exchanged, person

REASON = "swapped axes: ax and ay"
TOLD = "swapped axes, exchanged they look like training, by "


@pytest.fixture(scope="module")
def known() -> Any:
    return axes_statistics()


def run(x: np.ndarray, known: Any, sizes: int = 2 * WINDOW, gap_at: int | None = None) -> tuple[Stream, list[Any]]:
    """Decisions; gap_at: a row before which some are missing."""
    stream = Stream(FakeEngine(axes_contract()), statistics=known)
    numbers = np.arange(len(x))
    if gap_at is not None:
        numbers[gap_at:] += 7
    chunks = [Chunk(x[at : at + sizes], None, sequence=numbers[at : at + sizes]) for at in range(0, len(x), sizes)]
    return stream, [d for chunk in chunks for d in stream.process(chunk)]


def events(stream: Stream) -> list[tuple[str, str, str]]:
    log = [e for e in stream.log.fetch() if isinstance(e, Event)]
    return [(e.kind, e.channel or "", e.detail) for e in log]


@pytest.mark.parametrize("seed", [20, 21, 22, 23])
def test_people_who_had_no_part_in_training_are_decided_on(known, seed):
    stream, decisions = run(person(seed), known)
    assert len(decisions) == 300
    assert not stream.reasons


@pytest.mark.parametrize(("pair", "names"), [((0, 1), "ax and ay"), ((0, 2), "ax and az")])
@pytest.mark.parametrize("seed", [20, 21, 22, 23])
def test_exchanged_axes_are_not_decided_on(known, seed, pair, names):
    stream, decisions = run(exchanged(person(seed), *pair), known)
    assert set(stream.reasons) == {f"swapped axes: {names}"}
    refused = [d.reason is not None for d in decisions]
    assert not any(refused[: STRETCH - 1])
    assert all(refused[STRETCH - 1 :])
    ((kind, channel, detail),) = events(stream)
    assert (kind, channel) == ("input_bad", names)
    assert detail.startswith(TOLD)
    assert detail.endswith(f" nats a window over {STRETCH} windows")


def test_axes_that_training_can_not_tell_apart_are_not_watched(known):
    assert not run(exchanged(person(20), 1, 2), known)[0].reasons


@pytest.mark.parametrize("sizes", [1, 20, 33, 5000])
def test_the_chunks_do_not_matter(known, sizes):
    x = exchanged(person(20, 120), 0, 1)
    assert [d.reason for d in run(x, known, sizes)[1]] == [d.reason for d in run(x, known)[1]]


def test_it_is_over_when_a_stretch_speaks_against_it(known):
    x = np.concatenate([exchanged(person(20, 150), 0, 1), person(20, 250)])
    stream, decisions = run(x, known)
    assert [kind for kind, *_ in events(stream)] == ["input_bad", "input_good"]
    assert decisions[150 + STRETCH // 4].reason == REASON
    assert decisions[150 + STRETCH].reason is None
    assert decisions[-1].reason is None


def test_a_gap_begins_a_new_stretch(known):
    x = exchanged(person(20, 200), 0, 1)
    late = 70 * WINDOW
    told = [d.reason for d in run(x, known, gap_at=late)[1]]
    assert not any(told[: 70 + STRETCH - 1])
    assert all(told[70 + STRETCH - 1 :])
    # What a whole stretch has shown goes on across it.
    told = [d.reason for d in run(x, known, gap_at=120 * WINDOW)[1]]
    assert all(told[STRETCH - 1 :])


def test_what_is_odd_either_way_is_not_an_exchange(known):
    """With ax and ay exchanged it is likelier, but wx is nothing like it was in training."""
    x = exchanged(person(20), 0, 1)
    x[:, 3] *= 2.5
    assert not run(x, known)[0].reasons
    near = json.loads(json.dumps(known))
    near["axes"]["most_distance"] = 100.0
    assert set(run(x, near)[0].reasons) == {REASON}


def test_still_windows_say_nothing_where_training_says_so(known):
    lively = json.loads(json.dumps(known))
    lively["axes"]["least_level"] = 100.0
    assert not run(exchanged(person(20), 0, 1), lively)[0].reasons
    lively["axes"]["least_level"] = -100.0
    assert set(run(exchanged(person(20), 0, 1), lively)[0].reasons) == {REASON}


def test_windows_of_a_stuck_channel_say_nothing(known):
    x = exchanged(person(20), 0, 1)
    x[: 20 * WINDOW, 3] = 0.25
    stream, decisions = run(x, known)
    assert set(stream.reasons) == {"stuck: wx", REASON}
    assert [d.reason for d in decisions].index(REASON) == 20 + STRETCH - 1


def test_not_a_number_does_not_end_it(known):
    x = exchanged(person(20), 0, 1)
    x[1000, 2] = np.nan
    stream, decisions = run(x, known)
    assert set(stream.reasons) == {REASON, "non-finite input"}
    assert decisions[-1].reason == REASON


@pytest.mark.parametrize("axes", [None, 3, {}, {"pairs": []}])
def test_files_without_them_or_with_others_run(known, axes):
    old = {**known, "axes": axes}
    if axes is None:
        del old["axes"]
    assert not run(exchanged(person(20), 0, 1), old)[0].reasons
