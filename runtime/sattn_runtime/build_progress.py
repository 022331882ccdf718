"""What a person sees while engines are built: a bar on a terminal, a line now and then in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from sattn_edge.command import tell
from sattn_runtime.tensorrt.compile_process import Watcher

ROOT_PHASE = ""


class Heartbeat:
    """A line when a compilation begins and while it lasts, for logs and for who waits."""

    def begins(self, what: str) -> None:
        """Says so."""
        tell(f"building {what}")

    def phase(self, name: str, parent: str, steps: int) -> None:
        """Nothing: a log does not need every phase."""

    def step(self, name: str, step: int) -> None:
        """Nothing."""

    def alive(self, what: str, seconds: float) -> None:
        """Says so, and since when."""
        tell(f"building {what}: {seconds:.0f} s, still at work")

    def ends(self, what: str) -> None:
        """Nothing: the next line says it."""

    def doing(self, what: str) -> None:
        """Says so."""
        tell(what)


class Bar:
    """A bar of the steps of the outermost phase, with the innermost one's name; time alone where there are no phases.

    Args:
        shown: a `rich.progress.Progress` that is running.
    """

    def __init__(self, shown: Any) -> None:
        self._shown = shown
        self._task: Any = None
        self._what = ""
        self._root = ROOT_PHASE
        self._open: list[str] = []

    def begins(self, what: str) -> None:
        """A new row, without a length until the compiler tells one."""
        self._root, self._open = ROOT_PHASE, []
        self._next(what)

    def phase(self, name: str, parent: str, steps: int) -> None:
        """The first phase without a parent gives the length, the newest one below it the words."""
        if steps == 0:
            self._open = [one for one in self._open if one != name]
        elif not parent and self._root == ROOT_PHASE:
            self._root = name
            self._shown.update(self._task, total=steps)
        else:
            self._open.append(name)
        self._shown.update(self._task, description=self._described())

    def step(self, name: str, step: int) -> None:
        """Steps of the outermost phase move the bar."""
        if name == self._root:
            self._shown.update(self._task, completed=step + 1)

    def alive(self, what: str, seconds: float) -> None:
        """The row shows the time by itself."""

    def ends(self, what: str) -> None:
        """The row is full."""
        self._shown.update(self._task, description=what, total=1, completed=1)

    def doing(self, what: str) -> None:
        """A row without a length."""
        self._next(what)

    def _next(self, what: str) -> None:
        """A new row; the one before is full, since nobody says when something that is no compilation ends."""
        if self._task is not None:
            self.ends(self._what)
        self._what = what
        self._task = self._shown.add_task(what, total=None)

    def _described(self) -> str:
        return f"{self._what}: {self._open[-1][:40].lower()}" if self._open else self._what


@contextlib.contextmanager
def build_progress() -> Iterator[Watcher]:
    """Who sees how builds go on, on stderr: a bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield Heartbeat()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TimeElapsedColumn(), BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
    # Without redirect_stdout=False, rich would send to stderr what is printed on stdout meanwhile.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as shown:
        yield Bar(shown)
