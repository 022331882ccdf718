"""Five seeds of every fault; `streams.py` does two hundred. Streams that are wrong on purpose prove the oracle."""

from __future__ import annotations

import pytest

from sattn_runtime import Stream
from sattn_runtime.pieces import Break, Piece
from tests.fuzz.faults import FAULTS, MODES
from tests.fuzz.streams import POLICIES, check


def test_there_are_24_kinds_of_fault():
    assert len(FAULTS) == 24


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_no_window_is_lost_doubled_or_glued_in_silence(name):
    wrong = [w for seed in range(5) for mode in MODES for policy in POLICIES for w in check(name, mode, policy, seed)]
    assert not wrong, "\n".join(wrong[:5])


class Gluing(Stream):
    """Goes on across every break."""

    def _follow(self, steps, begin):
        return super()._follow([step for step in steps if not isinstance(step, Break)], begin)


class Doubling(Stream):
    """Feeds every hundredth piece twice."""

    def _follow(self, steps, begin):
        pieces = [step for step in steps if isinstance(step, Piece)]
        return super()._follow([*steps, *pieces[:1]] if begin % 5 == 0 else steps, begin)


class Losing(Stream):
    """Forgets what waits, now and then, and says nothing."""

    def _follow(self, steps, begin):
        if begin > 200 and begin % 3 == 0:
            self.ring.restart()
        return super()._follow(steps, begin)


class Miscounting(Stream):
    """Tells gaps one sample too long."""

    def _cross(self, hole, behind, number):
        if hole.missing:
            hole.missing += 1
        return super()._cross(hole, behind, number)


@pytest.mark.parametrize("wrong_stream", [Gluing, Doubling, Losing, Miscounting])
def test_the_oracle_sees_a_stream_that_is_wrong(wrong_stream):
    found = [bool(check("burst", mode, "split", seed, wrong_stream)) for seed in range(5) for mode in MODES]
    assert sum(found) > len(found) / 2
    assert not any(check("burst", mode, "split", seed) for seed in range(5) for mode in MODES)
