"""The plans for a network and a hop: what each computes in a step, what it keeps, and what that costs.

A window's logits are a sum over the columns of the last map, each multiplied by the classifier:

    logits = bias + 1/n * ( head + steady groups + tail )

`head` are the columns that deviate at the start, known once the window's first samples are; `tail` those that deviate
at its end; a steady group is what one step added, shared by all windows that hold it. A history of such vectors, as
many as classes each, is kept in every plan.

- `edges`: the network runs on the newest samples alone, as few as hold a head, a steady group and a tail. All three
  come of one run, since the short window is itself the beginning of a window that is still to complete.
- `stateful`: every map keeps the few columns that the next step reads, and computes only what is new.

Where the hop is no multiple of the network's stride, windows fall into phases that share no columns; each phase is a
stream of its own with hop lcm(hop, stride).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge.incremental.chain import Chain, Stencil
from sattn_edge.incremental.columns import ZERO, Column, Held, computed_in_a_step, hold, reads, soonest
from sattn_edge.incremental.extents import Extent, LayerExtents, behind, extents
from sattn_edge.plan_names import PLANS

Places = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Stage:
    """One layer in a step.

    taps: places in `source` of what each convolved column reads. gate_taps: in `mapped`, of what each gate reads, -1
    for its padding. chosen: in `mapped`, the columns that are gated.
    """

    source: Held
    taps: Places
    mapped: Held
    gate_taps: Places
    chosen: tuple[int, ...]


@dataclass(frozen=True)
class Sums:
    """How the columns of the last map become logits.

    groups: float [rows, columns], the sums that a step makes. history: earlier steps whose sums are kept.
    weights: float [(history + 1) * rows], what each counts in the newest window, the oldest step first.
    """

    groups: NDArray[np.float64]
    history: int
    weights: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan. samples: what a step reads; advance: samples from one step of a phase to the next; columns: of a whole
    window's last map.

    multiply_adds: of one step, which is one window. column_values: numbers of columns kept from step to step, of one
    phase.
    """

    name: str
    chain: Chain
    samples: int
    advance: int
    phases: int
    columns: int
    stages: tuple[Stage, ...]
    sums: Sums
    multiply_adds: int
    column_values: int

    @property
    def history_values(self) -> int:
        """Numbers of the sums that are kept, of one phase."""
        return self.sums.history * len(self.sums.groups) * len(self.chain.head)

    @property
    def state_values(self) -> int:
        """Numbers kept from step to step, of one phase."""
        return self.column_values + self.history_values

    @property
    def state_bytes(self) -> int:
        """What a stream keeps from step to step, in the graph's own float type."""
        return self.state_values * self.phases * self.chain.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Plans:
    """What there is for a hop. full_multiply_adds: of the whole window; reasons: why a plan is missing, by its name."""

    hop: int
    phases: int
    stride: int
    full_multiply_adds: int
    plans: dict[str, Plan]
    reasons: dict[str, str]


def plans_for(chain: Chain, hop: int) -> Plans:
    """The plans for windows every `hop` samples."""
    window, layers = extents(chain)
    last = layers[-1].out
    advance = math.lcm(hop, last.step)
    phases = advance // hop
    full = _multiply_adds(chain, [e.conv.length for e in layers])
    reason = _why_none(chain, window, layers, hop, advance)
    if reason:
        return Plans(hop, phases, last.step, full, {}, dict.fromkeys(PLANS, reason))
    plans = {"stateful": _stateful(chain, window, layers, advance, phases)}
    reasons = {}
    steps = advance // last.step
    short = (last.frontier - last.left) // steps - 1  # how many steps shorter than the window
    if short >= 1:
        plans["edges"] = _edges(chain, chain.series - short * advance, advance, phases, short)
    else:
        needed = chain.series - ((last.frontier - last.left) / steps - 1) * advance
        left = f"a window less one step of {advance} has {chain.series - advance}"
        reasons["edges"] = f"its short window needs {math.ceil(needed)} samples, and {left}"
    return Plans(hop, phases, last.step, full, dict(sorted(plans.items())), reasons)


def _why_none(chain: Chain, window: Extent, layers: tuple[LayerExtents, ...], hop: int, advance: int) -> str:
    if hop >= chain.series:
        return f"windows of {chain.series} samples every {hop} do not overlap"
    if advance >= chain.series:
        return (
            f"with a hop of {hop} and a stride of {layers[-1].out.step} only windows {advance} samples apart share "
            f"columns, and a window has {chain.series}"
        )
    for layer, found in zip(chain.layers, layers, strict=True):
        for extent in (found.conv, found.out):
            if extent.frontier <= extent.left:
                return f"every column of '{layer.name}' deviates at an end of the window: {window.length} is too short"
    return ""


def _stateful(chain: Chain, window: Extent, layers: tuple[LayerExtents, ...], advance: int, phases: int) -> Plan:
    stages: list[Stage] = []
    value = _Map(window, advance, computed_in_a_step(window, advance, ()))
    for layer, found in zip(chain.layers, layers, strict=True):
        mapped, taps, source = value.through(layer.stencil, found.conv)
        if layer.gate is None:
            stages.append(Stage(source, taps, Held((), tuple(mapped.computed), ()), (), ()))
            value = mapped
            continue
        value, gate_taps, held = mapped.through(layer.gate, found.out, own=True)
        stages.append(Stage(source, taps, held, gate_taps, held.places(mapped.behind(value.computed))))
    return _plan("stateful", chain, advance, advance, phases, stages, _sums_of_stateful(value))


