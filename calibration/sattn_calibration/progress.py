"""What a person at a terminal sees while candidates are tried: this one, and the best so far. Nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from sattn_calibration.choice import Tried


@contextlib.contextmanager
def progress() -> Iterator[Callable[[Tried], None]]:
    """A listener for `calibrate` that keeps one line up to date, where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status("checking the windows, then running the network on them") as status:
        tried: list[Tried] = []

        def listen(row: Tried) -> None:
            tried.append(row)
            line = progress_line(tried)
            # The spinner takes two columns; a line that wraps would leave its pieces behind.
            status.update(Text(line[: max(console.width - 4, 20)], no_wrap=True, overflow="ellipsis"))

        yield listen


def progress_line(tried: list[Tried]) -> str:
    """The last candidate and the best one, of the target that is searched for."""
    last = tried[-1]
    rows = [row for row in tried if row.target == last.target]
    best = min(rows, key=lambda row: (not row.within_budget, row.score))
    flips = f"{last.agreement.flips} of {last.agreement.windows} differ"
    return f"{last.target} {len(rows)}: error {last.score:.2%} (best {best.score:.2%}), {flips}: {last.what}"
