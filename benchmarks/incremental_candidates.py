"""What `incremental.py` gives turns to: whole windows, plans, streams in one batch, and a step's bare products."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "calibration"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

from benchmarks.incremental_others import Infer, others
from benchmarks.precision import placement_from
from sattn_edge.engine_onnxruntime import session
from sattn_edge.graph import Graph
from sattn_edge.incremental import NotIncremental, Step
from sattn_edge.incremental.engine import Phase, StepEngine, bind
from sattn_edge.incremental.lower_step import lower_step, plans_of
from sattn_edge.lowering import FORMS, Target, lower
from sattn_runtime.incremental import Incremental
from sattn_runtime.timing import time_calls
from tests.helpers_lowering import Layer, Network, build, windows
from tests.helpers_steps import step_over

Call = Callable[[], object]

WIDTHS = (64, 128, 256, 512)
BATCHES = (1, 4, 8)
_CLASSES = 6
_HOPS = 512  # in the signal
_COMPARED, _COMPARED_BATCH = 100, 12  # windows
_CHOOSING = 3  # rounds


@dataclass(frozen=True)
class Setting:
    """Windows [window, modal] every `hop` samples."""

    window: int
    modal: int
    hop: int


@dataclass(frozen=True, eq=False)
class Candidate:
    """What takes its turn. call: one window, or one of each stream; products: a step's alone; against: of the error."""

    plan: str
    precision: str
    call: Call | None
    multiply_adds: int | None = None
    error: float | None = None
    against: str = "plain"
    streams: int = 1
    products: Call | None = None
    note: str = ""


class Bench:
    """One configuration: the network, its INT8 choices from noise, and a signal [samples, modal]."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        network = Network(tuple(Layer(width) for width in WIDTHS), setting.window, setting.modal, _CLASSES)
        self.model = build(network, np.float32)
        self.placement = placement_from(self.model, windows(network, 4).astype(np.float32))
        shape = (setting.window + _HOPS * setting.hop, setting.modal)
        self.signal = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        self.plain = whole(self.model)
        self.wanted = {"plain": self._over(self.plain, _COMPARED)}
        self.scale = np.abs(self.wanted["plain"]).max()

    def target(self, form: str, precision: str) -> Target:
        """What to lower for."""
        return Target("onnxruntime", form, precision, placement=self.placement if precision == "int8" else None)

    def walk(self) -> Iterator[NDArray[np.float32]]:
        """The signal's windows [1, 1, window, modal] without end; behind the last one it begins anew."""
        while True:
            for begin in range(0, len(self.signal) - self.setting.window, self.setting.hop):
                yield self.signal[None, None, begin : begin + self.setting.window]

    def on_walk(self, infer: Infer) -> Call:
        """The next window at each call."""
        walk = self.walk()
        return lambda: infer(next(walk))

    def candidates(self) -> Iterator[Candidate]:
        """Whole windows, then the plans."""
        found = plans_of(self.model, self.setting.hop)
        if isinstance(found, NotIncremental):
            raise SystemExit(f"no plan: {found}")
        full = found.full_multiply_adds
        yield Candidate("plain", "fp32", self.on_walk(self.plain), full, 0.0)
        for precision in ("fp32", "int8"):
            yield self._best_whole(precision, full)
        gemm = whole(lower(self.model, self.target("gemm", "int8")).model)
        self.wanted["int8 gemm"] = self._over(gemm, _COMPARED)
        for precision, against in (("fp32", "plain"), ("int8", "int8 gemm")):
            for plan, row in found.plans.items():
                step = lower_step(self.model, self.setting.hop, plan, self.target("gemm", precision))
                engine = StepEngine(step, "benchmark")
                away = self._away(self._over(stepping(engine, self.setting.hop), _COMPARED), against)
                call = self.on_walk(stepping(engine, self.setting.hop))
                yield Candidate(plan, precision, call, row.multiply_adds, away, against, 1, products(step))
        for plan, reason in found.reasons.items():
            yield Candidate(plan, "-", None, note=reason)

    def batches(self) -> Iterator[Candidate]:
        """Several streams whose steps coincide, in plan `stateful`."""
        found = plans_of(self.model, self.setting.hop)
        if isinstance(found, NotIncremental) or found.phases > 1 or "stateful" not in found.plans:
            return
        adds = found.plans["stateful"].multiply_adds
        for precision, against in (("fp32", "plain"), ("int8", "int8 gemm")):
            form = "reference" if precision == "fp32" else "gemm"
            infer = whole(lower(self.model, self.target(form, precision)).model)
            for count in BATCHES:
                step = lower_step(self.model, self.setting.hop, "stateful", self.target("gemm", precision), count)
                beside = Beside(step, self.signal)
                away = self._away_beside(step, beside, infer)
                name = f"stateful x{count}"
                yield Candidate(name, precision, beside.step, adds, away, against, count, products(step))

    def others(self) -> Iterator[Candidate]:
        """Other runtimes, on the whole window unless they say otherwise."""
        for other in others(self.model, self.setting.hop):
            if other.infer is None:
                yield Candidate(other.name, "fp32", None, note=other.note)
                continue
            away = self._away(self._over(other.infer, _COMPARED), "plain")
            call = self.on_walk(other.infer)
            yield Candidate(other.name, "fp32", call, error=away, note=other.note)

    def _best_whole(self, precision: str, multiply_adds: int) -> Candidate:
        runs = [whole(lower(self.model, self.target(form, precision)).model) for form in FORMS]
        took = medians([self.on_walk(run) for run in runs], _CHOOSING)
        best = int(np.argmin(took))
        away = self._away(self._over(runs[best], _COMPARED), "plain")
        call = self.on_walk(runs[best])
        return Candidate("full", precision, call, multiply_adds, away, note=f"form {FORMS[best]}")

    def _over(self, infer: Infer, count: int) -> NDArray[np.float64]:
        """The logits of the signal's first windows [count, classes], NaN where there are none yet."""
        walk, rows = self.walk(), []
        for _ in range(count):
            got = infer(next(walk))
            rows.append(np.full(_CLASSES, np.nan) if got is None else np.array(got[0], np.float64))
        return np.array(rows)

    def _away(self, got: NDArray[np.float64], against: str) -> float:
        """The largest difference, of the logit scale."""
        return float(np.nanmax(np.abs(got - self.wanted[against][: len(got)])) / self.scale)

    def _away_beside(self, step: Step, beside: Beside, infer: Infer) -> float:
        names = [row.name for row in step.model.graph.output]
        setting, worst = self.setting, 0.0
        until = setting.window + _COMPARED_BATCH * setting.hop
        for begin, logits in step_over(
            step, beside.signals[:, :until], 0, setting.hop, lambda feed: beside.run.run(names, feed)
        ):
            for signal, got in zip(beside.signals, logits, strict=True):
                wanted = infer(signal[None, None, begin : begin + setting.window])
                worst = max(worst, float(np.abs(got - wanted).max()))
        return worst / float(self.scale)


