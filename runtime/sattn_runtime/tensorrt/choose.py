"""Which candidate to keep: the fastest on the GPU, within a budget on the user's windows, or the fewest kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import AUTO
from sattn_edge.engine_manifest import Candidate, Request
from sattn_edge.engine_onnxruntime import run_graph
from sattn_edge.errors import QualityError
from sattn_edge.lowering import Target, lower
from sattn_edge.model_file import ModelFile
from sattn_runtime.choice import Times
from sattn_runtime.tensorrt.accept import agreement
from sattn_runtime.tensorrt.candidates import USUAL_FORM, Tried, nothing_left
from sattn_runtime.timing import CALLS, WARM_UP, in_turns


@dataclass(frozen=True)
class Choice:
    """The place of what is kept, all candidates with what was found out of them, and why."""

    kept: int
    candidates: tuple[Candidate, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Judging:
    """Windows float32 [n, 1, series, modal] to judge precisions on, and how many points of labels may differ."""

    x: NDArray[np.float32]
    budget: float


def by_kernels(model: ModelFile, tried: Sequence[Tried], request: Request) -> Choice:
    """The fewest kernels, the usual form where several have as few: all that can be said without a GPU.

    Raises:
        QualityError: none compiled, or none in the precision asked for.
    """
    usable = [i for i, t in enumerate(tried) if t.compiled is not None and not t.candidate.left_out]
    if not usable:
        raise nothing_left(model, tried, request.precision)
    kept = min(usable, key=lambda i: tried[i].candidate.kernels or 0)
    reason = f"{tried[kept].candidate.kernels} kernels, the fewest; nothing here can run and time it"
    return Choice(kept, tuple(t.candidate for t in tried), "asked for" if request.attention != AUTO else reason)


def time_on_gpu(tried: Sequence[Tried], rounds: int) -> Times:
    """Times of the engines of these candidates in turns, by CUDA events."""
    executors = [t.executor for t in tried if t.executor is not None]
    for executor in executors:
        executor.device_us(WARM_UP)
    return Times(in_turns(len(executors), rounds, lambda i: executors[i].device_us(CALLS)))


def by_time(
    model: ModelFile, tried: Sequence[Tried], request: Request, times: Times, judging: Judging | None
) -> Choice:
    """The fastest on the GPU; with windows to judge on, of the precisions that keep to the budget there.

    times: of the candidates that run, in their order.

    Raises:
        QualityError: no precision keeps to the budget.
    """
    running = [i for i, t in enumerate(tried) if t.executor is not None]
    candidates = [t.candidate for t in tried]
    fastest: list[tuple[int, int]] = []  # for each precision the place of its fastest, here and in `times`
    reasons: dict[int, str] = {}
    for precision in dict.fromkeys(candidates[i].precision for i in running):
        mine = [j for j, i in enumerate(running) if candidates[i].precision == precision]
        usual = next((j for j in mine if candidates[running[j]].form == USUAL_FORM), mine[0])
        for j in mine:
            won = times.rounds_won(j, usual) if j != usual else None
            timed = msgspec.structs.replace(
                candidates[running[j]], median_us=round(times.median_us(j), 2), rounds_won=won
            )
            candidates[running[j]] = timed
        best = times.best(mine, usual)
        fastest.append((running[best], best))
        reasons[running[best]] = times.why(best, usual, candidates[running[usual]].form, len(mine) - 1)
    if judging is not None:
        return _within_budget(model, tried, candidates, fastest, times, judging)
    kept = fastest[0][0]
    return Choice(kept, tuple(candidates), "asked for" if request.attention != AUTO else reasons[kept])


def _within_budget(
    model: ModelFile,
    tried: Sequence[Tried],
    candidates: list[Candidate],
    fastest: Sequence[tuple[int, int]],
    times: Times,
    judging: Judging,
) -> Choice:
    """Of the fastest of each precision, the fastest within the budget; a higher precision stays unless beaten."""
    wanted = reference_logits(model, judging.x)
    within = []
    for i, j in fastest:
        found = agreement(logits_of(tried[i], judging.x), wanted)
        candidates[i] = msgspec.structs.replace(candidates[i], agreement=found)
        if found.within(judging.budget):
            within.append((i, j))
            continue
        differ = f"{found.points:.3g} % of the labels differ, at margins up to {found.worst_margin:.2g}"
        note = f"over the budget: {differ}"
        candidates[i] = msgspec.structs.replace(candidates[i], note=note, left_out="over the budget")
    if not within:
        said = ", ".join(f"{candidates[i].precision}: {candidates[i].note}" for i, _ in fastest)
        raise QualityError(model.name, f"no precision is near enough to FP32 ({said})", f"--budget {judging.budget:g}")
    kept, place = within[0]
    for i, j in within[1:]:
        if times.beats(j, place):
            kept, place = i, j
    return Choice(kept, tuple(candidates), best_reason(candidates, kept, [i for i, _ in fastest]))


def reference_logits(model: ModelFile, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """FP32 on ONNX Runtime: what labels are compared with."""
    return run_graph(lower(model.proto, Target("onnxruntime")).model, x, optimise=True)


def logits_of(tried: Tried, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """A candidate's logits float32 [n, classes] for windows float32 [n, 1, series, modal]."""
    executor = tried.executor
    if executor is None:
        raise RuntimeError("a candidate that can't run was timed")
    most = executor.batch.most
    return np.concatenate([executor.run(x[i : i + most]) for i in range(0, len(x), most)])


def best_reason(candidates: Sequence[Candidate], kept: int, fastest: Sequence[int]) -> str:
    """Why a precision was kept, beside each of the others; that FP16 beats INT8 is said in so many words."""
    mine = candidates[kept]
    parts = []
    for other in (candidates[i] for i in fastest if i != kept):
        if mine.median_us and other.median_us:
            why = f" ({other.note})" if other.left_out else ""
            parts.append(f"{mine.median_us / other.median_us:.2f} of {other.precision}'s time{why}")
    told = f"{mine.precision} within the budget, {', '.join(parts)}" if parts else f"{mine.precision}, the only one"
    beaten = any(candidates[i].precision == "int8" and not candidates[i].left_out for i in fastest)
    return f"FP16 beats INT8 here: {told}" if mine.precision == "fp16" and beaten else told
