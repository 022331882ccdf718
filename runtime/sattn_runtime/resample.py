"""A stream at one rate brought to another: a polyphase filter of windowed sincs.

An output sample stands at the time j * M / L of input samples, for the rates' ratio L / M in lowest terms. It is the
sum of the 2 H input samples around it, weighted by a sinc cut off below both Nyquist rates, under a Kaiser window; the
weights of each of the L phases add up to 1, so a constant stays what it is. It comes H input samples late, and the
first ones of a stretch, which lack samples on their left, are left out.

Every output is added up in the same order whatever the chunks: streaming gives the very bits of one pass.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sattn_edge.errors import UsageError

_CROSSINGS = 16  # of the sinc, on either side
_KAISER_BETA = 8.0  # 80 dB
_CUTOFF = 0.9  # of the lower Nyquist rate
_LONG = 64  # a longer filter is added up output by output, for there are few; a shorter one tap by tap
_MOST_PHASES = 4096
_TOLERANCE = 1e-6


class Resampler:
    """Chunks at `rate_in` to chunks at `rate_out`, for `modal` channels.

    Raises:
        UsageError: a rate that is no number above 0, or rates whose ratio has no fraction small enough.
    """

    def __init__(self, rate_in: float, rate_out: float, modal: int) -> None:
        for rate in (rate_in, rate_out):
            if not 0 < rate < math.inf:
                raise UsageError("resample", f"got {rate:g} Hz", "a rate above 0")
        ratio = Fraction(rate_out / rate_in).limit_denominator(_MOST_PHASES)
        if not ratio or ratio.numerator > _MOST_PHASES or abs(float(ratio) * rate_in / rate_out - 1) > _TOLERANCE:
            raise UsageError(
                "resample",
                f"{rate_in:g} Hz to {rate_out:g} Hz is no ratio of whole numbers up to {_MOST_PHASES}",
                todo="round the rate",
            )
        self.up, self.down = ratio.numerator, ratio.denominator
        stretch = max(1.0, self.down / self.up) / _CUTOFF
        self.half = math.ceil(_CROSSINGS * stretch)
        self._weights = _weights(self.up, self.half, stretch)
        self._kept = np.zeros((0, modal), np.float32)
        self.reset()

    @property
    def step(self) -> float:
        """Input samples from one output to the next."""
        return self.down / self.up

    @property
    def delay_samples(self) -> float:
        """How late an output comes, in output samples."""
        return self.half * self.up / self.down

    def reset(self) -> None:
        """Begins a stretch: nothing from before has a part in it."""
        self._kept = self._kept[:0]
        self._first = 0  # the number of the first input that is kept
        self.taken = 0  # inputs of this stretch
        # The first output with all of its inputs.
        self._next = -(-(self.half - 1) * self.up // self.down)

    @property
    def position(self) -> int:
        """The input sample at or before the next output, counted from the start of the stretch."""
        return self._next * self.down // self.up

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Takes samples [n, modal]; returns what they complete, float32 [m, modal]."""
        kept = np.concatenate([self._kept, samples])
        self.taken += len(samples)
        # Output j needs inputs up to floor(j M / L) + half.
        end = max(self._next, -(-(self.taken - self.half) * self.up // self.down))
        at = np.arange(self._next, end) * self.down
        base, phase = at // self.up - self.half + 1 - self._first, at % self.up
        made = np.zeros((len(at), kept.shape[1]), np.float64)
        if self.half > _LONG:
            for j, (begin, weights) in enumerate(zip(base.tolist(), self._weights[phase], strict=True)):
                made[j] = np.add.reduce(weights[:, None] * kept[begin : begin + 2 * self.half])
        elif len(at):
            weights = self._weights[phase]
            for tap in range(2 * self.half):
                made += weights[:, tap, None] * kept[base + tap]
        self._next = end
        drop = max(0, min(len(kept), self.position - self.half + 1 - self._first))
        self._kept = kept[drop:].copy()
        self._first += drop
        return made.astype(np.float32)


def _weights(phases: int, half: int, stretch: float) -> NDArray[np.float64]:
    """Weights [phases, 2 half]: tap t of a phase is the input t - half + 1 samples from the one before the output."""
    offset = np.arange(phases)[:, None] / phases - (np.arange(2 * half) - half + 1)
    inside = np.clip(1 - (offset / half) ** 2, 0, None)
    weights: NDArray[np.float64] = np.sinc(offset / stretch) * np.i0(_KAISER_BETA * np.sqrt(inside))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
