"""The input monitor: whether live samples look like those the network was trained on, channel by channel.

*Out of range*: a value outside the contract's range; without one, further outside the training range than that is wide.
*Saturated*: three samples in a row at an end of the contract's range that training never reached; or flat for longer
than any run in training, outside the training range.
*Stuck*: equal values for longer than four times the longest run in a training window, and half a second.
*Wrong scale, swapped axes*: whole windows are not like those of training (`monitor_windows`).

Samples are looked at once, in small blocks, by their least and greatest values: a window costs nothing. A fault is a
span of rows, known from some row on: a window is bad if it holds one of its rows and the fault was known by its last.
So what is decided does not depend on how samples come in chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_runtime.events import Event
from sattn_runtime.monitor_limits import Limits
from sattn_runtime.monitor_windows import WindowLevels

_STUCK, _SATURATED, _RANGE = "stuck", "saturated", "out of range"
_MOST_BLOCK = 64
_AT_RAIL = 3  # samples in a row
_OPEN = 1 << 62


def _leading(values: list[float], value: float) -> int:
    """How many of the first values are this one."""
    return next((at for at, other in enumerate(values) if other != value), len(values))


@dataclass(slots=True)
class Span:
    """Rows that must not be decided on: up to `end`, by windows whose last row is `known` or later."""

    kind: str
    names: str
    known: int
    end: int

    @property
    def reason(self) -> str:
        """What a window's line says."""
        return f"{self.kind}: {self.names}"


