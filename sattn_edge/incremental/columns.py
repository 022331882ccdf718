"""The columns of a map that one step computes, reads and keeps.

Every column is named from where the newest window stands: a hop later the same column has another name, which is how
what is kept is found again. A step has its columns in one tensor, what it kept first and what it computed behind it:

    state [zero | kept ...] + computed [steady | right | left]   ->   gathered by place, kept by place
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sattn_edge.incremental.extents import Extent

Kind = Literal["zero", "steady", "right", "left"]


@dataclass(frozen=True, order=True)
class Column:
    """A column of a map.

    zero: the padding. steady: `index` columns behind the newest window's first, shared by all windows.
    right: that of the newest window at its end. left: that of a window which completes `ahead` steps from now.
    """

    kind: Kind
    index: int = 0
    ahead: int = 0

    def a_step_before(self, advance: int) -> Column:
        """Its name when the newest window began `advance` columns earlier."""
        if self.kind == "steady":
            return Column("steady", self.index + advance)
        if self.kind == "left":
            return Column("left", self.index, self.ahead + 1)
        raise ValueError(f"a column of kind '{self.kind}' is of one step only")


ZERO = Column("zero")


@dataclass(frozen=True)
class Held:
    """The columns of one map in a step: `state` from the step before, then `computed`.

    kept: where in this order each column of the next step's state stands.
    """

    state: tuple[Column, ...]
    computed: tuple[Column, ...]
    kept: tuple[int, ...]

    def places(self, columns: Iterable[Column]) -> tuple[int, ...]:
        """Where columns stand."""
        where = {column: i for i, column in enumerate((*self.state, *self.computed))}
        return tuple(where[column] for column in columns)


def hold(computed: Sequence[Column], needed: Iterable[Column], advance: int) -> Held:
    """What has to be kept for a step that computes some columns and needs others; `advance` columns a step."""
    made, state = set(computed), set[Column]()
    wanted = [column for column in needed if column not in made]
    while wanted:
        column = wanted.pop()
        if column in state:
            continue
        state.add(column)
        if column != ZERO and (before := column.a_step_before(advance)) not in made:
            wanted.append(before)
    ordered = sorted(state, key=lambda column: (column != ZERO, column))
    held = Held(tuple(ordered), tuple(computed), ())
    kept = held.places(column if column == ZERO else column.a_step_before(advance) for column in ordered)
    return Held(held.state, held.computed, kept)


def computed_in_a_step(extent: Extent, advance: int, aheads: Sequence[int]) -> list[Column]:
    """The columns of a map that are new: `advance` steady ones, those at the newest end, those of starts."""
    frontier = extent.frontier
    return [
        *(Column("steady", i) for i in range(frontier - advance, frontier)),
        *(Column("right", i) for i in range(frontier, extent.length)),
        *(Column("left", i, ahead) for i, ahead in enumerate(aheads)),
    ]


def reads(column: Column, taps: Sequence[int], before: Extent, advance: int) -> list[Column]:
    """What a column is made of, given the taps that its index has; `advance` columns a step of the map before."""
    if column.kind == "steady":
        return [Column("steady", tap) for tap in taps]
    if column.kind == "right":
        return [_at_the_end(tap, before) for tap in taps]
    return [_at_the_start(tap, before, column.ahead, advance) for tap in taps]


def _at_the_end(tap: int, before: Extent) -> Column:
    if tap >= before.length:
        return ZERO
    return Column("right" if tap >= before.frontier else "steady", tap)


def _at_the_start(tap: int, before: Extent, ahead: int, advance: int) -> Column:
    if tap < 0:
        return ZERO
    return Column("left", tap, ahead) if tap < before.left else Column("steady", tap + ahead * advance)


def soonest(taps: Sequence[int], before: Extent, advance: int, aheads: Sequence[int]) -> int:
    """How many steps before its window completes a column at the start can be computed, at the earliest.

    taps: what it reads of the map before, whose own columns at the start are computed `aheads` steps before.
    """
    known = [aheads[tap] if tap < before.left else (before.frontier - 1 - tap) // advance for tap in taps if tap >= 0]
    # Padding alone is known at any time, but no step is taken before there are samples: with the first steady column.
    return min(known, default=(before.frontier - 1 - before.left) // advance)
