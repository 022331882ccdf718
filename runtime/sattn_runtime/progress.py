"""What a person at a terminal sees while a run goes on: the decision at hand. Nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from time import monotonic

from sattn_runtime.decision import Decision
from sattn_runtime.lane import Listener

_EVERY_S = 0.1


@contextlib.contextmanager
def progress() -> Iterator[Listener | None]:
    """A listener that keeps one line up to date, None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("waiting for the first window") as status:
        shown = 0.0

        def listen(stream: str, decision: Decision, truth: str | None) -> None:
            nonlocal shown
            now = monotonic()
            if now - shown < _EVERY_S:
                return
            shown = now
            said = decision.label or f"({decision.reason})"
            score = f" {decision.score:.2f}" if decision.score is not None else ""
            known = f", truth {truth}" if truth else ""
            status.update(Text(f"{stream}: window {decision.window:,}  {said}{score}{known}"))

        yield listen
