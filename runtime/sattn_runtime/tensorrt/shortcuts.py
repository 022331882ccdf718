"""Which way in and out of the GPU is fastest for the engine that was chosen: measured, checked, remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine_manifest import Shortcut, ShortcutTime
from sattn_edge.errors import SattnEdgeError
from sattn_edge.model_file import ModelFile
from sattn_runtime.choice import Times
from sattn_runtime.tensorrt.candidates import Surroundings, Tried, call_of
from sattn_runtime.tensorrt.device import Device
from sattn_runtime.tensorrt.engine import TensorRTEngine, limits
from sattn_runtime.tensorrt.executor import Executor
from sattn_runtime.timing import time_in_turns

PLAIN = Shortcut()
SHORTCUTS = (
    PLAIN,
    Shortcut("pinned"),
    Shortcut("mapped"),
    Shortcut("pinned", graph=True),
    Shortcut("mapped", graph=True),
)
_SAME = 1e-6
"""Of the logit scale: it is the same engine, so a difference means that something was read before it was written."""


@dataclass(frozen=True, eq=False)
class _Way:
    shortcut: Shortcut
    engine: TensorRTEngine | None
    note: str = ""


def choose_shortcut(
    model: ModelFile, around: Surroundings, kept: Tried, rounds: int
) -> tuple[Shortcut | None, tuple[ShortcutTime, ...]]:
    """The shortcut to keep and the times of all; a plainer way stays unless the next is faster. None without a GPU."""
    device = around.device
    if device is None or kept.engine is None:
        return None, ()
    windows = usual_windows(model, limits(around.request).usual)
    ways = [_try(model, around, device, kept, shortcut, windows) for shortcut in SHORTCUTS]
    running = [w for w in ways if w.engine is not None]
    times = Times(time_in_turns([w.engine for w in running if w.engine is not None], windows, rounds))
    best = times.earned()
    rows = []
    for way in ways:
        if way.engine is None:
            rows.append(ShortcutTime(way.shortcut, note=way.note))
            continue
        i = running.index(way)
        won = times.rounds_won(i, 0) if i else None
        rows.append(ShortcutTime(way.shortcut, round(times.median_us(i), 2), won))
    for way in running:
        if way.engine is not None:
            way.engine.close()
    return running[best].shortcut, tuple(rows)


def usual_windows(model: ModelFile, batch: int) -> NDArray[np.float32]:
    """So many golden windows float32 [batch, 1, series, modal], repeated where there are fewer."""
    return np.resize(model.golden.x, (batch, *model.golden.x.shape[1:]))


def _try(
    model: ModelFile,
    around: Surroundings,
    device: Device,
    kept: Tried,
    shortcut: Shortcut,
    windows: NDArray[np.float32],
) -> _Way:
    """Calls the engine this way. Whatever goes wrong leaves the way out, with the reason; the plain one has to go."""
    if shortcut.graph and not device.cuda.graphs:
        return _Way(shortcut, None, f"{device.cuda.info.adapter} has no CUDA graphs")
    if shortcut.memory == "mapped" and not device.cuda.info.can_map_host:
        return _Way(shortcut, None, "this GPU can't read the host's memory")
    wanted = None if kept.executor is None else _outputs(call_of(model, kept.executor), windows)
    try:
        engine = call_of(model, Executor(around.bindings, device.cuda, kept.engine, limits(around.request), shortcut))
        # The first call is plain, the second captures or replays, the third replays.
        found = [_outputs(engine, windows) for _ in range(3)]
    except SattnEdgeError as error:
        if shortcut == PLAIN:
            raise
        return _Way(shortcut, None, error.found)
    if wanted is not None and not all(_same(one, wanted) for one in found):
        return _Way(shortcut, None, "gives other logits")
    return _Way(shortcut, engine)


def _outputs(engine: TensorRTEngine, windows: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Logits, and the gates where there are some, of one call."""
    return (engine.infer(windows),) if engine.gates is None else engine.infer_attention(windows, [0, 0, 0])


def _same(found: Sequence[NDArray[np.float32]], wanted: Sequence[NDArray[np.float32]]) -> bool:
    scales = [float(np.abs(one).max()) or 1.0 for one in wanted]
    rows = zip(found, wanted, scales, strict=True)
    return all(bool(np.abs(one - other).max() <= _SAME * scale) for one, other, scale in rows)
