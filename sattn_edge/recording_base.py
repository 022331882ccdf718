"""What every kind of recording has in common: the type itself, and the checks against the contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError, did_you_mean
from sattn_edge.npz_stream import Array

RATE_TOLERANCE = 0.02  # crystals are off by far less, a wrong rate by far more
NO_LABEL = -1
LATEST_S = 1e11  # the year 5138; a clock in milliseconds or nanoseconds is beyond
_NAMES_SHOWN = 12


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One continuous recording.

    samples: float32 [n, modal], C-contiguous, in physical units and the contract's channel order.
    labels: int16 [n], indices into contract.labels, -1 = none, or none that the contract has.
    timestamp_s: float64 [n], finite.
    notes: what a person must be told once; of a file's recordings only the first carries them.
    sequence: int64 [n], the recorder's own number of each sample.
    """

    name: str
    samples: NDArray[np.float32]
    labels: NDArray[np.int16] | None
    timestamp_s: NDArray[np.float64] | None
    subject: str | None
    notes: tuple[str, ...] = ()
    sequence: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class ChannelMap:
    """columns[i] is where the file has the contract's channel i; `ignored` are names the contract lacks."""

    columns: tuple[int, ...]
    ignored: tuple[str, ...]

    def notes(self, subject: str) -> tuple[str, ...]:
        """What to tell about the ignored channels."""
        if not self.ignored:
            return ()
        return (f"{subject}: not in the contract and ignored: {listed(self.ignored)}",)


def map_channels(names: Sequence[str], contract: Contract, subject: str) -> ChannelMap:
    """Finds the contract's channels among a file's names.

    Raises:
        RecordingError: a channel is missing, or stands twice.
    """
    columns = tuple(_column(names, name, subject) for name in contract.channel_names)
    ignored = tuple(n for i, n in enumerate(names) if i not in columns and n)
    return ChannelMap(columns, ignored)


def _column(names: Sequence[str], name: str, subject: str) -> int:
    found = [i for i, n in enumerate(names) if n == name]
    if len(found) > 1:
        raise RecordingError(subject, f"channel '{name}' stands {len(found)} times", "once")
    if not found:
        raise RecordingError(
            subject,
            f"channel '{name}' is missing",
            f"it has {listed(names)}",
            near(name, names) or "rename the file's channel, or the contract's",
        )
    return found[0]


def listed(names: Sequence[str]) -> str:
    """The names with commas, the first few of many."""
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def near(word: str, known: Sequence[str]) -> str:
    """`did you mean 'acc_x'?`, or nothing if no known word is near."""
    hint = did_you_mean(word, known)
    return hint if hint.endswith("?") else ""


def check_units(units: Sequence[str], channels: ChannelMap, contract: Contract, subject: str) -> None:
    """A channel's unit in the file is the contract's; where either says nothing, nothing is checked."""
    for channel, column in zip(contract.channel, channels.columns, strict=True):
        unit = units[column].strip()
        if unit and channel.unit and unit != channel.unit.strip():
            raise RecordingError(
                subject,
                f"channel '{channel.name}' is in {unit}",
                f"the contract says {channel.unit}",
                "convert the recording, or correct the unit",
            )


def check_rate(rate_hz: float, source: str, contract: Contract, subject: str) -> None:
    """The recording's rate is the contract's, within 2 %. `source` is where it was read from."""
    if not abs(rate_hz - contract.rate_hz) <= RATE_TOLERANCE * contract.rate_hz:  # also refuses NaN
        raise RecordingError(
            subject,
            f"sampled at {rate_hz:.6g} Hz (by its {source})",
            f"the contract says {contract.rate_hz:.6g} Hz, give or take {RATE_TOLERANCE:.0%}",
            f"resample the recording{_by_the_run(rate_hz)}, or use a model for its rate",
        )


def _by_the_run(rate_hz: float) -> str:
    """How a run takes another rate; as round as what was read from stamps may be."""
    if not 0 < rate_hz < math.inf:
        return ""
    rounded = f"{rate_hz:.3g}" if rate_hz < 1000 else f"{rate_hz:.0f}"
    return f" (sattn-run does it with --resample {rounded})"


