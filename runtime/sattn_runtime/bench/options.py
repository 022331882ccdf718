"""What is measured: the options of a run, and the configurations they make."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from sattn_edge.contract import Contract
from sattn_edge.engine import DEFAULT_BACKEND, DEFAULT_PRECISION
from sattn_edge.errors import UsageError, did_you_mean
from sattn_edge.plan_names import INCREMENTAL, PLANS

Mode = Literal["paced", "back-to-back"]
MODES: tuple[Mode, ...] = ("paced", "back-to-back")
SECONDS = 10.0
ROUNDS = 10
_MOST_CONFIGURATIONS = 64
_MOST_BATCH = 1024  # each sensor has a ring of its own


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. Lists make every combination; hop () is the contract's.

    incremental: how overlapping windows of one sensor are inferred, as for sattn-run; those of a batch are whole.

    seconds: for each configuration and mode; windows: so many in place of it. speed: pace of the sensor, 1.0 is real
    time. data: `windows.npz` or a recording, None the golden windows. deadline_ms: None is one hop at that pace.
    max_p99_ms: what `check_budget` allows. root: where the device's files are read, `/` but in tests.
    """

    model: str
    backends: tuple[str, ...] = (DEFAULT_BACKEND,)
    precisions: tuple[str, ...] = (DEFAULT_PRECISION,)
    batches: tuple[int, ...] = (1,)
    hops: tuple[int, ...] = ()
    threads: tuple[int, ...] = (1,)
    attention: str = "auto"
    incremental: tuple[str, ...] = ("auto",)
    modes: tuple[Mode, ...] = MODES
    seconds: float = SECONDS
    windows: int | None = None
    speed: float = 1.0
    data: str | None = None
    deadline_ms: float | None = None
    max_p99_ms: float | None = None
    root: Path = Path("/")


@dataclass(frozen=True)
class Configuration:
    """One way to run the model file. batch: sensors in step, whose windows go to the engine in one call.

    plan: how windows are inferred, as asked for, and once the engine is there as it is: full, edges or stateful.
    """

    backend: str
    precision: str
    batch: int
    hop: int
    threads: int
    plan: str = "auto"

    @property
    def name(self) -> str:
        """`onnxruntime int8, batch 4, hop 50, 2 threads`, and the plan where it is none of whole windows."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        steps = f", {self.plan}" if self.plan in PLANS else ""
        return f"{self.backend} {self.precision}, batch {self.batch}, hop {self.hop}, {threads}{steps}"


def check(options: BenchOptions) -> None:
    """Raises UsageError for what can't be measured."""
    numbers = (("--batch", options.batches), ("--hop", options.hops), ("--threads", options.threads))
    for name, values in numbers:
        if any(value < 1 for value in values):
            raise UsageError(name, f"got {min(values)}", "1 or more")
    if max(options.batches) > _MOST_BATCH:
        raise UsageError("--batch", f"got {max(options.batches)}", f"1 to {_MOST_BATCH}")
    for name, seconds in (("--seconds", options.seconds), ("--speed", options.speed)):
        if not 0 < seconds < float("inf"):
            raise UsageError(name, f"got {seconds:g}", "a number above 0")
    for name, limit in (("--deadline-ms", options.deadline_ms), ("--max-p99-ms", options.max_p99_ms)):
        if limit is not None and not limit > 0:
            raise UsageError(name, f"got {limit:g}", "milliseconds, above 0")
    if options.windows is not None and options.windows < 1:
        raise UsageError("--windows", f"got {options.windows}", "1 or more")
    _check_plans(options)
    many = len(configurations(options, 1))
    if many > _MOST_CONFIGURATIONS:
        raise UsageError("sattn-bench", f"{many} configurations", f"at most {_MOST_CONFIGURATIONS}", "ask for fewer")


def _check_plans(options: BenchOptions) -> None:
    for word in options.incremental:
        if word not in INCREMENTAL:
            raise UsageError("--incremental", f"got '{word}'", did_you_mean(word, INCREMENTAL))
        if word in PLANS and max(options.batches) > 1:
            raise UsageError(f"--incremental {word}", f"got --batch {max(options.batches)}", "one sensor at a time")


def configurations(options: BenchOptions, contract: Contract | int) -> tuple[Configuration, ...]:
    """Every combination, each once, in the order they were asked for; `contract` gives the hop where none is named."""
    usual = contract if isinstance(contract, int) else contract.hop
    hops = options.hops or (usual,)
    rows = product(options.backends, options.precisions, options.batches, hops, options.threads, options.incremental)
    return tuple(dict.fromkeys(Configuration(*row) for row in rows))


def parse_words(name: str, text: str) -> tuple[str, ...]:
    """`fp32,int8` as words.

    Raises:
        UsageError: one of them is empty.
    """
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise UsageError(name, f"got '{text}'", "one or more, with commas between")
    return words


def parse_numbers(name: str, text: str) -> tuple[int, ...]:
    """`1,4` as numbers.

    Raises:
        UsageError: one of them is no whole number.
    """
    words = parse_words(name, text)
    try:
        return tuple(int(word) for word in words)
    except ValueError as error:
        raise UsageError(name, f"got '{text}'", "whole numbers, with commas between: 1,4") from error


def parse_modes(text: str) -> tuple[Mode, ...]:
    """`both`, `paced` or `back-to-back`.

    Raises:
        UsageError: it is something else.
    """
    if text == "both":
        return MODES
    for mode in MODES:
        if text == mode:
            return (mode,)
    raise UsageError("--mode", f"got '{text}'", did_you_mean(text, ("both", *MODES)))
