"""Small graphs, and compilations of them in this process, on the fake device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from sattn_edge.lowering import FORMS
from sattn_runtime.tensorrt.compiler import compile_job
from sattn_runtime.tensorrt.job import Job, Message, Outcome, Profile
from tests.helpers_lowering import Layer, Network
from tests.sattn_runtime.tensorrt.helpers_engines import lowered
from tests.sattn_runtime.tensorrt.helpers_tensorrt import RELEASES

NETWORK = Network((Layer(8), Layer(16), Layer(8)), series=32, modal=3)
FIRST, *REST = RELEASES  # 8.6 knows no strongly typed graphs
BACKENDS = [*(("tensorrt", release) for release in RELEASES), ("tensorrt-rtx", "")]
RANGE = Profile(1, 2, 4)
ROOM = 1 << 28


@cache
def graph(form: str = "gemm", precision: str = "fp32", *, typed: bool = True, ranged: bool = False) -> ModelProto:
    """NETWORK as it is given to a compiler; INT8 in all blocks but the first."""
    assert form in FORMS
    return lowered(NETWORK, form, precision, typed=typed, ranged=ranged).model


def made_of(operator: str, domain: str = "") -> ModelProto:
    """A graph of one node `odd` with an operator nobody has, or is not to have."""
    node = helper.make_node(operator, ["window"], ["logits"], name="odd", domain=domain)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("window", "logits")]
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(helper.make_graph([node], "one", ends[:1], ends[1:]), opset_imports=opsets, ir_version=8)


@dataclass
class Bench:
    """A folder to compile in. `told` are the messages of the last compilation, without its outcome."""

    folder: Path
    told: list[Message] = field(default_factory=list)

    @property
    def plan(self) -> Path:
        return self.folder / "engine.plan"

    def compile(self, model: ModelProto | bytes, backend: str = "tensorrt", **more: object) -> Outcome:
        """`compile_job` on a graph. more: fields of Job."""
        path = self.folder / "graph.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        self.plan.unlink(missing_ok=True)
        self.told = []
        options = {"workspace_bytes": ROOM, **more}
        return compile_job(Job(backend, str(path), str(self.plan), **options), self.told.append)  # type: ignore[arg-type]


@dataclass
class Heard:
    """A watcher that keeps all it hears. at_alive: called at each sign of life."""

    events: list[tuple[object, ...]] = field(default_factory=list)
    at_alive: Callable[[], None] | None = None

    def begins(self, what: str) -> None:
        self.events.append(("begins", what))

    def phase(self, name: str, parent: str, steps: int) -> None:
        self.events.append(("phase", name, parent, steps))

    def step(self, name: str, step: int) -> None:
        self.events.append(("step", name, step))

    def alive(self, what: str, seconds: float) -> None:
        self.events.append(("alive", what, seconds))
        if self.at_alive is not None:
            self.at_alive()

    def ends(self, what: str) -> None:
        self.events.append(("ends", what))

    def doing(self, what: str) -> None:
        self.events.append(("doing", what))

    def kinds(self) -> list[object]:
        return [event[0] for event in self.events]