class Monitor:
    """One stream's input. Rows are those of its ring."""

    def __init__(self, contract: Contract, statistics: Mapping[str, Any] | None) -> None:
        self.spans: list[Span] = []
        self._names, self._window = contract.channel_names, contract.window
        self._limits = limits = Limits(contract, statistics)
        self.block = int(max(1, min(_MOST_BLOCK, limits.block)))
        self._levels = WindowLevels(contract, statistics) if limits.known else None
        self._lasting: dict[tuple[str, str], Span] = {}
        self._points: dict[tuple[str, str], Span] = {}
        self._events: list[Event] = []
        self._least = np.zeros(contract.modal, np.float32)
        self._greatest = np.zeros(contract.modal, np.float32)
        self._partial = 0  # samples in the block at hand
        self._equal = [0] * contract.modal  # equal samples in a row, where the last block was constant
        self._tail = np.full((2 * self.block, contract.modal), np.nan, np.float32)  # what came before `_samples`
        self._samples, self._row = self._tail[:0], 0  # those at hand
        self._value = [0.0] * contract.modal
        self._railed = [0] * contract.modal  # samples at a rail in a row

    def bad(self, first: int, last: int) -> str | None:
        """Why a window of these rows must not be decided on."""
        if not self.spans:
            return None
        self.spans = [span for span in self.spans if span.end >= first]
        known = [(span.known, span.reason) for span in self.spans if span.known <= last]
        return min(known)[1] if known else None

    def add(self, samples: NDArray[np.float32], row: int) -> list[Event]:
        """Looks at samples [n, modal], the first of which is row `row`; returns what began and ended."""
        count = len(samples)
        if not count:
            return []
        self._events = []
        # Not samples.min: that is half as fast on so few.
        least, greatest = np.minimum.reduce(samples), np.maximum.reduce(samples)
        touched = self._limits.touched(least, greatest)
        if touched or any(self._railed):
            self._check_points(samples, row)
        if self._limits.measured:
            self._samples, self._row = samples, row
            if not self._partial and count == self.block:
                self._blocks(least[None], greatest[None], row)
            else:
                self._cut(samples, row)
            self._keep_tail(samples)
        if self._levels is not None:
            for end in self._levels.add(samples, row, safe=not touched):
                self._note_levels(self._levels, end)
        if self._points:
            self._forget_points(row + count)
        return self._events

    def _keep_tail(self, samples: NDArray[np.float32]) -> None:
        tail, count = self._tail, len(samples)
        if not self._partial and count >= self.block:
            tail[self.block :] = samples[count - self.block :]  # nobody looks further back from where a block begins
        elif count < len(tail):
            tail[:-count] = tail[count:]
            tail[-count:] = samples
        else:
            tail[:] = samples[count - len(tail) :]

    def _column(self, channel: int, begin: int, end: int) -> list[float]:
        """A channel's values in rows begin to end, of which the tail has the first."""
        if self.block == 1:
            return []  # no run begins or ends inside a block
        held, at = len(self._tail), begin - self._row
        rows = [self._tail[held + min(at, 0) : held + min(end - self._row, 0), channel]] if at < 0 else []
        rows.append(self._samples[max(at, 0) : max(end - self._row, 0), channel])
        return list(np.concatenate(rows).tolist())

    def _check_points(self, samples: NDArray[np.float32], row: int) -> None:
        outside, railed = self._limits.points(samples)
        for channel in np.flatnonzero(outside.any(axis=0)).tolist():
            rows = np.flatnonzero(outside[:, channel])
            worst = samples[rows, channel][np.argmax(np.abs(samples[rows, channel]))]
            for at in rows.tolist():
                self._point(_RANGE, self._names[channel], row + at, f"{worst:.6g}")
        for channel in range(samples.shape[1]):
            run = self._railed[channel]
            if not run and not railed[:, channel].any():
                continue
            for at, hit in enumerate(railed[:, channel].tolist()):
                run = run + 1 if hit else 0
                if run >= _AT_RAIL:
                    self._point(_SATURATED, self._names[channel], row + at, f"at {samples[at, channel]:.6g}")
            self._railed[channel] = run

    def _point(self, kind: str, name: str, row: int, detail: str) -> None:
        """Something wrong with a single sample. Those less than a window apart are one span, told once."""
        span = self._points.get((kind, name))
        if span is not None and row - span.end <= self._window:
            span.end = row
            return
        if span is None:
            self._events.append(Event("input_bad", channel=name, detail=f"{kind}, {detail}"))
        self._points[(kind, name)] = span = Span(kind, name, row, row)
        self.spans.append(span)

    def _forget_points(self, row: int) -> None:
        for key, span in list(self._points.items()):
            if row - span.end > self._window:
                del self._points[key]
                self._tell_over(span)

    def _cut(self, samples: NDArray[np.float32], row: int) -> None:
        """Samples into blocks that begin and end where those of any other chunks would."""
        at = 0
        if self._partial:
            at = min(self.block - self._partial, len(samples))
            np.minimum(self._least, samples[:at].min(axis=0), out=self._least)
            np.maximum(self._greatest, samples[:at].max(axis=0), out=self._greatest)
            self._partial += at
            if self._partial < self.block:
                return
            self._blocks(self._least[None], self._greatest[None], row + at - self.block)
            self._partial = 0
        whole = (len(samples) - at) // self.block
        if whole:
            blocks = samples[at : at + whole * self.block].reshape(whole, self.block, -1)
            self._blocks(blocks.min(axis=1), blocks.max(axis=1), row + at)
            at += whole * self.block
        if at < len(samples):
            self._least, self._greatest = samples[at:].min(axis=0), samples[at:].max(axis=0)
            self._partial = len(samples) - at

    def _blocks(self, least: NDArray[np.float32], greatest: NDArray[np.float32], row: int) -> None:
        """Blocks in a row, by the least and greatest value of each channel, [blocks, modal]."""
        constant = least == greatest
        if not any(self._equal) and not np.count_nonzero(constant):
            return
        for channel, equal in enumerate(self._equal):
            if equal or constant[:, channel].any():
                flats, values = constant[:, channel].tolist(), least[:, channel].tolist()
                for at, (flat, value) in enumerate(zip(flats, values, strict=True)):
                    self._block(channel, flat, value, row + at * self.block)

    def _block(self, channel: int, flat: bool, value: float, row: int) -> None:
        """One block of one channel, of equal values or not."""
        name, known = self._names[channel], row + self.block - 1
        if self._equal[channel] and (not flat or value != self._value[channel]):
            # The run may reach into this block, and be long enough only by that.
            more = _leading(self._column(channel, row, row + self.block), self._value[channel])
            if self._equal[channel] + more >= self._limits.stuck[channel]:
                self._begin(_STUCK, name, f"at {self._value[channel]:.6g}", known)
            self._over(_STUCK, name, row + more - 1)
            self._over(_SATURATED, name, row + more - 1)
            self._equal[channel] = 0
        if not flat:
            return
        if not self._equal[channel]:
            self._equal[channel] = _leading(self._column(channel, row - self.block, row)[::-1], value)
        self._equal[channel] += self.block
        self._value[channel] = value
        if self._equal[channel] >= self._limits.stuck[channel]:
            self._begin(_STUCK, name, f"at {value:.6g}", known)
        elif self._equal[channel] >= self._limits.flat[channel] and self._limits.beyond_training(channel, value):
            self._begin(_SATURATED, name, f"at {value:.6g}", known)

    def _begin(self, kind: str, names: str, detail: str, known: int) -> None:
        """A fault that lasts until it is over."""
        if (kind, names) not in self._lasting:
            self._lasting[(kind, names)] = span = Span(kind, names, known, _OPEN)
            self.spans.append(span)
            self._events.append(Event("input_bad", channel=names, detail=f"{kind}, {detail}"))

    def _over(self, kind: str, names: str, end: int) -> None:
        span = self._lasting.pop((kind, names), None)
        if span is not None:
            span.end = end
            self._tell_over(span)

    def _tell_over(self, span: Span) -> None:
        self._events.append(Event("input_good", channel=span.names, detail=f"{span.kind}, over"))

    def _note_levels(self, levels: WindowLevels, row: int) -> None:
        """What a window's worth of samples, of which `row` was the last, shows of scale and axes."""
        for kind, names in [key for key in self._lasting if key[0] in levels.KINDS and key not in levels.faults]:
            self._over(kind, names, row)
        for (kind, names), detail in levels.faults.items():
            self._begin(kind, names, detail, row)

    def gap(self, row: int) -> None:
        """A gap before row `row`: no run goes on across it, but what whole windows have shown does."""
        if self._levels is not None:
            self._levels.gap()
        self._partial = 0
        self._equal = [0] * len(self._equal)
        self._railed = [0] * len(self._railed)
        self._tail[:] = np.nan
        for kind, names in [key for key in self._lasting if key[0] in (_STUCK, _SATURATED)]:
            self._lasting.pop((kind, names)).end = row - 1
