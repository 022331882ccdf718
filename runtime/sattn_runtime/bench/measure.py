"""The benchmark itself: engines opened, lanes given their turns, what the device did meanwhile.

    load -> open every engine (cold) -> warm up -> context -> rounds of turns in an order drawn anew -> context

Because the turns of all configurations are spread over the whole run, what disturbs the device disturbs all alike, and
ratios between them hold even where times do not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from time import monotonic_ns
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from sattn_edge.engine import BACKENDS, Engine, EngineOptions, check_backend, open_engine
from sattn_edge.model_file import ModelFile, load_model_file
from sattn_edge.plan_names import OFF
from sattn_runtime.bench.compare import Plan, Planned, check_context, check_plan, compare
from sattn_runtime.bench.context import gauges, read_context
from sattn_runtime.bench.feed import load_samples
from sattn_runtime.bench.gauges import Gauge, Sampler
from sattn_runtime.bench.lane import Lane
from sattn_runtime.bench.options import ROUNDS, BenchOptions, Configuration, check, configurations
from sattn_runtime.bench.results import Bench, Cold, engine_row
from sattn_runtime.bench.summary import Run, Setting, summarise
from sattn_runtime.bench.tegrastats_meter import Meter, meter
from sattn_runtime.doctor.tree import Tree
from sattn_runtime.stop import Stop

if TYPE_CHECKING:
    from sattn_runtime.plans import Chosen

_WARM_UP = 8
_NS = 1_000_000_000
Progress = Callable[[str, int, int], None]  # (what is measured, turn, turns)


@dataclass(frozen=True, eq=False)
class Opened:
    """An engine and how long it took to have it and its first logits."""

    engine: Engine
    cold: Cold


@dataclass(frozen=True)
class Share:
    """What a lane gets in one round: so many hops, or so many seconds where None."""

    hops: int | None
    seconds: float


def bench(
    options: BenchOptions,
    *,
    stop: Stop,
    tell: Callable[[str], None],
    progress: Progress | None = None,
    like: tuple[str, Bench] | None = None,
) -> Bench:
    """Measures every configuration in every mode.

    Args:
        options: what to measure.
        stop: asked after every hop; what was measured by then is reported.
        tell: takes what a person must know, a line at a time.
        progress: called before each turn.
        like: name and data of an earlier run to compare with; checked before anything slow starts.

    Raises:
        UsageError, ModelFileError, RecordingError, UnavailableError, DigestError: nothing was measured.
        QualityError: the earlier run was measured in another context.
    """
    check(options)
    for backend in options.backends:
        check_backend(backend)
    model = load_model_file(options.model)
    samples, source = load_samples(model, options.data)
    tree = Tree(options.root)
    if like is not None:
        check_context(read_context(tree), like[1], like[0])
    opened: dict[tuple[str, str, int], Opened] = {}
    try:
        lanes = _lanes(options, model, samples, opened)
        for one in opened.values():
            for note in one.engine.info.notes:
                tell(f"note: {note}")
        if like is not None:
            check_plan(_plan(options, model, lanes), like[1], like[0])
        setting = Setting(options, model, source, tree)
        cold = {id(one.engine): one.cold for one in opened.values()}
        result = summarise(_run(setting, lanes, cold, stop, progress))
    finally:
        for one in opened.values():
            one.engine.close()
    if like is None:
        return result
    return msgspec.structs.replace(result, comparison=compare(result, like[1], like[0]))


def _lanes(
    options: BenchOptions,
    model: ModelFile,
    samples: NDArray[np.float32],
    opened: dict[tuple[str, str, int], Opened],
) -> list[Lane]:
    """A lane for each configuration and mode, warm; `opened` takes the engines, which configurations share."""
    period_ns = _NS / (model.contract.rate_hz * options.speed)
    lanes: list[Lane] = []
    for configuration in configurations(options, model.contract):
        engine = _engine(configuration, options, model, opened)
        chosen = _choose(configuration, options, model, engine)
        configuration = replace(configuration, plan=chosen.plan)
        if any(lane.configuration == configuration for lane in lanes):
            continue  # two ways to ask for one plan
        hop_ns = configuration.hop * period_ns
        deadline_ns = round(hop_ns if options.deadline_ms is None else options.deadline_ms * 1e6)
        for mode in options.modes:
            lanes.append(Lane(configuration, mode, engine, samples, period_ns, deadline_ns, chosen.steps))
            lanes[-1].warm_up(_WARM_UP)
    return lanes


def _choose(configuration: Configuration, options: BenchOptions, model: ModelFile, engine: Engine) -> Chosen:
    """How windows are inferred: those of several sensors in one call are whole."""
    from sattn_runtime.plans import choose_plan

    asked = configuration.plan if configuration.batch == 1 else OFF
    return choose_plan(model, engine.info, options.attention, configuration.hop, asked)


def _engine(
    configuration: Configuration,
    options: BenchOptions,
    model: ModelFile,
    opened: dict[tuple[str, str, int], Opened],
) -> Engine:
    key = (configuration.backend, configuration.precision, configuration.threads)
    if key not in opened:
        importlib.import_module(BACKENDS[configuration.backend].partition(":")[0])  # is no part of a load
        began = monotonic_ns()
        wanted = EngineOptions(configuration.precision, configuration.threads, options.attention)
        engine = open_engine(model, configuration.backend, wanted)
        loaded = monotonic_ns()
        opened[key] = Opened(engine, Cold(0.0, 0.0))  # so that it is closed, whatever comes
        engine.infer(model.golden.x[:1])
        cold = Cold(round((loaded - began) / 1e6, 3), round((monotonic_ns() - loaded) / 1e6, 3))
        opened[key] = Opened(engine, cold)
    return opened[key].engine


def _plan(options: BenchOptions, model: ModelFile, lanes: list[Lane]) -> Plan:
    rows = [(lane.configuration, lane.mode, engine_row(lane.engine.info)) for lane in lanes]
    planned = tuple(Planned(c.name, mode, c.batch, c.hop, engine) for c, mode, engine in rows)
    contract = model.contract
    return Plan(contract.window, contract.modal, contract.rate_hz, options.speed, planned)


def _run(setting: Setting, lanes: list[Lane], cold: dict[int, Cold], stop: Stop, progress: Progress | None) -> Run:
    tree = setting.tree
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    watched = gauges(tree)
    before, told = read_context(tree), monotonic_ns()
    began = monotonic_ns()
    with Sampler(tree, watched) as sampler, _meter(tree, watched) as other:
        _rounds(setting.options, lanes, stop, progress)
    ended = monotonic_ns()
    after = read_context(tree)
    return Run(
        setting=setting,
        lanes=tuple(lane for lane in lanes if lane.latency.total.count),
        cold=cold,
        before=before,
        after=after,
        between_s=(monotonic_ns() - told) / 1e9,
        track=sampler.track(),
        metered=other.readings(),
        started=started,
        began_ns=began,
        ended_ns=ended,
        stopped=stop.asked,
        unmeasured=tuple(f"{x.configuration.name}, {x.mode}" for x in lanes if not x.latency.total.count),
    )


def _meter(tree: Tree, watched: list[Gauge]) -> Meter:
    """tegrastats, where the board has it and no files tell its power."""
    return meter(wanted=tree.live and not any(gauge.kind in ("watt", "volt") for gauge in watched))


def _rounds(options: BenchOptions, lanes: list[Lane], stop: Stop, progress: Progress | None) -> None:
    """Every lane has its share of each round, in an order drawn anew."""
    shares = [share_out(options, lane) for lane in lanes]
    rng = np.random.default_rng(0)
    turn, turns = 0, sum(len(share) for share in shares)
    for i in range(ROUNDS):
        for place in rng.permutation(len(lanes)):
            lane, share = lanes[place], shares[place]
            if i >= len(share) or stop.asked:
                continue
            turn += 1
            if progress is not None:
                progress(f"{lane.configuration.name}, {lane.mode}", turn, turns)
            lane.turn(hops=share[i].hops, seconds=share[i].seconds, stop=stop)


def share_out(options: BenchOptions, lane: Lane) -> list[Share]:
    """What a lane gets in each round: whole hops, and at least one; few hops are few rounds."""
    if options.windows is not None:
        hops = -(-options.windows // lane.configuration.batch)
    elif lane.mode == "paced":
        hops = max(1, round(options.seconds * _NS / lane.hop_ns))
    else:
        return [Share(None, options.seconds / ROUNDS)] * ROUNDS
    rounds = min(ROUNDS, hops)
    return [Share(hops * (i + 1) // rounds - hops * i // rounds, 0.0) for i in range(rounds)]
