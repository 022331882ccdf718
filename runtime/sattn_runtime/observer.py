"""Who looks on while a run goes on: the service manager, metrics, a trace, a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sattn_runtime.decision import Decision
from sattn_runtime.sources.base import Chunk

if TYPE_CHECKING:
    from sattn_runtime.run_result import RunResult


class Observer:
    """Called by the loop, on its thread: what takes long here delays the next window. Does nothing by itself."""

    def begin(self, result: RunResult) -> None:
        """The engine is warm and the source open: from here on windows are decided. `result` is kept up to date."""

    def chunk(self, stream: str, chunk: Chunk) -> None:
        """Samples of a stream came; their windows are decided next. The array is not the observer's to keep."""

    def window(self, stream: str, decision: Decision, emit_ns: int, done_ns: int) -> None:
        """A decision was handed over, `emit_ns` after it was made, at the monotonic time `done_ns`."""

    def tick(self, now_ns: int) -> None:
        """The loop is alive: after every window, and at least every 100 ms while nothing comes."""

    def stopping(self) -> None:
        """A stop was asked for; what has arrived is still decided."""

    def end(self) -> None:
        """It is over, well or not."""
