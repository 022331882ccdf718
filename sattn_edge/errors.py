"""Every error the product raises on purpose, and the exit code each one ends a command with.

    SattnEdgeError
    ├── UsageError (2)           the command line or a call was used wrongly
    │   └── ContractError        the contract does not hold together or does not fit
    ├── InputError (3)           a file or its data can't be used
    │   ├── CheckpointError      weights, programs and factories
    │   ├── ModelFileError       an ONNX file, as the gate or the reader found it
    │   ├── RecordingError       recordings and window sets
    │   └── JournalError         the journal can't be written any more
    ├── QualityError (4)         parity, accuracy or golden windows failed
    ├── BudgetError (5)          a budget the user set was missed
    ├── UnavailableError (6)     a device, backend or engine is missing
    ├── DigestError (7)          a digest does not match
    ├── SourceLostError (8)      a source was gone for longer than allowed
    └── InterruptedTwiceError (130)

A message reads `subject: what was found; what is allowed; what to do`. Anything outside this tree is a
bug of ours and ends a command with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SattnEdgeError(Exception):
    """Base of the tree. `exit_code` is what a command that meets it exits with."""

    exit_code = 1

    def __init__(self, subject: str, found: str, allowed: str = "", todo: str = "") -> None:
        self.subject, self.found, self.allowed, self.todo = subject, found, allowed, todo
        rest = "; ".join(part for part in (found, allowed, todo) if part)
        super().__init__(f"{subject}: {rest}")


class UsageError(SattnEdgeError):
    """The command line or a call was used wrongly."""

    exit_code = 2


class ContractError(UsageError):
    """A contract is malformed, contradicts itself, or does not fit the network."""


class InputError(SattnEdgeError):
    """A file or its data can't be used."""

    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint can't be read or is not the network it is said to be."""


class ModelFileError(InputError):
    """An ONNX file was refused by the gate or lacks what a model file carries."""


class RecordingError(InputError):
    """A recording or a set of windows can't be used with this contract."""


class JournalError(InputError):
    """The journal can't be written any more: a full disk, a device that is gone."""


class QualityError(SattnEdgeError):
    """A quality gate failed: parity, accuracy or golden windows."""

    exit_code = 4


class BudgetError(SattnEdgeError):
    """A budget the user set was missed."""

    exit_code = 5


class UnavailableError(SattnEdgeError):
    """A device, a backend, an engine or an optional package is missing."""

    exit_code = 6


class DigestError(SattnEdgeError):
    """Content does not have the digest that was recorded for it."""

    exit_code = 7


class SourceLostError(SattnEdgeError):
    """A source was gone for longer than allowed."""

    exit_code = 8


class InterruptedTwiceError(SattnEdgeError):
    """The user asked a second time, while the command was draining."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'stride'?` for the nearest known word, else the list of what is known."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(words)}"
