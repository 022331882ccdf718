"""The fake TensorRT-RTX answers as the real one does, call by call, where the real one is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from sattn_runtime.testing import device, fake_site
from tests.sattn_runtime.testing import helpers_behaviour
from tests.sattn_runtime.testing.helpers_fake_tensorrt import graph

pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Good graphs, and bad ones."""
    folder = tmp_path_factory.mktemp("graphs")

    def save(name: str, data: bytes) -> None:
        (folder / f"{name}.onnx").write_bytes(data)

    good = graph("reference")
    save("good", good.SerializeToString())
    save("free", graph(free=True).SerializeToString())
    save("int8", graph("gemm", "int8").SerializeToString())
    save("empty", b"")
    save("text", b"hello " * 40)
    save("truncated", good.SerializeToString()[:500])
    at = next(i for i, node in enumerate(good.graph.node) if node.op_type == "Conv")
    for name, change in (
        ("operator", lambda node: setattr(node, "op_type", "Twist")),
        ("domain", lambda node: setattr(node, "domain", "some.where")),
        ("unsupported", lambda node: setattr(node, "op_type", "Det")),
        ("dangling", lambda node: node.input.__setitem__(0, "nowhere")),
    ):
        model = graph("reference")
        change(model.graph.node[at])
        save(name, model.SerializeToString())
    model = graph("reference")
    model.opset_import[0].version = 99
    save("opset", model.SerializeToString())
    model = graph("reference", "int8")
    point = next(t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and not t.dims)
    point.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), point.name))
    save("asymmetric", model.SerializeToString())
    return folder


def answers(folder: Path, *, fake: bool) -> dict[str, object]:
    environment = dict(os.environ)
    if fake:
        environment["PYTHONPATH"] = str(fake_site())
        # Neither needs a GPU for this, and the real one may have none.
        environment[device.VARIABLE] = json.dumps({"visible": False})
    command = [sys.executable, helpers_behaviour.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def test_answers_are_those_of_the_real_one(folder):
    real, fake = answers(folder, fake=False), answers(folder, fake=True)
    assert len(real) > 50
    assert list(real) == list(fake)
    different = {name for name in real if real[name] != fake[name]}
    # Without a GPU the real one logs that it has none when it is given such a cache.
    assert different <= {"timing cache of garbage"}
    assert real["timing cache of garbage"][0] == fake["timing cache of garbage"][0]
    # What would make the comparison hollow: nothing built, or nothing refused.
    assert [real[name][0] for name in ("build", "build ranged", "build garbage")] == [True, True, False]
