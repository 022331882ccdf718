"""The rate that time stamps show, against the contract's: the slope of a line through (number, stamp)."""

from __future__ import annotations

from sattn_edge.recording_base import RATE_TOLERANCE

_BLOCK_S = 5.0
_MIN_POINTS = 8
# A block is so many times as long as stamps are late at most, so that their jitter can't tilt the line much.
_JITTERS = 200.0
# Or so long with so many points: at a wrong rate stamps are later and later, and no block would ever be long enough.
_LONG_S = 60.0
_MANY_POINTS = 64


class RateWatch:
    """Fits block after block of some seconds; tells where the rate leaves and where it comes back.

    ppm: the last block's deviation of the period, in parts per million: above 0 where samples come too slowly.
    wrong: it is off by more than a recording's rate may be.
    """

    def __init__(self, rate_hz: float, limit_ppm: float) -> None:
        self.ppm: float | None = None
        self.drifting = self.wrong = False
        self._rate_hz, self._limit_ppm = rate_hz, limit_ppm
        self.begin()

    def begin(self) -> None:
        """Starts a block: what was before a break has no part in it."""
        self._first: tuple[int, float] | None = None
        self._points = 0
        self._n = self._t = self._nn = self._nt = 0.0

    def add(self, number: int, time_s: float, jitter_s: float) -> bool:
        """Takes a point; True where `drifting` has changed."""
        if self._first is None:
            self._first = (number, time_s)
        n, t = number - self._first[0], (time_s - self._first[1]) * self._rate_hz
        self._points += 1
        self._n += n
        self._t += t
        self._nn += n * n
        self._nt += n * t
        length_s = max(_BLOCK_S, _JITTERS * jitter_s)
        if self._points >= _MANY_POINTS:
            length_s = min(length_s, _LONG_S)
        if self._points < _MIN_POINTS or max(n, t) < length_s * self._rate_hz:
            return False
        return self._fit()

    def _fit(self) -> bool:
        spread = self._nn - self._n * self._n / self._points
        slope = (self._nt - self._n * self._t / self._points) / spread if spread > 0 else 1.0
        self.ppm = (slope - 1) * 1e6
        self.begin()
        was, self.drifting = self.drifting, abs(self.ppm) > self._limit_ppm
        self.wrong = abs(self.ppm) > RATE_TOLERANCE * 1e6
        return was != self.drifting
