"""`--metrics [HOST:]PORT`: what a run is at, for Prometheus. Needs the extra `metrics`.

Only this machine can read it unless another address is named. The loop's part is one fold of its latency a second; the
rest is done when somebody asks, on the server's thread.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from threading import Thread
from typing import TYPE_CHECKING, Any

from sattn_edge.errors import UnavailableError, UsageError
from sattn_runtime.decision import Decision
from sattn_runtime.latency import QUANTILES
from sattn_runtime.observer import Observer

if TYPE_CHECKING:
    from sattn_runtime.run_result import RunResult

_LOOPBACK = "127.0.0.1"
_FOLD_NS = 1_000_000_000
# Edges of the histogram in seconds: 1, 2, 5 from ten microseconds to ten seconds.
_EDGES_S = [digit * 10.0**power for power in range(-5, 1) for digit in (1, 2, 5)] + [10.0]


def parse_address(text: str) -> tuple[str, int]:
    """`9101`, `0.0.0.0:9101`, `[::1]:9101` as host and port.

    Raises:
        UsageError: it is something else.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else _LOOPBACK
    if not (host and port.isascii() and port.isdigit() and 0 <= int(port) <= 65535):
        raise UsageError("--metrics", f"got '{text}'", "PORT, or HOST:PORT; without a host only this machine reads it")
    return host, int(port)


class Metrics(Observer):
    """Serves a run's counts and latency as text. `port` is the one that is listened on, also where 0 was asked for."""

    def __init__(self, address: str, tell: Callable[[str], None]) -> None:
        """Raises UsageError for an address that is none, UnavailableError without prometheus-client."""
        self._host, self.port = parse_address(address)
        self._tell = tell
        self._labels: dict[str, int] = {}
        self._folded_ns = 0
        self._result: RunResult | None = None
        self._server: tuple[Any, Thread] | None = None
        _client()

    def begin(self, result: RunResult) -> None:
        """Listens. Raises UsageError where nobody may listen there."""
        client = _client()
        self._labels = dict.fromkeys(result.contract.labels, 0)
        self._result = result
        registry = client.CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server = client.start_http_server(self.port, self._host, registry)
        except OSError as error:
            where = f"'{self._host}:{self.port}'"
            raise UsageError("--metrics", f"{where} can't be listened on ({error.strerror or error})") from error
        asked, self.port = self.port, self._server[0].server_port
        if not asked:
            self._tell(f"note: metrics are served on port {self.port}")
        if not _is_loopback(self._host):
            self._tell(f"note: metrics can be read by whoever reaches {self._host}:{self.port}")

    def window(self, stream: str, decision: Decision, emit_ns: int, done_ns: int) -> None:  # noqa: ARG002
        """Counts its label."""
        if decision.label is not None:
            self._labels[decision.label] += 1

    def tick(self, now_ns: int) -> None:
        """Lets what is asked for be at most a second old."""
        if self._result is not None and now_ns - self._folded_ns >= _FOLD_NS:
            self._folded_ns = now_ns
            self._result.latency.fold()

    def end(self) -> None:
        """Listens no more."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join()

    def collect(self) -> Iterator[Any]:
        """What Prometheus asks for, on the server's thread. The loop may go on counting meanwhile."""
        result = self._result
        if result is None:
            return
        yield from self._counts(result)
        yield from _latency(result)
        yield from _journal(result)

    def _counts(self, result: RunResult) -> Iterator[Any]:
        core, info, totals = _core(), result.engine.info, result.totals()
        about = {"model": result.options.model, "backend": info.backend, "precision": info.precision}
        yield core.InfoMetricFamily("sattn", "What runs.", {**about, "graph_digest": info.graph_digest})
        yield core.CounterMetricFamily("sattn_windows", "Windows decided or unjudged.", totals.pop("windows"))
        yield core.CounterMetricFamily("sattn_unjudged", "Windows without a decision.", totals.pop("unjudged"))
        yield core.CounterMetricFamily("sattn_gaps", "Holes in the streams.", totals.pop("gaps"))
        yield core.CounterMetricFamily("sattn_streams", "Streams begun.", result.streams)
        yield _labelled(core.CounterMetricFamily, "sattn_decisions", "Windows by their label.", "label", self._labels)
        yield core.CounterMetricFamily("sattn_samples_in", "Samples taken in.", totals.pop("in"))
        waiting = totals.pop("waiting")
        yield core.GaugeMetricFamily("sattn_samples_waiting", "Samples that may yet be in a window.", waiting)
        fates = {kind: float(number) for kind, number in totals.items()}
        yield _labelled(core.CounterMetricFamily, "sattn_samples", "Samples by what became of them.", "fate", fates)


def _latency(result: RunResult) -> Iterator[Any]:
    core, latency = _core(), result.latency
    cumulative = latency.total.cumulative([round(edge * 1e9) for edge in _EDGES_S])
    edges = [*(f"{edge:g}" for edge in _EDGES_S), "+Inf"]
    family = core.HistogramMetricFamily("sattn_latency_seconds", "From due to done.")
    family.add_metric([], list(zip(edges, cumulative, strict=True)), latency.total.total_ns / 1e9)
    yield family
    family = core.GaugeMetricFamily(
        "sattn_stage_seconds", "Quantiles of the whole run, by stage.", labels=["stage", "quantile"]
    )
    for stage, histogram in {**latency.stages, "total": latency.total}.items():
        for q in QUANTILES.values():
            family.add_metric([stage, f"{q:g}"], histogram.quantile_ns(q) / 1e9)
        family.add_metric([stage, "1"], histogram.max_ns / 1e9)
    yield family
    yield core.GaugeMetricFamily("sattn_deadline_seconds", "What counts as a miss.", latency.deadline_ns / 1e9)
    yield core.CounterMetricFamily("sattn_deadline_misses", "Windows later than the deadline.", latency.misses)
    stall = latency.longest_stall_ns / 1e9
    yield core.GaugeMetricFamily("sattn_longest_stall_seconds", "Longest time without a decision, less one hop.", stall)


def _journal(result: RunResult) -> Iterator[Any]:
    core, journal = _core(), result.recorder.journal
    if journal is not None:
        yield core.CounterMetricFamily("sattn_journal_lines", "Lines given to the journal.", journal.lines)
        yield core.GaugeMetricFamily("sattn_journal_missing_lines", "Of them, not in the file.", journal.missing)
        yield core.GaugeMetricFamily("sattn_journal_suspended", "1 while the disk takes nothing.", journal.suspended)


def _labelled(family_of: Any, name: str, help_text: str, label: str, values: dict[str, Any]) -> Any:
    family = family_of(name, help_text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _client() -> Any:
    try:
        import prometheus_client
    except ImportError as error:
        raise UnavailableError(
            "--metrics", "prometheus-client is not installed", todo="install it: pip install 'sattn-edge[metrics]'"
        ) from error
    return prometheus_client


def _core() -> Any:
    from prometheus_client import core

    return core
