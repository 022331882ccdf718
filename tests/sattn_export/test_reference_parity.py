"""The reference network over its whole range of shapes: the written file gives what the torch module gives."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from sattn_edge.attention import FUNCTION_NAMES
from tests.sattn_export.helpers_export import (
    Case,
    draw_windows,
    make_bench,
    make_contract,
    make_network,
    normalise,
    onnx_logits,
    relative,
    torch_logits,
)

pytestmark = pytest.mark.torch

TOLERANCE = 1e-5  # of the logit scale; the product itself allows 1e-4

AXES: dict[str, list[object]] = {
    "pooling": ["mean", "max", "mean+max"],
    "attention": [(1, 1), (3, 1), (5, 1), (7, 1), (3, 3)],
    "depth": [1, 2, 3, 4, 5],
    "kernel": [3, 4, 5, 6, 7],
    "stride": [1, 2, 3],
    "modal": [1, 2, 6, 12],
    "window": [37, 64, 128, 200],
}


def _fits(row: dict[str, object]) -> bool:
    return int(row["stride"]) ** int(row["depth"]) <= int(row["window"])  # type: ignore[call-overload]


def _pairs(row: dict[str, object]) -> set[tuple[tuple[str, object], tuple[str, object]]]:
    return set(itertools.combinations(row.items(), 2))


def draw_cases(count: int, seed: int) -> list[Case]:
    """Each next case is the one of many random ones that covers most pairs of values not seen yet."""
    rng = random.Random(seed)
    seen: set[tuple[tuple[str, object], tuple[str, object]]] = set()
    cases = []
    for _ in range(count):
        tries = [{name: rng.choice(values) for name, values in AXES.items()} for _ in range(300)]
        best = max((row for row in tries if _fits(row)), key=lambda row: len(_pairs(row) - seen))
        seen |= _pairs(best)
        depth = int(best.pop("depth"))  # type: ignore[call-overload]
        widths = tuple(rng.choice([1, 2, 3, 5, 8]) for _ in range(depth))
        cases.append(Case(widths=widths, classes=rng.choice([2, 3, 7]), **best))  # type: ignore[arg-type]
    return cases


CASES = draw_cases(14, seed=3)


def test_the_draw_covers_every_value() -> None:
    for name, values in AXES.items():
        found = {len(c.widths) if name == "depth" else getattr(c, name) for c in CASES}
        assert found == set(values), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_network_parity(case: Case, tmp_path: Path) -> None:
    bench = make_bench(tmp_path, case, seed=7)
    result = bench.export()
    data = bench.output.read_bytes()
    x = draw_windows(case, 9)
    theirs = torch_logits(make_network(case, seed=7), normalise(x, make_contract(case)))
    assert relative(onnx_logits(data, x), theirs) < TOLERANCE
    singly = np.concatenate([onnx_logits(data, x[i : i + 1]) for i in range(len(x))])
    assert relative(singly, theirs) < TOLERANCE

    kt, km = case.attention
    assert len(result.lowered.attention.details) == len(case.widths)
    assert all(d.endswith(f": {case.pooling}, kernel {kt}x{km}") for d in result.lowered.attention.details)
    assert result.lowered.attention.near_misses == ()
    calls = [n.op_type for n in onnx.load_from_string(data).graph.node if n.domain == "sattn_edge"]
    assert calls == [FUNCTION_NAMES[case.pooling]] * len(case.widths)  # type: ignore[index]


def test_a_tolerance_that_can_fail() -> None:
    """The control: one weight changed by a thousandth of itself is seen."""
    import torch

    case = CASES[0]
    network = make_network(case, seed=7)
    x = normalise(draw_windows(case, 9), make_contract(case))
    before = torch_logits(network, x)
    with torch.no_grad():
        network.fc.weight.mul_(1.001)
    assert relative(torch_logits(network, x), before) > TOLERANCE


def test_a_safetensors_file_gives_the_same_graph(tmp_path: Path) -> None:
    import safetensors.torch

    bench = make_bench(tmp_path)
    first = bench.export().model.graph_digest
    safetensors.torch.save_file(make_network(bench.case).state_dict(), tmp_path / "net.safetensors")
    assert bench.export(tmp_path / "net.safetensors").model.graph_digest == first


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_a_wrapped_state_dict_is_unwrapped(key: str, tmp_path: Path) -> None:
    import torch

    from sattn_export.state_dict import read_state_dict

    state = make_network(Case()).state_dict()
    torch.save({key: {f"module.{k}": v.double() for k, v in state.items()}, "epoch": 3}, tmp_path / "w.pth")
    read = read_state_dict(tmp_path / "w.pth")
    assert list(read) == list(state)
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in state.items() if v.is_floating_point())
