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
