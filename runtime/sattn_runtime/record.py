"""What the loop records, between it and the journal: which lines are new, and how they are numbered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from sattn_edge.errors import UsageError
from sattn_runtime.decision import Decision
from sattn_runtime.journal import Journal, JournalOptions
from sattn_runtime.resume import GOES_ON, Position, read_positions
from sattn_runtime.stream import Gap, Stream


class Recorder:
    """Writes a run's lines into its journal, each exactly once; without a journal it writes nothing.

    Args:
        path: the journal's; None is none.
        options: how it is kept.
        tell: takes what a person must know.
        resume: go on behind what it holds.

    Raises:
        UsageError: there is nothing to resume from, or options that can't be.
        JournalError: what is to be resumed can't be read.
    """

    def __init__(
        self, path: str | None, options: JournalOptions, tell: Callable[[str], None], *, resume: bool = False
    ) -> None:
        options.check()
        if resume and path in (None, "-"):
            raise UsageError("--resume", f"the journal is {'stdout' if path else 'missing'}", "--journal FILE")
        self.journal: Journal | None = None
        self.already = 0  # windows that the journal had
        self._path, self._options, self._tell, self._resume = path, options, tell, resume
        self._positions = read_positions(path) if resume and path is not None else {}
        self._name, self._again = "", False
        self._head: dict[str, Any] | None = None  # of a stream whose start is not written yet
        self._at = Position()
        self._shift: tuple[int, int] | None = None  # what to add to windows and samples of a live stream

    def begin(self, name: str, head: dict[str, Any], *, again: bool) -> None:
        """A stream begins. `again`: its source can be read again, and was from the beginning."""
        if self._path is None:
            return
        self._name, self._again, self._head = name, again, head
        self._at, self._shift = Position(), None
        known = self._positions.get(name)
        if known is not None and again:
            known.check(name, head)
            self._at = dataclasses.replace(known, window=known.run_window)
            self._head = {**head, GOES_ON: known.run_window}
            self._open()
            return  # its start stands before its first new line
        self._start()
        if known is not None and known.window >= 0:
            self._shift = known.window + 1, known.last_sample + 1
            self._open().break_off(name, known.last_sample + 1)
        self.flush()

    def _open(self) -> Journal:
        """The journal, opened when it is first needed: a source that can't be used leaves none behind."""
        if self.journal is None:
            if self._path is None:
                raise RuntimeError("there is no journal to open")
            self.journal = Journal(self._path, self._options, self._tell)
        return self.journal

    def _start(self) -> Journal:
        journal = self._open()
        if self._head is not None:
            journal.start(self._name, self._head)
            self._head = None
        return journal

    def window(self, decision: Decision, truth: str | None, *, scored: bool) -> bool:
        """Records a decision, renumbered where its stream goes on from another. False: it was there already."""
        if self._path is None:
            return True
        if decision.window <= self._at.window:
            self.already += 1
            return False
        if self._shift is not None:
            windows, samples = self._shift
            decision.window += windows
            decision.first_sample += samples
            decision.last_sample += samples
        journal = self.journal if self._head is None and self.journal is not None else self._start()
        journal.window(self._name, decision, truth, scored=scored)
        return True

    def gap(self, gap: Gap) -> None:
        """Records a hole in the stream."""
        if self._path is None or gap.sample <= self._at.gap_sample:
            return
        if self._shift is not None:
            gap = dataclasses.replace(gap, sample=gap.sample + self._shift[1])
        self._start().gap(self._name, gap)

    def event(self, kind: str, sample: int, **found: Any) -> None:
        """Records something else that happened at a sample."""
        if self._path is None or sample <= self._at.events.get(kind, -1):
            return
        sample += self._shift[1] if self._shift is not None else 0
        self._start().event(self._name, kind, sample=sample, **found)

    def end(self, stream: Stream) -> None:
        """A stream is over. One of the same name that a live source begins after it is numbered on from here."""
        if not self._resume or self._path is None or self._again:
            return
        windows, samples = self._shift or (0, 0)
        self._positions[self._name] = Position(windows + stream.windows - 1, samples + stream.ring.samples - 1)

    def flush(self) -> None:
        """Writes what is held."""
        if self.journal is not None:
            self.journal.flush()

    def close(self) -> None:
        """Writes, syncs and closes."""
        if self.journal is not None:
            self.journal.close()

    def check(self) -> None:
        """Raises JournalError where lines are not written."""
        if self.journal is not None:
            self.journal.check()
