"""Ctrl-C and SIGTERM: the first asks the loop to drain, the second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
from time import monotonic_ns
from types import FrameType, TracebackType

from sattn_edge.errors import InterruptedTwiceError


class Stop:
    """Whether somebody asked to stop. As a context manager it listens to SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self.asked = False
        self.asked_ns = 0  # monotonic; the time to drain counts from here
        self._before: dict[signal.Signals, object] = {}

    def ask(self) -> None:
        """Stop when what was read is decided."""
        if not self.asked:
            self.asked_ns = monotonic_ns()
            self.asked = True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            # Not an Exception: it may come up in the middle of code that turns those into something else.
            raise KeyboardInterrupt
        self.ask()

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedTwiceError("interrupted twice", "the run was ended while it drained") from error
