"""What every live source asks of the names, units and stamps that its peer gives."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.recording_base import ChannelMap, check_rate, check_timestamps, check_units, map_channels, rate_of

_RATE_AFTER = 50  # samples before the rate is judged
_WITH_UNIT = re.compile(r"(.*\S)\s*[\[(]([^\[\]()]*)[\])]")


def split_unit(name: str, contract: Contract) -> tuple[str, str]:
    """`acc_x[g]` or `acc_x (g)` as name and unit, unless the contract has a channel of the whole name."""
    found = _WITH_UNIT.fullmatch(name)
    if found is None or name in contract.channel_names:
        return name, ""
    return found[1], found[2]


def named_channels(names: Sequence[str], contract: Contract, subject: str) -> ChannelMap:
    """Where the contract's channels stand among names that may carry their unit in brackets.

    Raises:
        RecordingError: a channel is missing or stands twice, or its unit is not the contract's.
    """
    parts = [split_unit(name, contract) for name in names]
    channels = map_channels([name for name, _ in parts], contract, subject)
    check_units([unit for _, unit in parts], channels, contract, subject)
    return channels


class NoTimeError(RecordingError):
    """Stamps that no rate can be read from: they never increase."""


class RateCheck:
    """Judges the sampling rate once, by the first time stamps that are enough to tell."""

    def __init__(self, contract: Contract, subject: str, what: str = "timestamp_s") -> None:
        self._contract, self._subject, self._what = contract, subject, what
        self._early: list[float] | None = []
        self._block: tuple[float, int] | None = None

    def add_block(self, first_s: float, count: int, *, joined: bool) -> None:
        """Takes a block of samples of which only the first has a stamp; `joined` to the block before it.

        Raises:
            RecordingError: as `add` does.
        """
        before, self._block = self._block, (first_s, count)
        if joined and before is not None and self._early is not None:
            self.add(np.linspace(before[0], first_s, before[1], endpoint=False))

    def add(self, timestamp_s: NDArray[np.float64] | Sequence[float]) -> None:
        """Takes the stamps of the samples at hand.

        Raises:
            RecordingError: they show another rate than the contract's.
            NoTimeError: time does not pass.
        """
        if self._early is None:
            return
        self._early += list(timestamp_s)
        if len(self._early) >= _RATE_AFTER:
            try:
                early = check_timestamps(np.asarray(self._early, np.float64), len(self._early), self._subject)
            except RecordingError as error:
                raise NoTimeError(error.subject, error.found, error.allowed, error.todo) from error
            self._early = None
            check_rate(rate_of(early), self._what, self._contract, self._subject)
