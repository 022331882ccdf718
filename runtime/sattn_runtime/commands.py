"""`sattn-run` and `sattn-verify`. Each parses, makes one library call, prints."""

from __future__ import annotations

import contextlib
import gc
import os
from typing import TYPE_CHECKING, Annotated

import typer

from sattn_edge.command import new_app, print_json, print_lines, run_app, tell
from sattn_edge.errors import QualityError, UsageError
from sattn_runtime.options import (
    AbstainBelow,
    Attention,
    Backend,
    Dwell,
    Gap,
    Hysteresis,
    Json,
    ModelArgument,
    Monitor,
    Overload,
    Precision,
    Queue,
    Reorder,
    Resample,
    Threads,
)

if TYPE_CHECKING:
    from sattn_runtime.observer import Observer


def _run(
    model: ModelArgument,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="replay:FILE (.npz, .csv, FILE#NAME), mcap:FILE, serial:PORT, mqtt://HOST/TOPIC, lsl:name=NAME, "
            "or - for CSV rows on stdin. Several share the engine.",
        ),
    ],
    hop: Annotated[int | None, typer.Option(help="Samples from one window to the next (the contract's).")] = None,
    speed: Annotated[str, typer.Option(help="Pace of a replay: max, or a factor (1.0 is real time).")] = "max",
    journal: Annotated[
        str | None,
        typer.Option(help="Append decisions here, a JSON line each; - is stdout, and the report goes to stderr."),
    ] = None,
    journal_attention: Annotated[
        bool,
        typer.Option(
            "--journal-attention",
            help="Write with every window which of its moments the network looked at "
            "(of a model file exported with --attention-output).",
        ),
    ] = False,
    journal_max_mb: Annotated[
        float | None, typer.Option(help="Begin a new journal before this many millions of bytes.")
    ] = None,
    journal_max_age_h: Annotated[float | None, typer.Option(help="Begin a new journal after this many hours.")] = None,
    journal_keep: Annotated[int, typer.Option(help="Rotated journals that stay: JOURNAL.1 is the newest.")] = 10,
    fsync_s: Annotated[
        float, typer.Option(help="Sync the journal so often: what a power cut can take; 0 is after every write.")
    ] = 5.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on behind the last window in the journal.")] = False,
    smooth: Annotated[int, typer.Option(help="Decide on the mean score of this many windows.")] = 1,
    hysteresis: Hysteresis = 0.0,
    dwell: Dwell = None,
    abstain_below: AbstainBelow = 0.0,
    monitor: Monitor = True,
    gap: Gap = "split",
    reorder: Reorder = None,
    resample: Resample = None,
    queue: Queue = None,
    overload: Overload = "oldest",
    backend: Backend = "onnxruntime",
    precision: Precision = "fp32",
    fallback: Annotated[
        str | None,
        typer.Option(metavar="cpu", help="Run on the CPU where the GPU or its engine is missing; the report says so."),
    ] = None,
    attention: Attention = "auto",
    threads: Threads = 1,
    incremental: Annotated[
        str,
        typer.Option(
            help="Overlapping windows share work, with the same logits: auto, off, edges or stateful. "
            "auto is what sattn-build found fastest here, else what counting clearly favours."
        ),
    ] = "auto",
    deadline_ms: Annotated[float | None, typer.Option(help="Latency that counts as a miss (one hop).")] = None,
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime", help="SCHED_FIFO, locked memory, no garbage collection; what is refused is said, not fatal."
        ),
    ] = False,
    cpu: Annotated[str | None, typer.Option(metavar="N[,N]", help="Stay on these cores.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="[HOST:]PORT", help="Serve Prometheus metrics, on this machine only by default."),
    ] = None,
    trace: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keep the latest windows' stages as a Chrome trace (JSON).")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show signal, decision and latency on the terminal while it runs.")
    ] = False,
    max_p99_ms: Annotated[float | None, typer.Option(help="Exit 5 if the 99th percentile is above this.")] = None,
    reconnect_s: Annotated[
        float, typer.Option(help="Seconds that a sensor or broker may stay away before the run ends with 8.")
    ] = 30.0,
    json_output: Json = False,
) -> None:
    """Runs a model file on a stream of samples and reports its latency.

    Ctrl-C or SIGTERM drains: what was read is decided, journalled and reported. A second Ctrl-C ends it at once.
    """
    from sattn_edge.engine import EngineOptions
    from sattn_runtime import report
    from sattn_runtime.decider import DecisionOptions
    from sattn_runtime.journal_file import JournalOptions
    from sattn_runtime.progress import progress
    from sattn_runtime.realtime import RealtimeOptions, parse_cpus
    from sattn_runtime.run import RunOptions, check_budget, run
    from sattn_runtime.sample_clock import ClockOptions
    from sattn_runtime.stop import Stop
    from sattn_runtime.stream_options import StreamOptions

    options = RunOptions(
        model=str(model),
        source=source[0],
        more_sources=tuple(source[1:]),
        hop=hop,
        speed=_speed(speed),
        smooth=smooth,
        journal=journal,
        journal_attention=journal_attention,
        watch_attention=watch,
        keep=JournalOptions(journal_max_mb, journal_max_age_h, journal_keep, fsync_s),
        resume=resume,
        backend=backend,
        engine=EngineOptions(precision, threads, attention),
        fallback=fallback,
        incremental=incremental,
        deadline_ms=deadline_ms,
        max_p99_ms=max_p99_ms,
        queue=queue,
        overload=overload,
        stream=StreamOptions(
            gap=gap,
            monitor=monitor,
            resample_hz=resample,
            clock=ClockOptions(reorder=reorder),
            decision=DecisionOptions(smooth, hysteresis, dwell, abstain_below),
        ),
        reconnect_s=reconnect_s,
        realtime=RealtimeOptions(realtime, parse_cpus(cpu)),
    )
    observers = _observers(metrics, trace, watch=watch)
    with Stop() as stop, contextlib.nullcontext() if watch else progress() as listen:
        result = run(options, tell=tell, stop=stop, listen=listen, observers=observers)
    if result.stopped:
        # The interpreter would search every object for garbage on its way out, on a busy board for a second or more.
        gc.freeze()
    if json_output:
        print_json(report.as_data(result), to_stderr=journal == "-")
    else:
        print_lines(report.as_text(result), to_stderr=journal == "-")
    result.recorder.check()
    check_budget(result)


