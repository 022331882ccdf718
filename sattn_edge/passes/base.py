"""What a pass is, and how passes are run.

A pass is called with a model that is its to change and returns a `PassReport`: how many places it changed, what
they were, and which places it almost changed and why not. The manager checks the graph after every pass, so a
bad rewrite is named by the pass that made it; `stop_after` bisects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import onnx
from onnx import ModelProto


@dataclass(frozen=True)
class NearMiss:
    """A place a pass looked at and left alone, with the reason a person needs."""

    node: str
    reason: str


@dataclass(frozen=True)
class PassReport:
    """What a pass did. `changed` counts places, `details` says what they were."""

    name: str
    changed: int
    details: tuple[str, ...] = ()
    near_misses: tuple[NearMiss, ...] = field(default=())


class Pass(Protocol):
    """A rewrite. Stateless apart from its own options."""

    @property
    def name(self) -> str:
        """The name it has in reports."""

    def __call__(self, model: ModelProto) -> PassReport:
        """Changes `model` in place and says what changed."""


class BrokenPassError(RuntimeError):
    """A pass left an invalid graph behind: a bug of ours, so outside the tree of errors."""


def run_passes(
    model: ModelProto, passes: Sequence[Pass], stop_after: int | None = None
) -> tuple[ModelProto, list[PassReport]]:
    """Runs passes on a copy, checking the graph after each one that changed something.

    Raises:
        BrokenPassError: names the pass whose result onnx's checker refuses.
    """
    work = ModelProto()
    work.CopyFrom(model)
    reports = []
    for one in passes[:stop_after]:
        report = one(work)
        reports.append(report)
        if report.changed:
            try:
                onnx.checker.check_model(work)
            except onnx.checker.ValidationError as error:
                raise BrokenPassError(f"pass '{one.name}' left an invalid graph: {error}") from error
    return work, reports
