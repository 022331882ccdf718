"""A benchmark as data: what `--json` prints, `--report` keeps, `--compare` reads. docs/bench.md has the keys."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sattn_edge.engine import EngineInfo
from sattn_edge.errors import InputError

FORMAT = 1
KIND = "sattn-bench"


class Clock(msgspec.Struct, frozen=True):
    """A clock that scales: its limits, what it was then (None: not told, 0: off), and who decides."""

    name: str
    min_mhz: float | None
    max_mhz: float | None
    now_mhz: float | None
    governor: str | None


class Context(msgspec.Struct, frozen=True):
    """The device at one moment. throttled: events counted since boot by kind; cooling: devices that slow it down now.

    cpus: cores this process may use. busy_s, stolen_s: of all cores together since boot; own_s: of this process.
    """

    at: str
    machine: str | None
    architecture: str
    cpu: str
    cpus: int
    kernel: str
    jetpack: str | None
    power_mode: str | None
    cpu_clocks: tuple[Clock, ...]
    gpu_clock: Clock | None
    temperature_c: dict[str, float]
    throttled: dict[str, int]
    cooling: dict[str, int]
    load_1min: float | None
    busy_s: float | None
    stolen_s: float | None
    own_s: float


class Stability(msgspec.Struct, frozen=True):
    """stable: None where nothing spoke against it and the device does not tell its clocks. reasons: against it."""

    stable: bool | None
    reasons: tuple[str, ...]
    not_told: tuple[str, ...]


class Series(msgspec.Struct, frozen=True):
    """What the device told during the run: at_s since its start, name -> values (None: nothing told then)."""

    at_s: tuple[float, ...]
    cpu_mhz: dict[str, tuple[float | None, ...]]
    gpu_mhz: dict[str, tuple[float | None, ...]]
    temperature_c: dict[str, tuple[float | None, ...]]
    power_w: dict[str, tuple[float | None, ...]]


class EngineRow(msgspec.Struct, frozen=True):
    """What ran."""

    backend: str
    version: str
    precision: str
    attention: str
    device: str
    threads: int


def engine_row(info: EngineInfo) -> EngineRow:
    """Of what an engine says of itself."""
    return EngineRow(info.backend, info.version, info.precision, info.attention, info.device, info.threads)


class Cold(msgspec.Struct, frozen=True):
    """load_ms: opening the engine, the model file read and the backend's libraries imported before."""

    load_ms: float
    first_infer_ms: float


class Energy(msgspec.Struct, frozen=True):
    """Of the whole board as far as it tells (basis), idle share included."""

    basis: str
    mean_w: float
    joules_per_window: float
    seconds: float


class Measurement(msgspec.Struct, frozen=True):
    """A configuration in one mode. Times in microseconds; a quantile that too few windows were measured for is None.

    percentiles_us: (part of the windows, time) pairs of the whole latency, for its distribution. ratio: of medians to
    the first configuration in this mode, the median over rounds; ratio_low, ratio_high: over the middle half of them.
    """

    configuration: str
    batch: int
    hop_samples: int
    mode: str
    basis: str
    engine: EngineRow
    cold: Cold
    windows: int
    rounds: int
    deadline_us: float
    misses: int
    longest_stall_us: float
    jitter_us: float
    total_us: dict[str, float | None]
    stages_us: dict[str, dict[str, float | None]]
    percentiles_us: tuple[tuple[float, float], ...]
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    windows_per_s: float
    energy: Energy | None


class Compared(msgspec.Struct, frozen=True):
    """A configuration in both runs; ratios are this run over the other, None where one has too few windows."""

    configuration: str
    mode: str
    p50_us: float
    other_p50_us: float
    p50_ratio: float
    p99_ratio: float | None


class Comparison(msgspec.Struct, frozen=True):
    """Beside an earlier run in a like context. notes: what to know before believing it."""

    other: str
    rows: tuple[Compared, ...]
    notes: tuple[str, ...]


class Bench(msgspec.Struct, frozen=True):
    """One run of sattn-bench. `unmeasured`: what a stop came too early for."""

    kind: str
    format: int
    version: str
    model: str
    graph_digest: str
    window_samples: int
    channels: int
    rate_hz: float
    speed: float
    data: str
    started: str
    elapsed_s: float
    stopped: bool
    stability: Stability
    before: Context
    after: Context
    measurements: tuple[Measurement, ...]
    series: Series
    comparison: Comparison | None = None
    unmeasured: tuple[str, ...] = ()


def encode(bench: Bench) -> bytes:
    """As JSON for a file."""
    return msgspec.json.format(msgspec.json.encode(bench), indent=2) + b"\n"


def read_bench(path: Path) -> Bench:
    """A run that was kept.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), f"can't be read ({error.strerror})", "what sattn-bench --json printed") from error
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.kind == KIND and head.format > FORMAT:
            raise InputError(str(path), f"is of format {head.format}", f"up to {FORMAT}", "measure it again")
        bench = msgspec.json.decode(data, type=Bench)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"is no benchmark ({error})", "what sattn-bench --json printed") from error
    if bench.kind != KIND:
        raise InputError(str(path), f"is '{bench.kind}'", "what sattn-bench --json printed")
    return bench


class _Head(msgspec.Struct):
    kind: str
    format: int
