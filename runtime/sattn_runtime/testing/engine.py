"""An engine without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import sleep

import numpy as np
from numpy.typing import NDArray

from sattn_edge.attention_output import AttentionLayout
from sattn_edge.contract import Contract
from sattn_edge.engine import Attended, EngineInfo, HostEngine, no_attention

Logits = Callable[[NDArray[np.float32]], Sequence[float]]


class FakeEngine(HostEngine):
    """An engine that obeys the protocol and computes nothing a person could not check by eye.

    Args:
        contract: what windows it takes and how many logits it gives.
        logits: maps a window float32 [series, modal] to its logits; without it, the class whose index is
            nearest to the window's mean has the largest one: `logits[k] = -|mean - k|`.
        delay_s: how long every window takes, slept away.
        record: keep a copy of every window in `windows`, in the order they came.
        gates: how its attention is laid out; it then gives `attention(window)`, or 0.5 for every value.
        attention: maps a window float32 [series, modal] to its gates [values].
    """

    def __init__(
        self,
        contract: Contract,
        logits: Logits | None = None,
        delay_s: float = 0.0,
        *,
        record: bool = False,
        gates: AttentionLayout | None = None,
        attention: Logits | None = None,
    ) -> None:
        self.contract, self.gates = contract, gates
        self._attention = attention or (lambda _: [0.5] * (gates.values if gates is not None else 0))
        self.info = EngineInfo("fake", "1", "fp32", "none", 1, "sha256:" + "0" * 64)
        self.windows: list[NDArray[np.float32]] = []
        self.closed = False
        self._logits, self._delay_s, self._record = logits or self._nearest, delay_s, record

    def close(self) -> None:
        """Remembers that it was closed."""
        self.closed = True

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._record:
            self.windows += [window[0].copy() for window in x]
        if self._delay_s:
            sleep(self._delay_s * len(x))
        return np.array([self._logits(window[0]) for window in x], np.float32)

    def _run_attention(self, x: NDArray[np.float32]) -> Attended:
        if self.gates is None:
            raise no_attention()
        return self._run(x), np.array([self._attention(window[0]) for window in x], np.float32)

    def _nearest(self, window: NDArray[np.float32]) -> Sequence[float]:
        mean = float(window.mean(dtype=np.float64))
        return [-abs(mean - k) for k in range(len(self.contract.labels))]
