"""Numbered samples put in order: what is missing, doubled, late, out of order, or of a source that began anew.

1. The number that is due is taken.
2. A number beyond it leaves a hole. With `reorder` = 0 that is a gap at once; else later samples are held back until
   the hole is filled or more than `reorder` of them wait, and then it is a gap. With `patience_s` it is one when the
   first of them has waited for so long.
3. A number in a gap that was declared is late: dropped.
4. A number that has come, with the same values, is a duplicate: dropped.
5. A number that has come with other values, or one too old to remember, is of a source that restarted: a break.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from sattn_runtime.events import Event
from sattn_runtime.pieces import Break, Numbered, Piece, Step
from sattn_runtime.sources.base import Chunk

_REMEMBERED = 8192  # samples at least, whose values are compared with what seems to come again
_CHUNKS_REMEMBERED = 4  # or so many of the longest chunks: packets come again whole
_GAPS_REMEMBERED = 256
_MOST_HELD = 16_384  # samples, however patient
_NEVER = np.iinfo(np.int64).min


def rising(numbers: NDArray[np.int64]) -> bool:
    """Whether each number [n] is above the one before."""
    return len(numbers) < 2 or bool((numbers[1:] > numbers[:-1]).all())


class History:
    """The values of the last samples by their number."""

    def __init__(self, size: int, modal: int) -> None:
        self._allocate(size, modal)

    def _allocate(self, size: int, modal: int) -> None:
        self._rows = np.zeros((size, modal), np.float32)
        self._numbers = np.full(size, _NEVER, np.int64)
        self.size = size

    def grow(self, size: int) -> None:
        """Remembers so many samples from now on, with those that it does."""
        rows, numbers = self._rows, self._numbers
        self._allocate(size, rows.shape[1])
        kept = np.flatnonzero(numbers != _NEVER)
        self._rows[numbers[kept] % size] = rows[kept]
        self._numbers[numbers[kept] % size] = numbers[kept]

    def put(self, first: int, rows: NDArray[np.float32]) -> None:
        """Remembers rows [n, modal] whose numbers are first, first + 1, ..."""
        if len(rows) > self.size:
            first += len(rows) - self.size
            rows = rows[-self.size :]
        at, count = first % self.size, len(rows)
        split = min(count, self.size - at)
        self._rows[at : at + split] = rows[:split]
        self._numbers[at : at + split] = np.arange(first, first + split)
        if split < count:
            self._rows[: count - split] = rows[split:]
            self._numbers[: count - split] = np.arange(first + split, first + count)

    def same(self, number: int, row: NDArray[np.float32]) -> bool | None:
        """Whether this number came with these very values; None where it is not remembered."""
        at = number % self.size
        if self._numbers[at] != number:
            return None
        return bool(self._rows[at].tobytes() == row.tobytes())

    def clear(self) -> None:
        """Forgets everything."""
        self._numbers[:] = _NEVER


class Sequencer:
    """One stream's order."""

    def __init__(self, modal: int, reorder: int, period_s: float, patience_s: float = 0.0) -> None:
        self.reorder, self._patience_ns = reorder, round(patience_s * 1e9)
        self.next: int | None = None  # the number that is due
        self.duplicates = self.late = self.reordered = self.restarts = 0
        self.derived = False  # whether numbers come from time stamps
        self.history = History(max(_REMEMBERED, 4 * reorder), modal)
        self._period_s = period_s
        self._held: dict[int, tuple[NDArray[np.float32], int | None]] = {}
        self._newest_held = 0
        self._missing: deque[tuple[int, int]] = deque(maxlen=_GAPS_REMEMBERED)

    @property
    def held(self) -> int:
        """Samples that are held back."""
        return len(self._held)

    @property
    def most_held(self) -> int:
        """So many samples may be held back. Patience is for a source's own numbers: stamps may jump."""
        return max(self.reorder, _MOST_HELD) if self._patience_ns and not self.derived else self.reorder

    def is_missing(self, number: int) -> bool:
        """Whether the number lies in a gap that was declared."""
        return any(first <= number < end for first, end in self._missing)

    def awaits(self, number: int) -> bool:
        """Whether later samples are held back for this number."""
        return bool(self._held) and self.next is not None and self.next <= number and number not in self._held

    def take(self, chunk: Chunk, stamped: Numbered) -> list[Step]:
        """Puts a chunk in order."""
        numbers = stamped.numbers
        self.derived = stamped.derived
        first, count = int(numbers[0]), len(numbers)
        if _CHUNKS_REMEMBERED * count > self.history.size:
            self.history.grow(2 * _CHUNKS_REMEMBERED * count)
        ordered = int(numbers[-1]) - first == count - 1 and (stamped.ordered or rising(numbers))
        if ordered and not stamped.breaks and not self._held and (self.next is None or self.next == first):
            self.history.put(first, chunk.samples)
            self.next = first + count
            number = None if stamped.derived else first
            return [Piece(chunk.samples, chunk.arrival_ns, chunk.period_ns, chunk.finite, 0, number)]
        return _Taking(self, chunk, stamped).steps()

    def flush(self) -> list[Step]:
        """Gives up waiting: what is held comes out, with the gaps before it."""
        steps: list[Step] = []
        while self._held:
            self.declare(min(self._held), None, steps)
            self.release(steps)
        return steps

    def declare(self, number: int, seconds: float | None, steps: list[Step]) -> None:
        """What is missing before `number` won't be waited for."""
        missing = number - (self.next if self.next is not None else number)
        if missing:
            self._missing.append((number - missing, number))
            steps.append(Break((missing + 1) * self._period_s if seconds is None else seconds, missing))
        self.next = number

    def break_at(self, number: int, gap: Break, steps: list[Step]) -> None:
        """A break of unknown length: nothing from before it is waited for or remembered."""
        steps += self.flush()
        steps.append(gap)
        self.forget()
        self.next = number

    def forget(self) -> None:
        """Whatever number comes next is due."""
        self.next = None
        self._missing.clear()
        self.history.clear()

    def hold(self, number: int, row: NDArray[np.float32], arrival_ns: int | None, steps: list[Step]) -> bool:
        """Holds one sample back, and lets go what need not wait. False where it is held already."""
        if number in self._held:
            return False
        if self._held and number < self._newest_held:
            self.reordered += 1
        self._newest_held = max(number, self._newest_held) if self._held else number
        self._held[number] = row.copy(), arrival_ns
        self.release(steps)
        while len(self._held) > self.most_held or self._waited_long(arrival_ns):
            self.declare(min(self._held), None, steps)
            self.release(steps)
        return True

    def _waited_long(self, now_ns: int | None) -> bool:
        """Whether the first of the samples that are held back has been so for longer than patience lasts."""
        if not self._patience_ns or not self._held or now_ns is None:
            return False
        came = next(iter(self._held.values()))[1]
        return came is not None and now_ns - came > self._patience_ns

    def release(self, steps: list[Step]) -> None:
        """Lets go of the samples that are due; those that arrived together stay together."""
        rows: list[NDArray[np.float32]] = []
        came: int | None = None
        while self.next is not None and self.next in self._held:
            row, arrival_ns = self._held.pop(self.next)
            if rows and arrival_ns != came:
                steps.append(self._held_piece(rows, came))
                rows = []
            self.history.put(self.next, row[None])
            rows.append(row)
            came = arrival_ns
            self.next += 1
        if rows:
            steps.append(self._held_piece(rows, came))

    def _held_piece(self, rows: list[NDArray[np.float32]], arrival_ns: int | None) -> Piece:
        """Rows that were held back and end before the number that is due."""
        number = None if self.next is None or self.derived else self.next - len(rows)
        return Piece(np.stack(rows), arrival_ns, 0, False, None, number)


