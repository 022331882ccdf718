"""How often the input monitor is wrong on real recordings, and how often it is right on spoilt ones.

    python benchmarks/false_alarms.py [--data DIR] [NAME ...]

For each bundle the monitor gets the statistics of the training part's windows, then every other recording runs
through a stream: windows it refuses are false alarms, since nothing is wrong with these recordings. Then the same
recordings are spoilt: a channel stuck, the first unit in another scale (x 9.81), the first two axes exchanged; those
figures are the recordings where it is seen. A change of a bound shows on both sides.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sattn_edge.contract import Contract
from sattn_edge.recording import open_recordings
from sattn_edge.statistics import WindowStatistics, channel_statistics
from sattn_edge.windows import WindowSet, cut
from sattn_runtime import Stream
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.helpers_data import ROOT, SHARED, contract_of

SHAPES = {"hapt": 128, "motionsense": 128, "emg": 200, "cwru": 2048, "watch": 200}
Spoil = Callable[[np.ndarray], np.ndarray]


def _stuck(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[len(x) // 2 :, 0] = x[len(x) // 2, 0]
    return x


def _scaled(x: np.ndarray, places: list[int]) -> np.ndarray:
    x = x.copy()
    x[:, places] *= 9.80665
    return x


def _swapped(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x[:, [1, 0, *range(2, x.shape[1])]])


def measure(path: Path, window: int) -> dict[str, object]:
    """Counts of one bundle."""
    contract = contract_of(path, window, window // 2)
    with np.load(path) as z:
        train = {str(n) for n, s in zip(z["rec_name"], z["rec_split"], strict=True) if s == "train"}
    pieces, live = [], []
    for recording in open_recordings(str(path), contract):
        if recording.name in train:
            pieces.append(np.array(cut(recording, contract)[0]))
        else:
            live.append(recording.samples)
    known = channel_statistics(WindowSet(np.concatenate(pieces), None, None, None, str(path), ""), contract)
    places = known["units"][0]["channels"]
    row: dict[str, object] = {"recordings": len(live)}
    windows, refused, reasons = _run(contract, known, live, lambda x: x)
    row |= {"windows": windows, "false": sum(refused), "reasons": dict(reasons)}
    spoils: dict[str, Spoil] = {"stuck": _stuck, "scale": lambda x: _scaled(x, places), "swapped": _swapped}
    for name, spoil in spoils.items():
        seen = _run(contract, known, live, spoil)[1]
        row[name] = f"{sum(n > 0 for n in seen)}/{len(live)}"
    return row


def _run(
    contract: Contract, known: WindowStatistics, live: list[np.ndarray], spoil: Spoil
) -> tuple[int, list[int], Counter[str]]:
    windows, refused, reasons = 0, [], Counter[str]()
    logits = [0.0] * len(contract.labels)
    for samples in live:
        stream = Stream(FakeEngine(contract, lambda _: logits), statistics=known)
        spoilt = spoil(samples)
        for at in range(0, len(spoilt), contract.hop):
            for _ in stream.process(Chunk(spoilt[at : at + contract.hop], None)):
                pass
        windows += stream.windows
        refused.append(stream.unjudged)
        reasons.update(stream.reasons)
    return windows, refused, reasons


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args()
    for name in given.names or SHAPES:
        path = ROOT / "benchmarks/data/watch_dev.npz" if name == "watch" else given.data / f"{name}_dev.npz"
        if not path.exists():
            print(f"{name:12} not there: {path}")
            continue
        row = measure(path, SHAPES[name])
        print(f"{name:12} " + ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
