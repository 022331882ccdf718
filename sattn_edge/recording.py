"""Recordings: files of continuous sensor samples, one at a time, checked against the contract.

| suffix | what it holds |
|---|---|
| .npz | one recording, or a bundle of many (`recording_npz`) |
| .csv | one recording as text (`recording_csv`) |
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.npz_stream import NpzFile
from sattn_edge.recording_base import ChannelMap, Recording, map_channels
from sattn_edge.recording_csv import CsvRow, CsvRows, is_data, read_csv
from sattn_edge.recording_npz import read_npz

__all__ = [
    "ChannelMap",
    "CsvRow",
    "CsvRows",
    "Recording",
    "is_data",
    "map_channels",
    "open_recordings",
    "split_spec",
]

SUFFIXES = (".npz", ".csv")


def open_recordings(spec: str, contract: Contract) -> Iterator[Recording]:
    """Yields the recordings of PATH, or of PATH#NAME those called NAME; one is in memory at a time.

    A missing file or an unknown suffix is an error at once, the rest when the first recording is asked for or
    reached. Checksums are complete after the last.

    Raises:
        RecordingError: the file, its data, or its fit to the contract; exit code 3.
    """
    path, name = split_spec(spec)
    return _from_csv(path, name, contract) if path.suffix.lower() == ".csv" else _from_npz(path, name, contract)


def split_spec(spec: str) -> tuple[Path, str | None]:
    """Splits PATH#NAME into a file that is there and a name, or None; a # may be part of the path too.

    Raises:
        RecordingError: no such file, a folder, or a suffix that no recording has.
    """
    cuts = [i for i, c in enumerate(spec) if c == "#"]
    candidates = [(spec, None), *((spec[:i], spec[i + 1 :]) for i in cuts)]
    try:
        found = [(Path(p), name) for p, name in candidates if p and Path(p).is_file()]
    except OSError as error:
        raise RecordingError(spec, f"can't be read ({error.strerror})") from error
    if not found:
        raise _no_file(Path(spec[: cuts[0]] if cuts else spec))
    path, name = found[0]
    if path.suffix.lower() not in SUFFIXES:
        raise RecordingError(str(path), f"has the suffix '{path.suffix}'", f"{' or '.join(SUFFIXES)}")
    return path, name


def _no_file(path: Path) -> RecordingError:
    what = "is a folder" if path.is_dir() else "is no ordinary file" if path.exists() else "does not exist"
    return RecordingError(str(path), what, "a recording is a file", "PATH or PATH#NAME")


def _from_npz(path: Path, name: str | None, contract: Contract) -> Iterator[Recording]:
    with NpzFile(path) as file:
        yield from read_npz(file, name, contract)


def _from_csv(path: Path, name: str | None, contract: Contract) -> Iterator[Recording]:
    if name not in (None, path.stem):
        raise RecordingError(str(path), f"there is no recording '{name}'", f"it holds one, '{path.stem}'")
    yield read_csv(path, contract)
