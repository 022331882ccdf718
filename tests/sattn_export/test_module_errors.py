"""Factories and programs that can't be used: a clear error of the documented kind, and nothing written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from sattn_edge.errors import CheckpointError, ContractError, UsageError
from tests.sattn_export.helpers_export import Bench, Case, contract_dict, make_bench, make_network, refused

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bad"))


# --- package.module:factory -----------------------------------------------------------------------------------

FACTORIES = """
import torch
from torch import nn
from sattn_edge.network import SpatialAttentionNeuralNetwork as Net

class Flat(nn.Module):
    def __init__(self, train_shape, category):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, (21, 1))
        self.fc = nn.Linear(2, category)
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

def good(train_shape, category): return Net(train_shape, category, (4, 6))
def bare(): return Net((1, 1, 32, 3), 4, (4, 6))
def needs(colour): return None
def fails(): raise RuntimeError("no such card\\nsecond line")
def leaves(): raise SystemExit(3)
def number(): return 7
class Two(Net):
    def forward(self, x): return super().forward(x), x
class Whole(Net):
    def forward(self, x): return super().forward(x).argmax(1)
class Branches(Net):
    def forward(self, x): return super().forward(x) if x.sum() > 0 else super().forward(-x)
def two(train_shape, category): return Two(train_shape, category, (4, 6))
def whole(train_shape, category): return Whole(train_shape, category, (4, 6))
def branches(train_shape, category): return Branches(train_shape, category, (4, 6))
made = bare()
constant = 3
"""


@pytest.fixture
def factories(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Any:
    (bench.folder / "my_nets.py").write_text(FACTORIES)
    (bench.folder / "my_broken.py").write_text("raise RuntimeError('at import')")
    (bench.folder / "my_exit.py").write_text("raise SystemExit(0)")
    (bench.folder / "my_syntax.py").write_text("def (:")
    monkeypatch.chdir(bench.folder)
    yield
    for name in ("my_nets", "my_broken", "my_exit", "my_syntax"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["good", "bare"])
def test_a_factory_gives_the_same_graph_as_its_state_dict(name: str, factories: Any, bench: Bench) -> None:
    wanted = bench.export().model.graph_digest
    before = list(sys.path)
    result = bench.export(f"my_nets:{name}", weights=Path("net.pt"))
    assert result.model.graph_digest == wanted
    assert result.source.kind == "factory"
    assert result.source.description == f"my_nets:{name} with net.pt"
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("my_nobody:net", r"module 'my_nobody' can't be imported \(ModuleNotFoundError: No module named 'my_nobody'\)"),
        ("my_broken:net", r"module 'my_broken' can't be imported \(RuntimeError: at import\)"),
        ("my_exit:net", r"module 'my_exit' can't be imported \(SystemExit: 0\)"),
        ("my_syntax:net", r"module 'my_syntax' can't be imported \(SyntaxError"),
        (":net", "module '' can't be imported"),
        (".my_nets:net", "module '.my_nets' can't be imported"),
        ("my_nets:goood", "module 'my_nets' has no 'goood'; did you mean 'good'"),
        ("my_nets:", "module 'my_nets' has no ''"),
        ("my_nets:constant", "is a int; a class or function that makes the network"),
        ("my_nets:made", "is a SpatialAttentionNeuralNetwork; a class or function"),
        ("my_nets:needs", r"can't be called \(TypeError: needs\(\) missing 1 required .*; a factory takes no arg"),
        ("my_nets:fails", r"can't be called \(RuntimeError: no such card\)"),
        ("my_nets:leaves", r"can't be called \(SystemExit: 3\)"),
        ("my_nets:number", "gives a int; a torch.nn.Module"),
        ("my_nets:two", r"gives a tuple; one tensor of logits \[batch, classes\]"),
        ("my_nets:whole", r"gives \[1\]; one tensor of logits"),
        ("my_nets:branches", "torch.export can't trace it"),
        ("my_nets:Flat", "net.pt: Missing key.*conv.weight.*; exactly the factory's keys"),
    ],
)  # fmt: skip
def test_factories_that_can_not_be_used(spec: str, text: str, factories: Any, bench: Bench) -> None:
    refused(bench, CheckpointError, text, spec, weights=Path("net.pt"))


def test_a_factory_needs_weights_that_are_there(factories: Any, bench: Bench) -> None:
    refused(bench, UsageError, "my_nets:good: there are no weights; .*; add --weights", "my_nets:good")
    refused(bench, CheckpointError, "nobody.pt: is not a file", "my_nets:good", weights=Path("nobody.pt"))


def test_the_least_window_of_a_factory_is_found(factories: Any, bench: Bench) -> None:
    """The convolution spans 21 samples without padding, whatever the strides say."""
    torch.save({"conv.weight": torch.randn(2, 1, 21, 1), "conv.bias": torch.zeros(2),
                "fc.weight": torch.randn(4, 2), "fc.bias": torch.zeros(4)}, "flat.pt")  # fmt: skip
    for window in (20, 13, 1):
        refused(bench, ContractError, f"{window} samples are too short for my_nets:Flat; at least 21",
                "my_nets:Flat", weights=Path("flat.pt"), contract=bench.recontract(window=window))  # fmt: skip
    result = bench.export("my_nets:Flat", weights=Path("flat.pt"), contract=bench.recontract(window=21))
    assert result.lowered.attention.changed == 0
    assert result.warnings == (
        "no spatial-attention block was found: the network exports, but nothing in it will be fused",
    )


def test_a_factory_and_a_contract_that_do_not_fit(factories: Any, bench: Bench) -> None:
    fewer = bench.recontract(labels=["a", "b"])
    refused(bench, ContractError, "it names 2; the network has 4 classes", "my_nets:bare", weights=Path("net.pt"),
            contract=fewer)  # fmt: skip
    more = bench.recontract(channel=contract_dict(Case(modal=4))["channel"])
    refused(bench, CheckpointError, r"net.pt: .*size mismatch for fc.weight", "my_nets:good", weights=Path("net.pt"),
            contract=more)  # fmt: skip


# --- .pt2 -----------------------------------------------------------------------------------------------------


def _program(bench: Bench, name: str, *, batch: Any = None, example: int = 2, module: nn.Module | None = None) -> Path:
    import warnings

    module = module or make_network(bench.case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = None if batch is None else ({0: batch},)
        program = torch.export.export(module, (torch.zeros(example, 1, 32, 3),), dynamic_shapes=shapes)
        torch.export.save(program, bench.folder / name)
    return bench.folder / name


@pytest.mark.parametrize(
    ("batch", "example"),
    [
        (torch.export.Dim("n"), 2),
        (torch.export.Dim("n", min=2, max=16), 4),
        (torch.export.Dim("n", max=1000), 4),
        (None, 1),
    ],
    ids=["free", "2 to 16", "up to 1000", "fixed at 1"],
)
def test_a_program_gives_the_checkpoints_logits_parity(batch: Any, example: int, bench: Bench) -> None:
    path = _program(bench, "good.pt2", batch=batch, example=example)
    refused(bench, UsageError, "good.pt2: a .pt2 archive can run code when it is loaded; add --trust-code", path)
    result = bench.export(path, trust_code=True)
    assert result.source.kind == "torch.export program"
    assert result.lowered.attention.changed == 2
    np.testing.assert_allclose(result.model.golden.logits, bench.export().model.golden.logits, rtol=0, atol=1e-5)


def test_programs_that_can_not_be_used(bench: Bench) -> None:
    fixed = _program(bench, "fixed.pt2", example=5)
    refused(bench, CheckpointError, "batch axis is fixed at 5; a free axis, or 1", fixed, trust_code=True)
    path = _program(bench, "fits.pt2", batch=torch.export.Dim("n"))
    refused(bench, ContractError, r"contract: it says \[batch, 1, 33, 3\]; fits.pt2 takes \[batch, 1, 32, 3\]", path,
            trust_code=True, contract=bench.recontract(window=33))  # fmt: skip
    refused(bench, ContractError, "it names 2; the network has 4 classes", path, trust_code=True,
            contract=bench.recontract(labels=["a", "b"]))  # fmt: skip

    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.mean((1, 2)), x

    pair = _program(bench, "pair.pt2", batch=torch.export.Dim("n"), module=Pair())
    refused(bench, CheckpointError, r"pair.pt2: gives a tuple; one tensor of logits", pair, trust_code=True)


def test_a_program_called_pt(bench: Bench) -> None:
    path = _program(bench, "program.pt2", batch=torch.export.Dim("n")).rename(bench.folder / "program.pt")
    refused(bench, CheckpointError, "is a torch.export program; a state_dict; rename it to .pt2", path)
