"""Missing samples made up: `hold` or `interpolate`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sattn_runtime.stream_options import HOLD


def fill(policy: str, missing: int, before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [missing, modal] between the rows [modal] on both sides of a hole."""
    if policy == HOLD:
        return np.repeat(before[None], missing, axis=0)
    part = (np.arange(1, missing + 1, dtype=np.float64) / (missing + 1))[:, None]
    # Of a finite and a NaN side the NaN wins: nothing is known of the values between.
    line = before.astype(np.float64) * (1 - part) + after.astype(np.float64) * part
    return line.astype(np.float32)
