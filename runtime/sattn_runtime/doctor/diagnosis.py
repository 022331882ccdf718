"""All checks in their order, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sattn_edge.errors import UnavailableError, UsageError
from sattn_runtime.doctor import checks_power, checks_python, checks_room, checks_system
from sattn_runtime.doctor.board import Board, read_board
from sattn_runtime.doctor.findings import BACKENDS, ON_GPU, Backend, Case, Finding, check_asked
from sattn_runtime.doctor.probe import Probe
from sattn_runtime.doctor.tree import Tree

CHECKS: tuple[Callable[[Case], Finding | None], ...] = (
    checks_system.check_board,
    checks_system.check_jetpack,
    checks_system.check_cuda,
    checks_python.check_python,
    checks_python.check_tensorrt,
    checks_python.check_tensorrt_rtx,
    checks_python.check_adapter,
    checks_system.check_gpu,
    checks_power.check_power_mode,
    checks_power.check_clocks,
    checks_room.check_memory,
    checks_room.check_swap,
    checks_room.check_store,
    checks_room.check_disk,
    checks_python.check_onnxruntime,
    checks_python.check_numpy,
)
# What a copied tree can't tell.
_LIVE_ONLY = ("imports of this Python", "a call of the GPU", "owner of the engine store", "free disk room")


@dataclass(frozen=True)
class Diagnosis:
    """What was found. asked: the backend that was named; not_examined: what only the running machine can tell."""

    root: str
    asked: Backend | None
    board: Board
    probe: Probe
    findings: tuple[Finding, ...]
    not_examined: tuple[str, ...]

    def can_run(self, backend: Backend) -> bool:
        """Whether nothing that was found stops it."""
        return not any(backend in finding.stops for finding in self.findings)


def examine(root: str | Path = "/", backend: str | None = None, probe: Probe | None = None) -> Diagnosis:
    """Examines a machine by its files, and its interpreter by a probe. Changes nothing.

    root: `/`, or a copy of another machine's tree. backend: what the user wants to run. probe: in place of asking.

    Raises:
        UsageError: no such folder, or no such backend.
    """
    tree, asked = Tree(root), check_asked(backend)
    if not Path(tree.root).is_dir():
        raise UsageError("--root", f"'{root}' is not a folder", "/, or a copy of a machine's file tree")
    probe = _probe(tree) if probe is None else probe
    case = Case(tree, _with_gpu(read_board(tree), probe), probe, asked)
    found = [finding for check in CHECKS if (finding := check(case)) is not None]
    findings = (*found, *checks_system.check_files(case))
    not_examined = () if case.probe.live else _LIVE_ONLY
    return Diagnosis(str(tree.root), asked, case.board, case.probe, findings, not_examined)


def _with_gpu(board: Board, probe: Probe) -> Board:
    """A GPU that answers is there, whatever files its driver has: under Windows' Linux they are elsewhere."""
    gpu = probe.gpu
    if board.kind != "none" or gpu is None or gpu.error is not None:
        return board
    return replace(board, kind="nvidia", model=gpu.name, undriven=False)


def _probe(tree: Tree) -> Probe:
    if tree.live:
        from sattn_runtime.doctor.probe_live import live_probe

        return live_probe(tree)
    from sattn_runtime.doctor.probe_tree import tree_probe

    return tree_probe(tree)


def check_can_run(diagnosis: Diagnosis) -> None:
    """Raises UnavailableError where the user asked for a backend of the GPU and it can't run."""
    asked = diagnosis.asked
    if asked not in ON_GPU or diagnosis.can_run(asked):
        return
    topics = [finding.topic for finding in diagnosis.findings if asked in finding.stops]
    others = [backend for backend in BACKENDS if diagnosis.can_run(backend)]
    found = f"can't run here, because of: {', '.join(topics)}"
    allowed = f"what can: {', '.join(others)}" if others else "nothing else can either"
    raise UnavailableError(asked, found, allowed, "mend the problems above and ask again")
