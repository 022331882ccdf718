"""What the loop records, between it and the journal: which lines are new, and how they are numbered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from sattn_edge.errors import UsageError
from sattn_runtime.decision import Decision
from sattn_runtime.events import News
from sattn_runtime.journal import Journal, JournalOptions
from sattn_runtime.resume import GOES_ON, AfterSequence, Position, Positions, Shift
from sattn_runtime.stream import Stream


class Recorder:
    """A run's journal, opened when it is first needed: a source that can't be used leaves none behind.

    Args:
        path: the journal's; None is none.
        options: how it is kept.
        tell: takes what a person must know.
        resume: go on behind what it holds.
        attention: write the moments that a decision tells of.
        stopped: asked while the journal is read.

    Raises:
        UsageError: there is nothing to resume from, or options that can't be.
    """

    def __init__(
        self,
        path: str | None,
        options: JournalOptions,
        tell: Callable[[str], None],
        *,
        resume: bool = False,
        attention: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        options.check()
        if resume and path in (None, "-"):
            raise UsageError("--resume", f"the journal is {'stdout' if path else 'missing'}", "--journal FILE")
        self.journal: Journal | None = None
        self.already = 0  # windows that the journal had
        self.path, self.resume = path, resume
        self.positions = Positions(path if resume else None, stopped)
        self._options, self._tell, self._attention = options, tell, attention

    def after_sequence(self, prefix: str = "") -> Mapping[str, int]:
        """By stream the source's number of the last sample that no window to come needs; names without the prefix."""
        return AfterSequence(self.positions, prefix)

    def settle(self, stream: str | None) -> None:
        """Reads all that a source needs of the journal: for the one stream that it gives, None where nobody knows."""
        if stream is None:
            self.positions.read_whole()
        else:
            self.positions.need(stream)

    @property
    def writes(self) -> bool:
        """Whether what is recorded gets into the journal now; true without one."""
        return self.journal is None or not self.journal.suspended

    def open(self) -> Journal:
        """The journal."""
        if self.journal is None:
            if self.path is None:
                raise RuntimeError("there is no journal to open")
            self.journal = Journal(self.path, self._options, self._tell, attention=self._attention)
        return self.journal

    def flush(self) -> None:
        """Writes what is held."""
        if self.journal is not None:
            self.journal.flush()

    def abandon(self) -> None:
        """Writes nothing more: the run was interrupted anywhere."""
        if self.journal is not None:
            self.journal.abandon()

    def close(self) -> None:
        """Writes, syncs and closes."""
        if self.journal is not None:
            self.journal.close()

    def check(self) -> None:
        """Raises JournalError where lines are not written."""
        if self.journal is not None:
            self.journal.check()


class Record:
    """The lines of one source's stream at hand, each written exactly once; without a journal none is."""

    def __init__(self, recorder: Recorder) -> None:
        self.expected: tuple[int, int, int] | None = None  # what `Stream.expect` takes, where a stream goes on
        self._recorder = recorder
        self._name, self._again = "", False
        self._head: dict[str, Any] | None = None  # of a stream whose start is not written yet
        self._at = Position()
        self._shift: Shift | None = None  # what to add to windows and samples of a live stream

    def begin(self, name: str, head: dict[str, Any], *, again: bool) -> None:
        """A stream begins. `again`: its source can be read again, and was from the beginning."""
        self.expected = None
        if self._recorder.path is None:
            return
        self._name, self._again, self._head = name, again, head
        self._at, self._shift = Position(), None
        known = self._recorder.positions.get(name, again=again)
        if known is None or (known.window < 0 and not again):
            self._start()
        elif again:
            known.check(name, head)
            self._at = dataclasses.replace(known, window=known.run_window)
            self._head = {**head, GOES_ON: known.run_window}
            self._recorder.open()
            return  # its start stands before its first new line
        else:
            self._go_on(known, head)
        self._recorder.flush()

    def _go_on(self, known: Position, head: dict[str, Any]) -> None:
        """A live stream goes on from what the journal knows of it: at the source's own numbers, or behind a hole."""
        self._head = {**head, GOES_ON: known.window}
        self._shift = known.shift(head["rate_hz"])
        journal = self._start()
        if known.next_sequence is not None:
            self.expected = known.next_sequence, known.next_used, known.next_skip
        else:
            journal.break_off(self._name, self._shift.samples)

    def _start(self) -> Journal:
        journal = self._recorder.open()
        if self._head is not None:
            journal.start(self._name, self._head)
            self._head = None
        return journal

    def window(self, decision: Decision, truth: str | None, *, scored: bool) -> bool:
        """Records a decision, renumbered where its stream goes on from another. False: it was there already."""
        recorder = self._recorder
        if recorder.path is None:
            return True
        if decision.window <= self._at.window:
            recorder.already += 1
            return False
        if self._shift is not None:
            self._shift.decision(decision)
        journal = recorder.journal if self._head is None and recorder.journal is not None else self._start()
        journal.window(self._name, decision, truth, scored=scored)
        return True

    def news(self, news: News) -> None:
        """Records a hole in the stream, or something else that happened."""
        if self._recorder.path is None or self._at.has(news):
            return
        self._start().news(self._name, news if self._shift is None else self._shift.news(news))

    def end(self, stream: Stream) -> None:
        """A stream is over. One of the same name that a live source begins after it is numbered on from here."""
        if not self._recorder.resume or self._recorder.path is None or self._again:
            return
        done = Shift() if self._shift is None else self._shift
        windows, samples = done.windows + stream.windows, done.samples + stream.received
        self._recorder.positions.put(self._name, Position(windows - 1, samples - 1))
