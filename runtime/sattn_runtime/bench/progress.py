"""What a person at a terminal sees while a benchmark runs: which turn it is. Nothing in a pipe.

The line changes between turns only, and no thread draws it: that would run beside what is measured.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from sattn_runtime.bench.measure import Progress

_WIDTH = 79
_CLEAR = "\r\x1b[K"


@contextlib.contextmanager
def progress() -> Iterator[Progress | None]:
    """Something to call before each turn, None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield _show
    finally:
        sys.stderr.write(_CLEAR)


def _show(what: str, turn: int, turns: int) -> None:
    sys.stderr.write(_CLEAR + f"{turn}/{turns}  {what}"[:_WIDTH])
    sys.stderr.flush()