class _Taking:
    """One chunk on its way through a sequencer, run by run of consecutive numbers."""

    def __init__(self, order: Sequencer, chunk: Chunk, stamped: Numbered) -> None:
        self._order, self._chunk, self._stamped = order, chunk, stamped
        self._numbers, self._breaks = stamped.numbers, stamped.breaks
        self._steps: list[Step] = []

    def steps(self) -> list[Step]:
        order = self._order
        before = order.duplicates, order.late, order.reordered
        jumps = (np.flatnonzero(np.diff(self._numbers) != 1) + 1).tolist()
        starts = sorted({0, *jumps, *self._breaks})
        for begin, end in zip(starts, [*starts[1:], len(self._numbers)], strict=True):
            self._run(begin, end)
        after = order.duplicates, order.late, order.reordered
        for kind, old, new in zip(("duplicate", "late", "reordered"), before, after, strict=True):
            if new > old:
                self._steps.append(Event(kind, count=new - old))
        return self._steps

    def _run(self, begin: int, end: int) -> None:
        order, at = self._order, begin
        if begin in self._breaks:
            order.break_at(int(self._numbers[begin]), self._breaks[begin], self._steps)
        while at < end:
            number = int(self._numbers[at])
            due = number if order.next is None else order.next
            if number < due:
                at = self._old(at, min(end, at + due - number))
            elif not order.held and (number == due or not order.most_held):
                order.declare(number, self._seconds(at), self._steps)
                self._emit(at, end)
                return
            else:
                if not order.hold(number, self._chunk.samples[at], self._arrival_ns(at), self._steps):
                    order.duplicates += 1
                at += 1

    def _old(self, begin: int, end: int) -> int:
        """Samples whose number is past. Returns where to go on: at `end`, or where the source restarted."""
        order = self._order
        for at in range(begin, end):
            number = int(self._numbers[at])
            if order.is_missing(number):
                order.late += 1
            elif order.history.same(number, self._chunk.samples[at]):
                order.duplicates += 1
            elif self._stamped.derived:
                order.late += 1
            else:
                order.restarts += 1
                order.break_at(number, Break(None, None, "restart"), self._steps)
                return at
        return end

    def _emit(self, begin: int, end: int) -> None:
        chunk, order = self._chunk, self._order
        rows = chunk.samples[begin:end]
        order.history.put(int(self._numbers[begin]), rows)
        order.next = int(self._numbers[end - 1]) + 1
        number = None if self._stamped.derived else int(self._numbers[begin])
        self._steps.append(Piece(rows, self._arrival_ns(end - 1), chunk.period_ns, chunk.finite, begin, number))

    def _arrival_ns(self, at: int) -> int | None:
        chunk = self._chunk
        if chunk.arrival_ns is None:
            return None
        return chunk.arrival_ns - (len(chunk.samples) - 1 - at) * chunk.period_ns

    def _seconds(self, at: int) -> float | None:
        """The step of the stamps, where there are any; else the numbers must tell."""
        stamps = self._chunk.timestamp_s
        before_s = self._stamped.before_s if stamps is None or at == 0 else float(stamps[at - 1])
        return None if stamps is None or before_s is None else float(stamps[at]) - before_s