def stepping(engine: StepEngine, hop: int) -> Infer:
    """A stream, which has to be given its windows in order."""
    stream, stamps = Incremental(engine, hop), [0, 0, 0]
    return lambda window: stream.infer(window[0, 0], stamps)[None]


class Beside:
    """Several streams in one step, each some samples further in the signal."""

    def __init__(self, step: Step, signal: NDArray[np.float32]) -> None:
        engine = StepEngine(step, "benchmark")
        self.run = engine.session
        self.signals = np.stack([np.roll(signal, 1000 * i, axis=0) for i in range(step.streams)])
        self._samples = np.zeros((step.streams, 1, step.plan.samples, step.plan.chain.modal), np.float32)
        self._phase = Phase(engine, self._samples, np.zeros((step.streams, _CLASSES), np.float32))
        self._advance, self._begin = step.plan.advance, 0

    def step(self) -> None:
        """The next hop of every stream."""
        end = self._begin + self._samples.shape[2]
        self._samples[:, 0] = self.signals[:, self._begin : end]
        self._phase.step()
        self._begin = self._begin + self._advance if end + self._advance <= self.signals.shape[1] else 0


def whole(model: ModelProto) -> Infer:
    """A graph of whole windows."""
    run = session(model.SerializeToString(), "benchmark")
    name = run.get_inputs()[0].name

    def infer(window: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = run.run(None, {name: window})[0]
        return logits

    return infer


def products(step: Step) -> Call:
    """The products of a step's layers with nothing between them: what any step that is written as products takes."""
    graph, made = Graph(step.model), [NodeProto() for _ in step.plan.stages]
    nodes, inputs, outputs, arrays = list[NodeProto](), [], [], list[tuple[Any, Any]]()
    gemms = {node.name: node for node in step.model.graph.node if node.op_type == "Gemm"}
    rng = np.random.default_rng(0)
    for layer, stage, node in zip(step.plan.chain.layers, step.plan.stages, made, strict=True):
        node.CopyFrom(gemms[layer.name])
        before = [graph.producers[name] for name in node.input if name in graph.producers]
        dequantized = [one for one in before if one.op_type == "DequantizeLinear"]
        rows, source, weight = len(stage.taps) * step.plan.chain.modal * step.streams, node.input[0], node.input[1]
        element = TensorProto.FLOAT
        if weight not in graph.initializers:  # in INT8 all three come of a DequantizeLinear
            source, weight, element = dequantized[0].input[0], dequantized[1].input[0], TensorProto.UINT8
            nodes += dequantized
        deep, wide = graph.initializers[weight].dims
        nodes.append(node)
        inputs.append(helper.make_tensor_value_info(source, element, [rows, deep]))
        outputs.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [rows, wide]))
        matrix = rng.integers(0, 256, (rows, deep)) if element == TensorProto.UINT8 else rng.normal(size=(rows, deep))
        dtype = helper.tensor_dtype_to_np_dtype(element)
        arrays.append((matrix.astype(dtype), np.zeros((rows, wide), np.float32)))
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in step.model.graph.initializer if tensor.name in used]
    bare = helper.make_graph(nodes, "products", inputs, outputs, weights)
    opsets, version = step.model.opset_import, step.model.ir_version
    run = session(helper.make_model(bare, opset_imports=opsets, ir_version=version).SerializeToString(), "products")
    binding = bind(run, [pair[0] for pair in arrays], [pair[1] for pair in arrays])
    return lambda: (run.run_with_iobinding(binding), arrays)  # with the arrays, which have to live as long


def medians(calls: Sequence[Call], rounds: int) -> NDArray[np.float64]:
    """The median of each, in ms."""
    times: NDArray[np.float64] = np.median(time_calls(calls, rounds), axis=(1, 2))
    return times / 1e3
