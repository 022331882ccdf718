"""The journal: what was decided, one JSON object a line, appended.

`type` is `start` (a stream begins), `window` (a decision), `gap` or `event` (see `events`). Lines are held until
`flush`, which a live loop calls after every decision and a replay at full speed after every chunk. They are written
whole, so a kill tears at most the last one; a torn last line is taken off when the journal is opened again.

Events of the journal's own:

    {"type":"event","stream":...,"kind":"rotated","at":TIME, ...}          a new file begins; what its `start` said
    {"type":"event","stream":...,"kind":"lines_missing","missing_lines":N} here N lines are not: the disk was full

A disk that takes nothing more suspends the journal: decisions go on, lines are kept up to 1 MiB and counted beyond.
Once it takes lines again, those kept are written, then how many are missing, then what comes. Nothing is out of order.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from time import monotonic_ns
from typing import Any

import msgspec

from sattn_edge.errors import JournalError
from sattn_runtime.attention import Moments
from sattn_runtime.decision import Decision
from sattn_runtime.events import Gap, News
from sattn_runtime.journal_file import JournalFile, JournalOptions
from sattn_runtime.latency import STAGES

__all__ = ["Journal", "JournalOptions"]

# A line can't hold how long it took to write itself.
_StageTimes = msgspec.defstruct("_StageTimes", [(name, float) for name in STAGES[:-1]], gc=False)
_USUAL = (("cause", "gap"), ("filled", 0))  # of a gap, and left out
_HELD_BYTES = 1 << 20  # of lines while suspended: some thousand of them
_RETRY_NS = 1_000_000_000
_TELL_NS = 60_000_000_000  # a disk that is full on and off is told once a minute


class _WindowLine(msgspec.Struct, tag_field="type", tag="window", gc=False):
    """A line of type `window`, in the order its keys are written."""

    stream: str
    window: int
    first_sample: int
    last_sample: int
    label: str | None
    score: float | None
    logits: list[float] | None
    latency_us: msgspec.Struct
    truth: str | msgspec.UnsetType | None = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    attention: Moments | msgspec.UnsetType = msgspec.UNSET
    filled: int | msgspec.UnsetType = msgspec.UNSET
    sequence: int | msgspec.UnsetType = msgspec.UNSET


class Journal:
    """Appends lines to a file, or to stdout for `-`.

    Counts: `lines` were given; `dropped` of them could not even be kept, which the journal says where the disk came
    back; `suspensions` is how often the disk took nothing, `suspended` whether it takes nothing now.
    """

    def __init__(
        self,
        path: str,
        options: JournalOptions = JournalOptions(),  # noqa: B008 - frozen
        tell: Callable[[str], None] = lambda _: None,
        *,
        attention: bool = True,
    ) -> None:
        """Opens the journal. `attention`: lines of windows tell it where their decision does.

        Raises:
            UsageError: the file can't be written, holds something that is no journal, or is another run's.
        """
        self.path = path
        self.lines = self.suspensions = self.dropped = 0
        self._tell, self._attention = tell, attention
        self._encode_into = msgspec.json.Encoder().encode_into
        self._held: list[dict[str, Any] | tuple[str, Decision, str | msgspec.UnsetType | None]] = []
        self._buffer = bytearray()
        self._torn = False  # the file may end within a line, whose rest is in the buffer
        self._unsaid = 0  # lines that were dropped and not yet said to be
        # The journal's own lines in the buffer, which nobody gave: where each ends, and how many it says are missing.
        self._own: list[tuple[int, int]] = []
        self._error: OSError | None = None
        self._retry_ns = self._rotate_ns = 0
        self._told_ns: int | None = None
        self._told = self._sync_told = False
        self._stream = ""
        self._head: dict[str, Any] = {}
        self._file = JournalFile(path, options)

    @property
    def suspended(self) -> bool:
        """Whether lines are held because the disk takes none."""
        return self._error is not None

    @property
    def rotated(self) -> int:
        """How often a new file was begun."""
        return self._file.rotated

    @property
    def deleted(self) -> int:
        """Rotated files that had to go."""
        return self._file.deleted

    @property
    def unwritten(self) -> int:
        """Lines given and not in the file, nor said there to be missing."""
        return self._unsaid + sum(said for _, said in self._own) + self._kept

    @property
    def missing(self) -> int:
        """Lines given that are not in the file."""
        return self.dropped + self._kept

    @property
    def _kept(self) -> int:
        """Lines given that wait to be written."""
        return self._buffer.count(b"\n") - len(self._own) + len(self._held)

    def start(self, stream: str, head: dict[str, Any]) -> None:
        """A stream begins; `head` says what runs on it."""
        self._stream, self._head = stream, head
        self._hold({"type": "start", "stream": stream, **head})

    def window(self, stream: str, decision: Decision, truth: str | None, *, scored: bool) -> None:
        """A decision. `truth` is the recording's label of the whole window, where the stream is `scored`."""
        self._held.append((stream, decision, truth if scored else msgspec.UNSET))
        self.lines += 1

    def news(self, stream: str, news: News) -> None:
        """A hole in the stream, or something else that happened; only what it has to say."""
        said = {key: value for key, value in msgspec.to_builtins(news).items() if value is not None}
        if isinstance(news, Gap):
            said = {"sample": news.sample, "seconds": news.seconds, **said}
            for usual in _USUAL:
                if said.get(usual[0]) == usual[1]:
                    del said[usual[0]]
            self._hold({"type": "gap", "stream": stream, **said})
        else:
            self._hold({"type": "event", "stream": stream, **said})

    def break_off(self, stream: str, sample: int) -> None:
        """A live stream goes on from another before it: what lay between, nobody knows."""
        gap = {"sample": sample, "seconds": None, "dropped": 0, "cause": "resumed"}
        self._hold({"type": "gap", "stream": stream, **gap})

    def _hold(self, line: dict[str, Any]) -> None:
        self._held.append(line)
        self.lines += 1

    def flush(self) -> None:
        """Writes the lines that are held, by one call where the system takes them all; keeps them where it does not.

        Raises:
            BrokenPipeError: the reader of stdout has left.
        """
        if self._held:
            self._encode_held()
        if not self._buffer:
            return
        if self._error is None:
            self._write()
        elif monotonic_ns() >= self._retry_ns:
            self._try_again()
        if self._file.sync_error is not None:
            self._tell_sync(self._file.sync_error)

    def _encode_held(self) -> None:
        buffer = self._buffer
        if self._error is not None and (self._unsaid or len(buffer) >= _HELD_BYTES):
            # Once a line is missing so are all behind it, until that can be said: lines stay in order.
            self._unsaid += len(self._held)
            self.dropped += len(self._held)
        else:
            for held in self._held:
                self._encode_into(held if isinstance(held, dict) else self._line(*held), buffer, len(buffer))
                buffer += b"\n"
        self._held.clear()

    def _line(self, stream: str, decision: Decision, truth: str | msgspec.UnsetType | None) -> _WindowLine:
        return _WindowLine(
            stream,
            decision.window,
            decision.first_sample,
            decision.last_sample,
            decision.label,
            decision.score,
            decision.logits,
            _StageTimes(*[ns / 1000 for ns in decision.latency_ns]),
            truth,
            decision.reason or msgspec.UNSET,
            (decision.attention or msgspec.UNSET) if self._attention else msgspec.UNSET,
            decision.filled or msgspec.UNSET,
            msgspec.UNSET if decision.sequence is None else decision.sequence,
        )

    def _write(self) -> None:
        """Writes the buffer, into a new file where the old one is full or old."""
        if not self._torn and self._file.is_due(len(self._buffer)):
            self._rotate()
        self._put()

    def _put(self) -> bool:
        """Gives the buffer to the file; False where that suspends the journal."""
        before = len(self._buffer)
        try:
            self._file.write(self._buffer)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._torn = self._torn or len(self._buffer) < before
            self._suspend(error)
            return False
        finally:
            taken = before - len(self._buffer)
            if self._own and taken:
                self._own = [(end - taken, said) for end, said in self._own if end > taken]
        self._error, self._torn = None, False
        return True

    def _rotate(self) -> None:
        now = monotonic_ns()
        if now < self._rotate_ns:
            return
        try:
            self._file.rotate()
        except OSError as error:
            self._rotate_ns = now + _TELL_NS  # the old file goes on growing meanwhile: nothing is lost
            self._tell(f"note: journal '{self.path}': can't be rotated ({error.strerror}); it goes on in the same file")
            return
        head = {**self._head, "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds")}
        line = {"type": "event", "stream": self._stream, "kind": "rotated", **head}
        text = msgspec.json.encode(line) + b"\n"
        self._buffer[:0] = text
        self._own = [(len(text), 0), *((end + len(text), said) for end, said in self._own)]

    def _suspend(self, error: OSError) -> None:
        now = monotonic_ns()
        if self._error is None:
            self.suspensions += 1
            self._told = self._told_ns is None or now - self._told_ns >= _TELL_NS
            if self._told:
                self._told_ns = now
                self._tell(
                    f"note: journal '{self.path}': can't be written ({error.strerror}); decisions go on, "
                    f"lines are kept up to {_HELD_BYTES >> 20} MiB and tried again every second"
                )
        self._error, self._retry_ns = error, now + _RETRY_NS

    def _try_again(self) -> None:
        """Writes what is kept, says what is missing behind it, and goes on."""
        if not self._put():
            return
        missing, self._unsaid = self._unsaid, 0
        if self._told:
            self._tell(f"note: journal '{self.path}': is written again; {missing:,} lines are missing in it")
        if missing:
            line = {"type": "event", "stream": self._stream, "kind": "lines_missing", "missing_lines": missing}
            self._buffer += msgspec.json.encode(line) + b"\n"
            self._own.append((len(self._buffer), missing))
            self._write()

    def _tell_sync(self, error: OSError) -> None:
        if not self._sync_told:
            self._sync_told = True
            self._tell(
                f"note: journal '{self.path}': can't be synced ({error.strerror}); a power cut may take more "
                "than the last seconds"
            )

    def abandon(self) -> None:
        """Forgets what is held: whoever interrupts may do so within a line, and lines may have gone out already."""
        self._held.clear()
        self._buffer.clear()
        self._own.clear()

    def close(self) -> None:
        """Writes what is held, then syncs and closes a file; stdout stays open."""
        self._retry_ns = 0
        try:
            self.flush()
        finally:
            if not self._file.close():
                self._tell(f"note: journal '{self.path}': the disk is slow, its last lines may not be synced")

    def check(self) -> None:
        """Raises JournalError where lines were given that are not in the file, and could not be said to be missing."""
        if self.unwritten:
            reason = f" ({self._error.strerror})" if self._error is not None else ""
            raise JournalError(
                f"journal '{self.path}'",
                f"{self.unwritten:,} of {self.lines:,} lines are not written{reason}",
                todo="make room; what was written stays, and --resume goes on behind it",
            )
