"""What a stream must make of a case, found sample by sample from the true numbers. Shares no code with the runtime.

A sensor's samples carry their true number as their first value, so the oracle needs no numbers, stamps or clock: it
keeps a list of what has come and a set of what waits, and reads off a window which samples it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.fuzz.faults import Case


@dataclass
class Rules:
    """How the stream was told to behave."""

    window: int
    hop: int
    reorder: int
    policy: str
    fill_most: int


@dataclass
class Seen:
    """What a run showed. Windows are [window, modal]; a gap is (missing, filled) and told in order."""

    windows: list[np.ndarray] = field(default_factory=list)
    decisions: list[Any] = field(default_factory=list)
    gaps: list[Any] = field(default_factory=list)
    samples: list[dict[str, int]] = field(default_factory=list)  # after every packet
    events: dict[str, int] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)


@dataclass
class Truth:
    """What had to come of it."""

    stretches: list[list[tuple[float, bool]]] = field(default_factory=lambda: [[]])  # (first value, made up)
    gaps: list[tuple[int | None, int]] = field(default_factory=list)  # (missing or unknown, made up)
    duplicate: int = 0
    late: int = 0


class _Play:
    """A case, sample by sample."""

    def __init__(self, case: Case, rules: Rules) -> None:
        self.case, self.rules, self.truth = case, rules, Truth()
        self.taken: set[int] = set()
        self.waiting: set[int] = set()
        self.due: int | None = None
        self.lost = False  # a full queue dropped something, and its gap has not come yet

    def run(self) -> Truth:
        for index, packet in enumerate(self.case.packets):
            if index not in self.case.refused:
                self.lost = self.lost or packet.lost > 0
                for row in packet.samples.tolist():
                    self.arrive(int(row[0]))
        self.let_go(0)
        return self.truth

    def arrive(self, number: int) -> None:
        if number in self.taken or number in self.waiting:
            self.truth.duplicate += 1
            return
        if self.due is not None and number < self.due:
            self.truth.late += 1
            return
        if number in self.case.breaks:
            self.let_go(0)
            self.truth.gaps.append((None, 0))
            self.truth.stretches.append([])
            self.due = number
        self.due = number if self.due is None else self.due
        self.waiting.add(number)
        self.let_go(self.rules.reorder)

    def let_go(self, keep: int) -> None:
        while self.waiting and (self.due in self.waiting or len(self.waiting) > keep):
            number = min(self.waiting)
            self.waiting.remove(number)
            if self.due is not None and number > self.due:
                self.gap(self.due, number - self.due)
            self.truth.stretches[-1].append((float(number), False))
            self.taken.add(number)
            self.due = number + 1

    def gap(self, due: int, missing: int) -> None:
        rules = self.rules
        fills = rules.policy != "split" and missing <= rules.fill_most and not self.lost
        self.truth.gaps.append((missing, missing if fills else 0))
        if fills:
            values = [due - 1 if rules.policy == "hold" else due + k for k in range(missing)]
            self.truth.stretches[-1] += [(float(value), True) for value in values]
        else:
            self.truth.stretches.append([])
        self.lost = False


def judge(case: Case, seen: Seen, rules: Rules) -> list[str]:
    """Everything that is wrong, in words; empty if nothing is."""
    truth = _Play(case, rules).run()
    wrong = _counts(case, seen, truth)
    wrong += _gaps(seen, truth)
    expected = [
        stretch[at : at + rules.window]
        for stretch in truth.stretches
        for at in range(0, len(stretch) - rules.window + 1, rules.hop)
    ]
    if len(expected) != len(seen.windows):
        wrong.append(f"{len(seen.windows)} windows, {len(expected)} expected")
    for wanted, held, decision in zip(expected, seen.windows, seen.decisions, strict=False):
        values = np.array([value for value, _ in wanted])
        if not np.allclose(held[:, 0], values, atol=1e-3):
            wrong.append(f"window of {values[0]:g} to {values[-1]:g} holds {held[0, 0]:g} to {held[-1, 0]:g}")
            break
        made_up = sum(made for _, made in wanted)
        if decision.filled != made_up:
            wrong.append(f"window of {values[0]:g}: {decision.filled} made up, {made_up} expected")
        bad = bool(case.bad & {int(value) for value in values})
        if bad != (decision.reason == "non-finite input"):
            wrong.append(f"window of {values[0]:g} has bad samples: {bad}; its reason is {decision.reason}")
    for kind in case.expect:
        if not seen.events.get(kind):
            wrong.append(f"no {kind} was told, only {sorted(seen.events)}")
    return wrong


def _counts(case: Case, seen: Seen, truth: Truth) -> list[str]:
    wrong = []
    if seen.refused != case.refused:
        wrong.append(f"refused packets {sorted(seen.refused)}, not {sorted(case.refused)}")
    for samples in seen.samples:
        rest = sum(v for k, v in samples.items() if k not in ("in", "filled"))
        if samples["in"] + samples["filled"] != rest or min(samples.values()) < 0:
            wrong.append(f"samples do not add up: {samples}")
            break
    came = sum(p.lost + len(p.samples) for i, p in enumerate(case.packets) if i not in case.refused)
    last = seen.samples[-1]
    for kind, wanted in (("in", came), ("duplicate", truth.duplicate), ("late", truth.late), ("held", 0)):
        if last[kind] != wanted:
            wrong.append(f"{kind}: {last[kind]} samples, {wanted} expected")
    return wrong


def _gaps(seen: Seen, truth: Truth) -> list[str]:
    told = [(gap.missing, gap.filled) for gap in seen.gaps]
    same = len(told) == len(truth.gaps) and all(
        wanted[0] is None or wanted == found for found, wanted in zip(told, truth.gaps, strict=True)
    )
    return [] if same else [f"gaps (missing, made up) {told}, expected {truth.gaps}"]
