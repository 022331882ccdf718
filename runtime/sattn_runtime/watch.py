"""`--watch`: the signal, the decision and the latency on a terminal while a run goes on.

The loop only copies what it has at hand into room made beforehand; a thread draws it, eight times a second.
"""

from __future__ import annotations

import os
import sys
import threading
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.errors import UsageError
from sattn_runtime.decision import Decision
from sattn_runtime.observer import Observer
from sattn_runtime.sources.base import Chunk
from sattn_runtime.watch_view import Shown, picture

if TYPE_CHECKING:
    from sattn_runtime.run_result import RunResult

_EVERY_S = 0.125
_FOLD_NS = 500_000_000
_SECONDS = 10.0
_CLOSE_S = 0.5  # a terminal that takes nothing more (Ctrl-S, a dead connection) must not hold up the report
_LATENCY = ("p50", "p99", "max")


class Watch(Observer):
    """Draws on stderr. Of an engine that gives its gates also the moments that the network looked at."""

    def __init__(self) -> None:
        """Raises UsageError where stderr is no terminal."""
        if not sys.stderr.isatty():
            raise UsageError("--watch", "stderr is no terminal", "a terminal to draw on", "leave it out in a service")
        self._result: RunResult | None = None
        self._room: NDArray[np.float32] = np.zeros((1, 1), np.float32)
        self._taken, self._prefix = 0, ""
        self._last: tuple[str, Decision | None] = ("", None)
        self._since: tuple[int, int | None, int] = (0, None, 0)  # first sample, class, last sample of the state at hand
        self._folded_ns = 0
        self._latency_us: dict[str, float] = dict.fromkeys(_LATENCY, 0.0)
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._streams = sys.stdout, sys.stderr

    def begin(self, result: RunResult) -> None:
        """Begins to draw."""
        rows = max(2, round(_SECONDS * result.contract.rate_hz))
        self._room = np.full((rows, result.contract.modal), np.nan, np.float32)
        self._result, self._prefix = result, result.options.prefix(0)
        self._thread = threading.Thread(target=self._draw_all, name="sattn-watch", daemon=True)
        self._thread.start()

    def chunk(self, stream: str, chunk: Chunk) -> None:
        """Copies its latest samples, of the first source."""
        if not stream.startswith(self._prefix):
            return
        rows = len(self._room)
        samples = chunk.samples[-rows:]
        first = self._taken % rows
        fits = min(len(samples), rows - first)
        self._room[first : first + fits] = samples[:fits]
        self._room[: len(samples) - fits] = samples[fits:]
        self._taken += len(samples)

    def window(self, stream: str, decision: Decision, emit_ns: int, done_ns: int) -> None:  # noqa: ARG002
        """Remembers it, and since when it has been so."""
        if not stream.startswith(self._prefix):
            return
        since, index, _ = self._since
        if index != decision.index or self._last[1] is None or stream != self._last[0]:
            since = decision.last_sample
        self._since = (since, decision.index, decision.last_sample)
        self._last = (stream, decision)

    def tick(self, now_ns: int) -> None:
        """Takes the latency's figures, twice a second."""
        if self._result is not None and now_ns - self._folded_ns >= _FOLD_NS:
            self._folded_ns = now_ns
            self._result.latency.fold()
            summary = self._result.latency.total.summary_us()
            self._latency_us = {name: summary[name] for name in _LATENCY}

    def end(self) -> None:
        """Draws once more where the terminal takes it, and leaves the last picture where it is."""
        if self._thread is not None:
            self._folded_ns = 0
            self.tick(monotonic_ns())
            self._ending.set()
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                # What the thread put in their place while it draws would wait for the terminal too.
                sys.stdout, sys.stderr = self._streams

    def _draw_all(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # A file of its own: the interpreter waits at its end for whoever is within a write to `sys.stderr`.
        with (
            open(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding) as file,  # noqa: PTH123 - a descriptor
            Live(console=Console(file=file), auto_refresh=False, transient=False) as live,
        ):
            while not self._ending.wait(_EVERY_S):
                live.update(self._panel(*live.console.size), refresh=True)
            live.update(self._panel(*live.console.size), refresh=True)

    def _panel(self, width: int, height: int) -> Any:
        from rich.panel import Panel
        from rich.text import Text

        shown = self.shown()
        lines = picture(shown, width - 4, height - 2) if shown is not None else ["waiting for a stream"]
        title = self._result.options.model if self._result is not None else ""
        return Panel(Text("\n".join(lines), no_wrap=True), title=Text(title), title_align="left")

    def shown(self) -> Shown | None:
        """What there is to show now; None before a stream began."""
        result = self._result
        if result is None:
            return None
        stream, decision = self._last
        since, _, until = self._since
        contract, totals = result.contract, result.totals()
        moments = decision.attention if decision is not None else None
        at = self._taken % len(self._room)
        latest = np.concatenate([self._room[at:], self._room[:at]])
        return Shown(
            stream=stream or "no stream yet",
            channels=tuple(contract.channel_names),
            units=tuple(channel.unit for channel in contract.channel),
            samples=latest[max(0, len(latest) - self._taken) :],
            seconds=_SECONDS,
            label=decision.label if decision is not None else None,
            reason=decision.reason if decision is not None else None,
            score=decision.score if decision is not None else None,
            window=decision.window if decision is not None else -1,
            lasting_s=(until - since) / contract.rate_hz,
            attention=moments.relative if moments is not None else None,
            counts={
                "windows": totals["windows"],
                "unjudged": totals["unjudged"],
                "gaps": totals["gaps"],
                "late": result.latency.misses,
            },
            latency_us=self._latency_us,
            deadline_us=result.latency.deadline_ns / 1000,
        )