@dataclass(frozen=True)
class _Map:
    """A map in a step of plan `stateful`: its extent, columns a step, and the columns computed."""

    extent: Extent
    advance: int
    computed: list[Column]

    def through(self, stencil: Stencil, made: Extent, *, own: bool = False) -> tuple[_Map, Places, Held]:
        """The map that a stencil makes of it, with the places of its taps, and what is held of this one.

        own: a column also needs the one it stands behind, and the padding is left out.
        """
        advance = self.extent.step * self.advance // made.step
        starts = [column.ahead for column in self.computed if column.kind == "left"]
        aheads = [soonest(stencil.taps(i), self.extent, self.advance, starts) for i in range(made.left)]
        out = _Map(made, advance, computed_in_a_step(made, advance, aheads))
        rows = [reads(c, stencil.taps(c.index), self.extent, self.advance) for c in out.computed]
        needed = {column for row in rows for column in row if not (own and column == ZERO)}
        if own:
            needed.update(self.behind(out.computed))
        held = hold(self.computed, needed, self.advance)
        places = {ZERO: -1, **dict(zip(needed, held.places(needed), strict=True))}
        return out, tuple(tuple(places[column] for column in row) for row in rows), held

    def behind(self, computed: list[Column]) -> list[Column]:
        """The columns of this map that a gate multiplies."""
        return [reads(column, [column.index], self.extent, self.advance)[0] for column in computed]


def _sums_of_stateful(last: _Map) -> Sums:
    extent, columns = last.extent, last.computed
    whole, rest = divmod(extent.frontier - extent.left, last.advance)
    groups = [([c.kind == "steady" for c in columns], range(whole))]
    if rest:
        newest = [c.kind == "steady" and c.index >= extent.frontier - rest for c in columns]
        groups.append((newest, range(whole, whole + 1)))
    return _sums([*groups, *_ends(columns)])


Group = tuple[list[bool], range]  # the columns of a sum, and how many steps ago it counts


def _ends(columns: list[Column]) -> list[Group]:
    """The tail, and the head, in parts where they are known at different times."""
    found: list[Group] = []
    if any(c.kind == "right" for c in columns):
        found.append(([c.kind == "right" for c in columns], range(1)))
    for ahead in sorted({c.ahead for c in columns if c.kind == "left"}):
        found.append(([c.kind == "left" and c.ahead == ahead for c in columns], range(ahead, ahead + 1)))
    return found


def _sums(groups: list[Group]) -> Sums:
    groups = [(columns, delays) for columns, delays in groups if delays]
    history = max(delays[-1] for _, delays in groups)
    weights = np.zeros((history + 1, len(groups)))
    for place, (_, delays) in enumerate(groups):
        weights[[history - delay for delay in delays], place] = 1.0
    return Sums(np.array([columns for columns, _ in groups], np.float64), history, weights.reshape(-1))


def _edges(chain: Chain, samples: int, advance: int, phases: int, short: int) -> Plan:
    """The plan on a short window, `short` steps shorter than the whole one."""
    stages: list[Stage] = []
    before = Extent(samples, 0, 0, 1)
    for layer in chain.layers:
        conv = behind(before, layer.stencil)
        held = Held((ZERO,), tuple(Column("steady", i) for i in range(before.length)), ())
        mapped = Held((), tuple(Column("steady", i) for i in range(conv.length)), ())
        taps = _inside(layer.stencil, conv.length, before.length, padding=0, first=1)
        if layer.gate is None:
            stages.append(Stage(held, taps, mapped, (), ()))
            before = conv
            continue
        out = behind(conv, layer.gate)
        gate_taps = _inside(layer.gate, out.length, conv.length, padding=-1, first=0)
        stages.append(Stage(held, taps, mapped, gate_taps, tuple(range(out.length))))
        before = out
    sums = _sums_of_edges(before, advance // before.step, short)
    return _plan("edges", chain, samples, advance, phases, stages, sums)


def _inside(stencil: Stencil, columns: int, before: int, padding: int, first: int) -> Places:
    return tuple(
        tuple(tap + first if 0 <= tap < before else padding for tap in stencil.taps(i)) for i in range(columns)
    )


def _sums_of_edges(last: Extent, steps: int, short: int) -> Sums:
    """The rest stands in front of the newest group: the short window holds it, and nothing before it was summed."""
    frontier = last.frontier
    rest = frontier - last.left - steps  # `short + 1` groups and the rest are the whole window's steady columns
    columns = [
        Column("left", i, short) if i < last.left else Column("right" if i >= frontier else "steady", i)
        for i in range(last.length)
    ]
    groups = [([frontier - steps <= c.index < frontier for c in columns], range(short + 1))]
    if rest:
        groups.append(([last.left <= c.index < last.left + rest for c in columns], range(short, short + 1)))
    return _sums([*groups, *_ends(columns)])


def _plan(name: str, chain: Chain, samples: int, advance: int, phases: int, stages: list[Stage], sums: Sums) -> Plan:
    kept = sum(
        len(held.state) * width * chain.modal
        for stage, layer, before in zip(stages, chain.layers, _widths_before(chain), strict=True)
        for held, width in ((stage.source, before), (stage.mapped, layer.mapped))
        if held.kept
    )
    work = _multiply_adds(chain, [len(stage.taps) for stage in stages]) + len(sums.groups) * chain.head.size
    columns = extents(chain)[1][-1].out.length
    return Plan(name, chain, samples, advance, phases, columns, tuple(stages), sums, work, kept)


def _widths_before(chain: Chain) -> list[int]:
    return [1, *(layer.handed_on for layer in chain.layers[:-1])]


def _multiply_adds(chain: Chain, columns: list[int]) -> int:
    """Of the convolutions, for so many columns of each."""
    rows = zip(columns, chain.layers, strict=True)
    return sum(count * chain.modal * int(layer.linear.weight.size) for count, layer in rows)
