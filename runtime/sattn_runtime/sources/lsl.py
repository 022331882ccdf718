"""Lab Streaming Layer: `lsl:name=IMU`, `lsl:type=EEG`, `lsl:source_id=abc123`, or several with & between.

Channel labels, units and the nominal rate are checked where the stream has them. Time stamps are the sender's, moved to
this machine's monotonic clock: the offset is measured when the stream is found and followed slowly, so that no
correction looks like a gap. The library says nothing of samples that were lost, so steps of the stamps are counted here
(`gaps`, `missed_samples`); a sender that stamps late by more than half a period looks like that too. Where the loop is
slow the oldest samples are dropped, counted, and the hole is marked by a new stream; so is the time in which the sender
was away.
"""

from __future__ import annotations

import contextlib
from time import monotonic, monotonic_ns
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_edge.contract import Contract
from sattn_edge.errors import RecordingError, SourceLostError, UnavailableError, UsageError
from sattn_edge.recording_base import check_rate, check_units, map_channels
from sattn_edge.windows import GAP_PERIODS
from sattn_runtime.sources.base import Chunk, SourceOptions, StreamStart
from sattn_runtime.sources.live import MOST_SAMPLES, LiveSource
from sattn_runtime.sources.optional import load_package
from sattn_runtime.sources.uri import parse_options

_OPTIONS = {"name": "", "type": "", "source_id": ""}
_FIND_S = 5.0
_POLL_S = 0.2  # a pull can't be woken: what a close waits for at most
_MOST_AT_ONCE = 1024
_BUFFER_S = 10
_OFFSET_EVERY_S = 5.0
_OFFSET_SLEW = 1e-3  # seconds a second; far below the tolerance of a rate


class Clock:
    """The offset from the sender's clock to ours, in seconds, followed at most as fast as `_OFFSET_SLEW`."""

    def __init__(self, offset_s: float, now_s: float) -> None:
        self.offset_s, self._at_s = offset_s, now_s

    def due(self, now_s: float) -> bool:
        """Whether it is time to measure again."""
        return now_s - self._at_s >= _OFFSET_EVERY_S

    def follow(self, measured_s: float, now_s: float) -> None:
        """Takes a new measurement."""
        most = _OFFSET_SLEW * (now_s - self._at_s)
        self.offset_s += min(max(measured_s - self.offset_s, -most), most)
        self._at_s = now_s


