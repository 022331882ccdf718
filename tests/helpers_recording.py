"""Reading recordings in tests, and refusing them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.recording import Recording, open_recordings


def read(path: Path | str, contract: Contract) -> list[Recording]:
    return list(open_recordings(str(path), contract))


def refuses(path: Path | str, contract: Contract, *texts: str) -> None:
    """Reading raises one message that has all the texts, in this order."""
    with pytest.raises(RecordingError, match=".*".join(re.escape(t) for t in texts)) as caught:
        read(path, contract)
    assert caught.value.exit_code == 3


def save(folder: Path, **keys: object) -> Path:
    path = folder / "rec.npz"
    np.savez(path, **{k: np.asarray(v) for k, v in keys.items()})  # type: ignore[arg-type]
    return path
