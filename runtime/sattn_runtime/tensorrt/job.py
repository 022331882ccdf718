"""What a compilation is given and what it gives back: plain data that crosses between two processes.

The job goes to the child on stdin. The child answers in lines of JSON on stdout: `Phase` and `Step` while it works,
`Outcome` at its end. The engine itself is written to a file.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["parse", "build", "workspace", "architecture"]


class Profile(msgspec.Struct, frozen=True):
    """Least, usual and largest batch of the one input [batch, 1, series, modal]."""

    least: int
    usual: int
    most: int


class Job(msgspec.Struct, frozen=True, tag=True):
    """One graph to compile.

    graph: an ONNX file; plan: where the engine goes. half, int8: flags for a release that is told by flags; tf32: may
    float32 products be rounded to TF32. profile: None for a graph of fixed batch. arch: `SM86`, None for the GPU here
    (current) or, with no GPU, for none in particular.
    """

    backend: str
    graph: str
    plan: str
    workspace_bytes: int
    half: bool = False
    int8: bool = False
    tf32: bool = False
    profile: Profile | None = None
    arch: str | None = None
    timing_cache: str | None = None
    parent: int = 0


class Phase(msgspec.Struct, frozen=True, tag=True):
    """A phase of the build has begun (steps > 0) or ended (steps 0)."""

    name: str
    parent: str
    steps: int


class Step(msgspec.Struct, frozen=True, tag=True):
    """A step of a phase is done."""

    name: str
    step: int


class Outcome(msgspec.Struct, frozen=True, tag=True):
    """How it ended. error: "" where the engine was written; kind and node are of the error.

    plan: the engine's digest. layers: the compiler's own list of them, "" if it gave none.
    """

    release: str
    plan: str = ""
    plan_bytes: int = 0
    layers: str = ""
    warnings: tuple[str, ...] = ()
    error: str = ""
    kind: Kind | None = None
    node: str = ""


Message = Phase | Step | Outcome
