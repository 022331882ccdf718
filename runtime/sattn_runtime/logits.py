"""What logits say beside the label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def lead(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the first label leads the second, for each window of float64 [n, classes]: [n]; 0 where there is one."""
    if logits.shape[1] < 2:
        return np.zeros(len(logits))
    ordered = np.sort(logits, axis=1)
    ahead: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return ahead