def _observers(metrics: str | None, trace: str | None, *, watch: bool) -> list[Observer]:
    """Who looks on: what the command line asks for, and systemd where it started us."""
    from sattn_runtime.systemd import Notifier

    found: list[Observer | None] = []
    if metrics is not None:
        from sattn_runtime.metrics import Metrics

        found.append(Metrics(metrics, tell))
    if trace is not None:
        from sattn_runtime.trace import Trace

        found.append(Trace(trace, tell))
    if watch:
        from sattn_runtime.watch import Watch

        found.append(Watch())
    # Last: the service is ready when all the others are.
    found.append(Notifier.from_environment(os.environ, tell))
    return [observer for observer in found if observer is not None]


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise UsageError("--speed", f"got '{text}'", "max, or a factor above 0 (1.0 is real time)") from error


def _verify(
    model: ModelArgument,
    backend: Backend = "onnxruntime",
    precision: Precision = "fp32",
    attention: Attention = "auto",
    threads: Threads = 1,
    json_output: Json = False,
) -> None:
    """Replays a model file's golden windows on an engine. Exits 4 if the logits are not the trained network's."""
    from sattn_edge.engine import EngineOptions, check_backend
    from sattn_edge.model_file import load_model_file
    from sattn_runtime import verify

    check_backend(backend)
    result = verify.verify(load_model_file(model), backend, EngineOptions(precision, threads, attention))
    if json_output:
        print_json(verify.as_data(result))
    else:
        print_lines(verify.as_text(result))
    if not result.passed:
        raise QualityError(
            model.name,
            f"{len(result.failures)} of {result.windows} golden windows are beyond the tolerance",
            f"{result.tolerance:g} of the logit scale",
            "calibrate it again" if precision == "int8" else "export the model again, or check the engine",
        )


def run_main(args: list[str] | None = None, prog: str = "sattn-run") -> None:
    """Entry point of `sattn-run` and `sattn run`."""
    run_app(new_app(_run), prog, args)


def verify_main(args: list[str] | None = None, prog: str = "sattn-verify") -> None:
    """Entry point of `sattn-verify` and `sattn verify`."""
    run_app(new_app(_verify), prog, args)
