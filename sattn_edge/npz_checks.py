"""What an .npz says of its channels, rate and classes, checked against the contract."""

from __future__ import annotations

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError
from sattn_edge.npz_stream import NpzFile
from sattn_edge.recording_base import ChannelMap, check_rate, check_units, listed, map_channels

RATE_KEYS = ("rate_hz", "fs")


def file_channels(file: NpzFile, count: int, contract: Contract) -> tuple[ChannelMap, tuple[str, ...]]:
    """Finds the contract's channels among `count` columns, by name where the file has names; with notes.

    Raises:
        RecordingError: a channel is missing, the counts differ, or a unit is wrong.
    """
    if "channels" in file:
        names = _per_channel(file, "channels", count)
        channels = map_channels([n.strip() for n in names], contract, file.subject)
        notes = channels.notes(file.subject)
    else:
        if count != contract.modal:
            raise RecordingError(
                file.subject,
                f"has {count} channels without names",
                f"the contract has {contract.modal}: {listed(contract.channel_names)}",
                "add the names as 'channels'",
            )
        channels = ChannelMap(tuple(range(count)), ())
        notes = (f"{file.subject}: no channel names, the order is taken as the contract's",)
    if "units" in file:
        check_units(_per_channel(file, "units", count), channels, contract, file.subject)
    return channels, notes


def check_file_rate(file: NpzFile, contract: Contract) -> bool:
    """Checks the rate the file states, if it does; returns whether it does."""
    for key in RATE_KEYS:
        if key in file:
            check_rate(file.number(key), key, contract, file.subject)
            return True
    return False


def file_class_names(file: NpzFile) -> tuple[str, ...] | None:
    """The names that label indices stand for, if the file has them."""
    return file.strings("class_names") if "class_names" in file else None


def _per_channel(file: NpzFile, key: str, count: int) -> tuple[str, ...]:
    values = file.strings(key)
    if len(values) != count:
        raise RecordingError(file.subject, f"{key} has {len(values)} entries for {count} channels", "one each")
    return values
