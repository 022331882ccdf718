"""Which shortcuts are kept: times are given, and what is kept follows by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sattn_edge.engine import load_engine
from sattn_edge.engine_manifest import Shortcut
from sattn_runtime.tensorrt import shortcuts
from tests.sattn_runtime.tensorrt.helpers_tensorrt import build_one, fake

pytestmark = pytest.mark.usefixtures("store")


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        ({}, Shortcut()),
        ({"pinned": 98.0, "mapped": 98.0}, Shortcut()),  # no more than noise
        ({"pinned": 90.0}, Shortcut("pinned")),
        ({"pinned": 90.0, "mapped": 89.0}, Shortcut("pinned")),  # mapped earns nothing on top
        ({"pinned": 90.0, "mapped": 80.0}, Shortcut("mapped")),
        ({"mapped": 80.0, "pinned_graph": 70.0, "mapped_graph": 60.0}, Shortcut("mapped", graph=True)),
        ({"pinned": 90.0, "pinned_graph": 70.0, "mapped_graph": 75.0}, Shortcut("pinned", graph=True)),
    ],
)
def test_a_shortcut_is_kept_only_where_it_is_faster(path, monkeypatch, clock, times, kept):
    fake(monkeypatch)
    clock(**times)
    built = build_one(path)
    assert built.manifest.shortcut == kept
    assert [row.shortcut for row in built.manifest.shortcuts] == list(shortcuts.SHORTCUTS)
    engine = load_engine(path, "tensorrt", attention="gemm")
    assert engine._executor.shortcut == kept
    assert kept.text in engine.info.device
    engine.close()


@pytest.mark.parametrize(
    ("config", "left_out", "why"),
    [
        ({"cuda_python": ""}, {"pinned, graph", "mapped, graph"}, "pycuda 2026.1 has no CUDA graphs"),
        ({"can_map_host": False}, {"mapped", "mapped, graph"}, "this GPU can't read the host's memory"),
        ({"faults": {"capture": True}}, {"pinned, graph", "mapped, graph"}, "cudaErrorStreamCapture"),
    ],
)
def test_a_shortcut_the_device_does_not_have_is_left_out(path, monkeypatch, clock, config, left_out, why):
    fake(monkeypatch, **config)
    clock(mapped_graph=10.0, pinned=50.0)
    built = build_one(path)
    notes = {f"{r.shortcut.memory}{', graph' * r.shortcut.graph}": r.note for r in built.manifest.shortcuts}
    assert {name for name, note in notes.items() if note} == left_out
    assert all(why in notes[name] for name in left_out)
    assert built.manifest.shortcut == Shortcut("pinned")


def test_a_shortcut_that_gives_other_logits_is_left_out(path, monkeypatch, clock):
    fake(monkeypatch)
    clock(pinned=10.0)
    run = shortcuts.TensorRTEngine.infer

    def spoilt(engine, x):
        return run(engine, x) + np.float32(engine._executor.shortcut.memory == "pinned")

    monkeypatch.setattr(shortcuts.TensorRTEngine, "infer", spoilt)
    built = build_one(path)
    assert [r.note for r in built.manifest.shortcuts if r.shortcut.memory == "pinned"] == ["gives other logits"] * 2
    assert built.manifest.shortcut == Shortcut()
