"""Which of the source's samples a row of the ring is: they part where samples are dropped, made up or resampled."""

from __future__ import annotations

from collections import deque


class Numbering:
    """Maps rows of the ring to numbers of samples as the source gave them, from 0.

    From row `begin` on the number is `base + (row - begin) * step`; step is 0 in samples that were made up.
    """

    def __init__(self, step: float = 1.0) -> None:
        self.step = step
        self.plain = step == 1.0
        self._parts: deque[tuple[int, int, float]] = deque([(0, 0, step)])

    def mark(self, row: int, number: int, step: float | None = None) -> None:
        """Row `row`, the next to come, is sample `number`."""
        step = self.step if step is None else step
        begin, base, old = self._parts[-1]
        # Resampled rows lie between samples: a number may be one off from piece to piece.
        if step == old and abs(base + int((row - begin) * step + 1e-9) - number) <= (step != 1.0):
            return
        self.plain = False
        if begin == row:
            self._parts.pop()
        self._parts.append((row, number, step))

    def number(self, row: int) -> int:
        """The sample that a row is."""
        for begin, base, step in reversed(self._parts):
            if begin <= row:
                return base + int((row - begin) * step + 1e-9)
        return row

    def forget(self, row: int) -> None:
        """Nobody will ask for rows before this one."""
        while len(self._parts) > 1 and self._parts[1][0] <= row:
            self._parts.popleft()


class Places:
    """Where the rows of a ring come from: the samples as they were received, and as the source numbers them."""

    def __init__(self, step: float = 1.0) -> None:
        self._received = Numbering(step)
        self._sequences: Numbering | None = None
        self._made_up: deque[tuple[int, int]] = deque()  # rows [begin, end)

    @property
    def plain(self) -> bool:
        """Whether a row's number is that of the sample, and none was made up."""
        return self._received.plain

    def mark(self, row: int, number: int, sequence: int | None = None, step: float | None = None) -> None:
        """Row `row`, the next to come, is received sample `number`, and the source's own `sequence`."""
        self._received.mark(row, number, step)
        if sequence is not None:
            if self._sequences is None:
                self._sequences = Numbering()
            self._sequences.mark(row, sequence)

    def make_up(self, begin: int, end: int, oldest: int) -> None:
        """Rows from `begin` up to `end` are made up; nobody will ask for those before `oldest`."""
        while self._made_up and self._made_up[0][1] <= oldest:
            self._made_up.popleft()
        self._made_up.append((begin, end))

    def number(self, row: int) -> int:
        """The received sample that a row is."""
        return self._received.number(row)

    def sequence(self, row: int) -> int | None:
        """The source's own number of a row; nobody will ask for rows before it."""
        if self._sequences is None:
            return None
        self._sequences.forget(row)
        return self._sequences.number(row)

    def window(self, first: int, last: int) -> tuple[int, int, int]:
        """A window's first and last row as received samples, and how many of its rows were made up."""
        filled = sum(max(0, min(end, last + 1) - max(begin, first)) for begin, end in self._made_up)
        self._received.forget(first)
        return self._received.number(first), self._received.number(last), filled
