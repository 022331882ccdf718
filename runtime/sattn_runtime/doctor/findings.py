"""A finding, and how serious it is for what the user wants to run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal, get_args

from sattn_edge.errors import UsageError, did_you_mean
from sattn_runtime.doctor.board import Board
from sattn_runtime.doctor.probe import Probe
from sattn_runtime.doctor.tree import Tree

Level = Literal["ok", "advice", "problem"]
Backend = Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
ON_GPU: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx")
ADAPTERS = ("cuda-bindings", "cuda-python", "pycuda")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. stops: the backends that can't run because of it; mend: the command for it."""

    topic: str
    level: Level
    found: str
    why: str = ""
    mend: str = ""
    stops: tuple[Backend, ...] = ()


@dataclass(frozen=True)
class Case:
    """What is examined. asked: the backend the user named, None if none."""

    tree: Tree
    board: Board
    probe: Probe
    asked: Backend | None = None

    @property
    def has_adapter(self) -> bool:
        """Whether a CUDA adapter is installed."""
        return any(name in self.probe.distributions for name in ADAPTERS)

    @property
    def unsupported(self) -> bool:
        """Whether it is a Jetson whose release no engine can be built on."""
        known = self.board.jetpack
        return known is not None and not known.supported

    def ok(self, topic: str, found: str) -> Finding:
        """Nothing to do."""
        return Finding(topic, "ok", found)

    def advice(self, topic: str, found: str, why: str, mend: str) -> Finding:
        """Everything runs, and could run better."""
        return Finding(topic, "advice", found, why, mend)

    def stopper(self, topic: str, found: str, why: str, mend: str, stops: tuple[Backend, ...]) -> Finding:
        """Something can't run. Told with its cure where someone could want that to run, plainly where nobody does."""
        level = self._level(stops)
        if level == "ok":
            return Finding(topic, "ok", found, stops=stops)
        return Finding(topic, level, found, why, mend, stops)

    def _level(self, stops: tuple[Backend, ...]) -> Level:
        """A problem for what was asked for; without that for TensorRT on a Jetson, and for the CPU anywhere."""
        if self.asked is not None:
            return "problem" if self.asked in stops else "ok"
        jetson = self.board.kind == "jetson"
        if "onnxruntime" in stops or (jetson and "tensorrt" in stops):
            return "problem"
        return "advice" if self.board.kind == "nvidia" or self.board.undriven else "ok"


def check_asked(backend: str | None) -> Backend | None:
    """The backend that was named, if it is one.

    Raises:
        UsageError: it is none.
    """
    if backend is None:
        return None
    for known in BACKENDS:
        if backend == known:
            return known
    raise UsageError("--backend", f"got '{backend}'", todo=did_you_mean(backend, BACKENDS))


def quoted(path: str) -> str:
    """A path as a shell takes it."""
    return shlex.quote(path)