class LslSource(LiveSource):
    """One stream of one outlet; another one when it comes back after it was away."""

    def __init__(self, lsl: ModuleType, predicate: str, contract: Contract, options: SourceOptions) -> None:
        self._lsl, self._predicate, self._contract = lsl, predicate, contract
        self._reconnect_s = options.reconnect_s
        self._inlet: Any = None
        self._columns: list[int] | None = None
        self._last_s: float | None = None
        info = self._find(_FIND_S)
        if info is None:
            todo = "see that it runs in this network; a file named by LSLAPICFG can list its host under KnownPeers"
            raise UnavailableError(f"lsl:{predicate}", f"no stream answered within {_FIND_S:g} s", "a stream", todo)
        super().__init__(info.name(), most_samples=MOST_SAMPLES, drop=True)
        try:
            start = self._open(info)
        except (lsl.util.LostError, lsl.util.TimeoutError) as error:
            found = f"answered, and could not be read ({str(error) or type(error).__name__})"
            todo = "see that it still runs, and that no firewall is in between"
            raise UnavailableError(f"lsl stream '{info.name()}'", found, "a stream", todo) from error
        self.start()
        self.give(start)

    def _find(self, timeout_s: float) -> Any:
        found = self._lsl.resolve_bypred(self._predicate, 1, timeout_s)
        return found[0] if found else None

    def _open(self, found: Any) -> StreamStart:
        """Connects. Raises RecordingError where the stream is not the contract's."""
        # recover=False: the library would reconnect in silence, and a hole would be nobody's.
        inlet = self._lsl.StreamInlet(found, max_buflen=_BUFFER_S, recover=False)
        info = inlet.info(_FIND_S)
        subject = f"lsl stream '{info.name()}'"
        notes = self._check(info, subject)
        inlet.open_stream(_FIND_S)
        self._clock = Clock(inlet.time_correction(_FIND_S), monotonic())
        self._inlet, self._last_s = inlet, None
        return StreamStart(info.name(), None, notes)

    def _check(self, info: Any, subject: str) -> tuple[str, ...]:
        if info.channel_format() == self._lsl.cf_string:
            raise RecordingError(subject, "has text", "numbers")
        labels, units = info.get_channel_labels(), info.get_channel_units()
        if labels and any(labels):
            names = [label or "" for label in labels]
            channels = map_channels(names, self._contract, subject)
            check_units([unit or "" for unit in units or [""] * len(names)], channels, self._contract, subject)
            self._columns, notes = list(channels.columns), channels.notes(subject)
        elif info.channel_count() == self._contract.modal:
            self._columns, notes = None, ()
        else:
            found = f"has {info.channel_count()} channels without labels"
            raise RecordingError(subject, found, f"{self._contract.modal}, or labels")
        rate_hz = info.nominal_srate()
        if rate_hz:
            check_rate(rate_hz, "nominal rate", self._contract, subject)
            return notes
        return (*notes, f"{subject}: says nothing of its rate; the contract's is taken for it")

    def _read_peer(self) -> None:
        try:
            while not self.stopping:
                try:
                    self._read_inlet()
                except self._lsl.util.LostError:
                    self._wait_for_stream()
        finally:
            self._inlet = None  # the library closes it with its last reference

    def _read_inlet(self) -> None:
        while True:
            first, stamp = self._inlet.pull_sample(0.0 if self.stopping else _POLL_S)
            if first is None:
                if self.stopping:
                    return
                continue
            arrival_ns = monotonic_ns()
            more, stamps = self._inlet.pull_chunk(0.0, _MOST_AT_ONCE)
            self._give_samples([first, *more], np.array([stamp, *stamps]), arrival_ns)
            if self.stopping:
                return

    def _give_samples(self, rows: list[list[float]], stamps: NDArray[np.float64], arrival_ns: int) -> None:
        table = np.asarray(rows)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and is dealt with as such
            samples = np.ascontiguousarray(table if self._columns is None else table[:, self._columns], np.float32)
        self._count_gaps(stamps)
        now_s = arrival_ns / 1e9
        if self._clock.due(now_s):
            # What was read must be given, whatever becomes of the stream: the next pull tells.
            with contextlib.suppress(self._lsl.util.LostError, self._lsl.util.TimeoutError):
                self._clock.follow(self._inlet.time_correction(_POLL_S), now_s)
        finite = bool(np.isfinite(samples).all())
        self.give(Chunk(samples, arrival_ns, 0, stamps + self._clock.offset_s, finite))

    def _count_gaps(self, stamps: NDArray[np.float64]) -> None:
        before = stamps[:1] if self._last_s is None else [self._last_s]
        periods = np.diff(stamps, prepend=before) * self._contract.rate_hz
        self._last_s = float(stamps[-1])
        wide = periods[periods > GAP_PERIODS]
        if len(wide):
            self.counted["gaps"] += len(wide)
            self.counted["missed_samples"] += int(np.rint(wide - 1).sum())

    def _wait_for_stream(self) -> None:
        """Finds it again. Raises SourceLostError when it was away for too long."""
        self._inlet = None
        until = monotonic() + self._reconnect_s
        while not self.stopping:
            found = self._find(_POLL_S)
            if found is not None:
                try:
                    start = self._open(found)
                except (self._lsl.util.LostError, self._lsl.util.TimeoutError):
                    found = None  # it was the old one's last answer
            if found is not None:
                self.counted["reconnects"] += 1
                self.give(start)
                return
            if monotonic() > until:
                allowed = f"--reconnect-s {self._reconnect_s:g}"
                raise SourceLostError(f"lsl stream '{self.name}'", "was lost and did not come back", allowed)


def open_source(rest: str, contract: Contract, options: SourceOptions) -> LslSource:
    """Finds the stream and connects to it.

    Raises:
        UsageError: nothing to find it by.
        UnavailableError: no such stream answers, or pylsl or its library is missing.
        RecordingError: its channels, units or rate are not the contract's.
    """
    subject = f"source 'lsl:{rest}'"
    given = {key: value for key, value in parse_options(rest, _OPTIONS, subject).items() if value}
    if not given:
        raise UsageError(subject, "says not which stream", "lsl:name=IMU, lsl:type=EEG or lsl:source_id=ID")
    bad = next((value for value in given.values() if "'" in value), None)
    if bad is not None:
        raise UsageError(subject, f"has a quote in {bad}", "names without '")
    predicate = " and ".join(f"{key}='{value}'" for key, value in given.items())
    return LslSource(load_package("pylsl", "lsl", subject), predicate, contract, options)