def check_timestamps(stamps: Array, samples: int, subject: str) -> NDArray[np.float64]:
    """The time stamps as float64 [n]: as many as samples, numbers, finite, and time passes."""
    if stamps.shape != (samples,):
        raise RecordingError(
            subject,
            f"timestamp_s is {list(stamps.shape)}, signal has {samples} samples",
            "one for each sample",
        )
    if stamps.dtype.kind not in "iuf":
        raise RecordingError(subject, f"timestamp_s is {stamps.dtype}", "seconds, as numbers")
    seconds = stamps.astype(np.float64)
    usable = np.abs(seconds) < LATEST_S  # also refuses NaN
    if not usable.all():
        first = int(np.argmin(usable))
        raise RecordingError(
            subject,
            f"timestamp_s[{first}] is {seconds[first]:.6g}",
            f"finite seconds below {LATEST_S:.0e}",
            "leave such samples out, or convert to seconds",
        )
    if samples > 1 and not (np.diff(seconds) > 0).any():
        raise RecordingError(subject, "timestamp_s never increases", "seconds from sample to sample")
    return seconds


def rate_of(timestamp_s: NDArray[np.float64]) -> float:
    """The sampling rate in Hz that time stamps show: the mean of the steps near the median one.

    The median alone is wrong where stamps are rounded: at 360 Hz in whole milliseconds it gives 333 Hz.
    Steps far from it are gaps or repeats. Where most stamps repeat (packets), the whole span counts.
    """
    steps = np.diff(timestamp_s)
    median = float(np.partition(steps, len(steps) // 2)[len(steps) // 2])
    if median <= 0:
        return float(len(steps) / (timestamp_s.max() - timestamp_s.min()))
    usual = steps[(steps >= 0.5 * median) & (steps <= 1.5 * median)]
    return float(1.0 / usual.mean())


def check_some_finite(samples: NDArray[np.float32], contract: Contract, subject: str) -> None:
    """No channel is NaN or infinite throughout; single samples may be, they are dealt with later."""
    dead = ~np.isfinite(samples).any(axis=0)
    if dead.all():
        raise RecordingError(subject, "has no finite value at all", "numbers in physical units")
    if dead.any():
        name = contract.channel_names[int(np.argmax(dead))]
        raise RecordingError(
            subject,
            f"channel '{name}' has no finite value",
            "at least some",
            "check the sensor or the conversion",
        )


def check_length(samples: int, contract: Contract, subject: str) -> None:
    """There is at least one window."""
    if samples < contract.window:
        raise RecordingError(
            subject,
            f"has {samples} samples",
            f"a window is {contract.window}",
            "give a longer recording",
        )


def map_labels(values: Array, class_names: Sequence[str] | None, contract: Contract, subject: str) -> NDArray[np.int16]:
    """Labels [n] as int16 indices into contract.labels, -1 = none.

    values: names, or indices into class_names (into contract.labels without), negative or 255 = none.

    Raises:
        RecordingError: another dtype, or an index beyond the names.
    """
    if values.dtype.kind == "U":
        names, inverse = np.unique(values, return_inverse=True)
        found: NDArray[np.int16] = label_table([str(n) for n in names], contract)[inverse.reshape(-1)]
        return found
    if values.dtype.kind not in "iu":
        raise RecordingError(subject, f"labels are {values.dtype}", "whole numbers or names")
    names_known = contract.labels if class_names is None else class_names
    table = label_table(names_known, contract)
    index = values.astype(np.int64)
    none = index < 0
    if len(table) <= 255:
        none |= index == 255
    _check_in_range(index, none, len(table), class_names is not None, subject)
    index[none] = len(table)
    mapped: NDArray[np.int16] = np.append(table, np.int16(NO_LABEL))[index]
    return mapped


def _check_in_range(index: NDArray[np.int64], none: NDArray[np.bool_], known: int, by_name: bool, subject: str) -> None:
    bad = (index >= known) & ~none
    if bad.any():
        at = int(np.argmax(bad))
        whose = "class_names" if by_name else "the contract's labels"
        raise RecordingError(
            subject,
            f"label {index[at]} (at {at})",
            f"{whose} are 0 to {known - 1}; negative or 255 = none",
            "correct the label, or the names",
        )


def label_table(names: Sequence[str], contract: Contract) -> NDArray[np.int16]:
    """For each name its index in contract.labels, -1 where it is not there."""
    known = {label: i for i, label in enumerate(contract.labels)}
    return np.array([known.get(name.strip(), NO_LABEL) for name in names], np.int16)


def label_notes(names: Sequence[str], contract: Contract, subject: str) -> tuple[str, ...]:
    """What to tell about names that are no labels of the contract."""
    unknown = [n for n in names if n.strip() and n.strip() not in contract.labels]
    if not unknown:
        return ()
    return (f"{subject}: no labels of the contract, so counted as unlabelled: {listed(unknown)}",)
