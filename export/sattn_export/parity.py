"""Parity: the exported graph gives what the trained network gives, or there is no file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge.errors import QualityError

# Of the logit scale. Two float32 implementations of these networks differ by less than 1e-6 of it.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """Largest absolute logit difference and the logit scale over n windows; top-1 labels that differ."""

    windows: int
    max_difference: float
    logit_scale: float
    flips: int

    @property
    def relative(self) -> float:
        """The largest difference as a part of the logit scale."""
        return self.max_difference / self.logit_scale if self.logit_scale > 0 else self.max_difference

    @property
    def holds(self) -> bool:
        """Within the tolerance. NaN anywhere does not hold."""
        return bool(self.relative <= TOLERANCE)


def compare(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Parity:
    """Compares logits [n, classes] of two implementations; `theirs` is the reference and gives the scale."""
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return Parity(
        windows=len(ours),
        max_difference=float(difference.max()),
        logit_scale=float(np.abs(theirs).max()),
        flips=int((ours.argmax(1) != theirs.argmax(1)).sum()),
    )


def require(parity: Parity, subject: str, against: str) -> None:
    """Raises QualityError where parity does not hold."""
    if not parity.holds:
        raise QualityError(
            subject,
            f"its logits differ from {against} by {parity.relative:.3g} of the logit scale "
            f"({parity.max_difference:.3g} of {parity.logit_scale:.3g}) on {parity.windows} windows",
            f"at most {TOLERANCE:g}",
            "no file was written; please report the network",
        )
