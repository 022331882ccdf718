"""How often the input monitor is wrong on real recordings, and how often it is right on spoilt ones.

    python benchmarks/false_alarms.py [--data DIR] [NAME ...]

For each bundle the monitor gets the statistics of the training part's windows, then every other recording runs
through a stream: windows it refuses are false alarms, since nothing is wrong with these recordings. Then the same
recordings are spoilt: a channel stuck, the first unit in another scale (x 9.81), the first two axes exchanged; those
figures are the recordings where it is seen. A change of a bound shows on both sides.

Many recordings are shorter than the stretch that exchanged axes are judged by. So a person's (a machine's) live
recordings also run in a row, as one *session*, and all that is of one label in a row: as they are, for false alarms,
and as sessions with each watched pair of axes exchanged. `pairs`: those that the training windows say can be told, of
all of one unit. With `--turned` training and the others change places.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sattn_edge.axes import AxisRecord, candidates, flat, level, read_axes, window_features
from sattn_edge.contract import Contract
from sattn_edge.recording import Recording, open_recordings
from sattn_edge.recording_base import NO_LABEL
from sattn_edge.statistics import WindowStatistics, channel_statistics
from sattn_edge.windows import WindowSet, cut
from sattn_runtime import Stream
from sattn_runtime.monitor import Monitor
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


def _exchanged(x: np.ndarray, a: int, b: int) -> np.ndarray:
    x = x.copy()
    x[:, [a, b]] = x[:, [b, a]]
    return x


def measure(path: Path, window: int, *, turned: bool = False) -> dict[str, object]:
    """Counts of one bundle."""
    contract = contract_of(path, window, window // 2)
    known, recordings = _split(path, contract, turned)
    live = [recording.samples for recording in recordings]
    places = known["units"][0]["channels"]
    row: dict[str, object] = {"recordings": len(live)}
    windows, refused = _run(contract, known, live, lambda x: x)
    reasons = sum(refused, Counter[str]())
    row |= {"windows": windows, "false": reasons.total(), "reasons": dict(reasons)}
    spoils: dict[str, Spoil] = {
        "stuck": _stuck,
        "scale": lambda x: _scaled(x, places),
        "swapped": lambda x: _exchanged(x, 0, 1),
    }
    for name, spoil in spoils.items():
        seen = _run(contract, known, live, spoil)[1]
        wanted = "swapped axes" if name == "swapped" else ""
        row[name] = f"{sum(any(why.startswith(wanted) for why in whys) for whys in seen)}/{len(live)}"
    return row | _exchanges(contract, known, recordings)


def _split(path: Path, contract: Contract, turned: bool = False) -> tuple[WindowStatistics, list[Recording]]:
    """Statistics of the training part's windows, and all the other recordings; turned: the other way round."""
    with np.load(path) as z:
        train = {str(n) for n, s in zip(z["rec_name"], z["rec_split"], strict=True) if (s == "train") != turned}
    pieces, group, live = [], [], []
    for recording in open_recordings(str(path), contract):
        if recording.name not in train:
            live.append(recording)
            continue
        x, y, start = cut(recording, contract)
        pieces.append((np.array(x), np.full(len(x), NO_LABEL, np.int16) if y is None else y, start))
        group += [recording.subject or ""] * len(x)
    x, y, start = (np.concatenate(part) for part in zip(*pieces, strict=True))
    return channel_statistics(WindowSet(x, y, np.array(group), start, str(path), ""), contract), live


def _exchanges(contract: Contract, known: WindowStatistics, recordings: list[Recording]) -> dict[str, object]:
    """What is told of exchanged axes in sessions, and falsely told in sessions and in stretches of one label."""
    record = read_axes(known, contract.modal)
    watched = () if record is None else tuple(pair.channels for pair in record.pairs)
    sessions, of_label = defaultdict(list), defaultdict(list)
    for recording in recordings:
        sessions[recording.subject].append(recording.samples)
        labels = recording.labels if recording.labels is not None else np.zeros(0, np.int16)
        for label in np.unique(labels[labels >= 0]):
            of_label[recording.subject, label].append(recording.samples[labels == label])
    whole = [np.concatenate(parts) for parts in sessions.values()]
    single = [np.concatenate(parts) for parts in of_label.values()]
    row: dict[str, object] = {"pairs": f"{len(watched)}/{len(candidates(contract))}", "sessions": len(whole)}
    row["false in sessions"] = sum(bool(_told(contract, known, x)) for x in whole)
    row["false in one label"] = f"{sum(bool(_told(contract, known, x)) for x in single)}/{len(single)}"
    row["judged"] = sum(_judged(contract, record, r.samples) for r in recordings)
    seen, named = 0, 0
    for pair in watched:
        told = [_told(contract, known, _exchanged(x, *pair)) for x in whole]
        seen += sum(map(bool, told))
        named += sum(" and ".join(contract.channel_names[i] for i in pair) in names for names in told)
    row["exchanged, seen"], row["named right"] = f"{seen}/{len(watched) * len(whole)}", named
    return row


def _told(contract: Contract, known: WindowStatistics, samples: np.ndarray) -> set[str]:
    """Which axes the monitor says are exchanged."""
    monitor = Monitor(contract, known)
    events = [
        event
        for at in range(0, len(samples), contract.window)
        for event in monitor.add(samples[at : at + contract.window], at)
    ]
    return {e.channel or "" for e in events if e.kind == "input_bad" and e.detail.startswith("swapped axes")}


def _judged(contract: Contract, record: AxisRecord | None, samples: np.ndarray) -> bool:
    """Whether a recording is long enough, and lively enough, for its axes to be judged."""
    if record is None:
        return False
    count = len(samples) // contract.window
    x = samples[: count * contract.window].astype(np.float64).reshape(count, contract.window, -1)
    mean, square = x.mean(axis=1), np.square(x).mean(axis=1)
    usable = ~flat(mean, square).any(axis=1)
    if record.least_level is not None:
        usable &= level(window_features(mean, square, np.array(record.floor))) > record.least_level
    return bool(usable.sum() >= record.stretch_windows)


def _run(
    contract: Contract, known: WindowStatistics, live: list[np.ndarray], spoil: Spoil
) -> tuple[int, list[Counter[str]]]:
    """How many windows there are, and what each recording's refused ones are refused for."""
    windows, refused = 0, []
    logits = [0.0] * len(contract.labels)
    for samples in live:
        stream = Stream(FakeEngine(contract, lambda _: logits), statistics=known)
        spoilt = spoil(samples)
        for at in range(0, len(spoilt), contract.hop):
            for _ in stream.process(Chunk(spoilt[at : at + contract.hop], None)):
                pass
        windows += stream.windows
        refused.append(Counter(stream.reasons))
    return windows, refused


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--turned", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args()
    for name in given.names or SHAPES:
        path = ROOT / "benchmarks/data/watch_dev.npz" if name == "watch" else given.data / f"{name}_dev.npz"
        if not path.exists():
            print(f"{name:12} not there: {path}")
            continue
        row = measure(path, SHAPES[name], turned=given.turned)
        print(f"{name:12} " + ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
